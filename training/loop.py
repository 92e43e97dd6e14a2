"""The loop both networks are trained with: AdamW, warm-up then cosine, a moving average, checkpoints, a log."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from training.checkpoint import Tensors, load_checkpoint, save_checkpoint

WARM_UP_STEPS = 200
AVERAGE_DECAY = 0.999
REPORT_EVERY = 50
SAVE_EVERY = 100
SLOW = 0.03


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train one network.

    Attributes:
        name: file name of its checkpoint and log.
        steps: optimiser steps in all.
        learning_rate: AdamW's highest learning rate.
        seed: step k draws its noise from seed + k, so that a resumed run repeats an uninterrupted one.
    """

    name: str
    steps: int
    learning_rate: float
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate at `step`: linear warm-up, then cosine to a fiftieth."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * min(1.0, (step + 1) / WARM_UP_STEPS) * (0.02 + 0.98 * cosine)


def train(
    model: torch.nn.Module,
    loss_at: Callable[[int], torch.Tensor],
    *,
    plan: Plan,
    folder: Path,
    slow: tuple[str, ...] = (),
    only_load: bool = False,
) -> torch.nn.Module:
    """Train `model` on `loss_at(step)` until `plan.steps`, resuming from `folder`; return it with averaged weights.

    Parameters whose names contain one of `slow` learn at `SLOW` times the rate. With `only_load` nothing is trained
    and no step need be left.
    """
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    parameters = [value for _, value in named]
    is_slow = [any(word in name for word in slow) for name, _ in named]
    groups = [
        {"params": [value for value, late in zip(parameters, is_slow, strict=True) if late == which], "scale": scale}
        for which, scale in ((False, 1.0), (True, SLOW))
    ]
    optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    path = folder / f"{plan.name}.safetensors"
    first = load_checkpoint(path, model=model, average=average, optimizer=optimizer)
    started, running = time.perf_counter(), 0.0
    for step in range(first, first if only_load else plan.steps):
        torch.manual_seed(plan.seed + step)
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step) * group["scale"]
        loss = loss_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        _update(average, model, step)
        running += loss.item()
        if (step + 1) % REPORT_EVERY == 0:
            seconds = (time.perf_counter() - started) / (step + 1 - first)
            _report(folder, plan, step=step + 1, loss=running / REPORT_EVERY, seconds=seconds)
            running = 0.0
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == plan.steps:
            save_checkpoint(path, step=step + 1, model=model, average=average, optimizer=optimizer)
    model.load_state_dict(average)
    return model.eval()


def _update(average: Tensors, model: torch.nn.Module, step: int) -> None:
    decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))  # a young average follows quickly
    with torch.no_grad():
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 1 - decay)


def _report(folder: Path, plan: Plan, *, step: int, loss: float, seconds: float) -> None:
    row = {"step": step, "loss": round(loss, 5), "seconds_per_step": round(seconds, 3)}
    with (folder / f"{plan.name}.log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(row) + "\n")
    print(f"{plan.name} {step}/{plan.steps}  loss {loss:.4f}  {seconds:.2f} s a step", flush=True)


def keep_conv3d_in_float32(model: torch.nn.Module) -> None:
    """Take the 3-D convolutions out of autocast.

    On CPUs with AVX-512 the bfloat16 weight gradient of a (3, 1, 1) convolution over two frames is NaN
    (torch 2.13.0, oneDNN 3.12); everything else trains well in bfloat16 and a third faster.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.forward = partial(_float32_forward, module)


def _float32_forward(module: torch.nn.Conv3d, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return torch.nn.Conv3d.forward(module, x.float())
