"""The loop every network is trained with: warm-up then cosine, a moving average, checkpoints as safetensors, a log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WARM_UP_STEPS = 100
AVERAGE_DECAY = 0.998
REPORT_EVERY = 100
SAVE_EVERY = 200

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train one network.

    Attributes:
        name: file name of its checkpoint and log.
        steps: optimiser steps in all.
        learning_rate: AdamW's highest learning rate.
        muon_rate: Muon's, for the parameters that `train` is told to give it.
        seed: step k draws its noise from seed + k, so that a resumed run repeats an uninterrupted one.
    """

    name: str
    steps: int
    learning_rate: float
    muon_rate: float = 0.0
    seed: int = 0

    def share(self, step: int) -> float:
        """Share of the highest learning rate at `step`: linear warm-up, flat for a half, then down to a fiftieth."""
        left = 1 - step / self.steps
        return min(1.0, (step + 1) / WARM_UP_STEPS) * min(1.0, max(0.02, 2 * left))


class Muon(torch.optim.Optimizer):
    """Momentum whose every matrix is replaced by the nearest orthogonal one (Jordan et al., 2024).

    Kernels are matrices of (outputs, all the rest). On small networks it needs some third of AdamW's steps.
    https://kellerjordan.github.io/posts/muon/
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], *, lr: float) -> None:
        """`lr` is the spectral size of a step."""
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Move every parameter that has a gradient; those of one shape at once, which is faster."""
        del closure
        shapes: dict[tuple[int, int], list[torch.nn.Parameter]] = {}
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                shapes.setdefault((len(parameter), parameter[0].numel()), []).append(parameter)
        rate = self.param_groups[0]["lr"]
        for (rows, columns), parameters in shapes.items():
            momenta = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in parameters]
            for parameter, momentum in zip(parameters, momenta, strict=True):
                momentum.mul_(0.95).add_(parameter.grad)
            ahead = [p.grad.add(m, alpha=0.95).reshape(rows, columns) for p, m in zip(parameters, momenta, strict=True)]
            for parameter, update in zip(parameters, orthogonal(torch.stack(ahead)), strict=True):
                parameter.mul_(1 - 0.03 * rate).add_(update.view_as(parameter), alpha=-rate)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """The nearly orthogonal matrices nearest to `matrices` (n, rows, columns), by Muon's Newton-Schulz steps."""
    x, turned = matrices.bfloat16(), matrices.shape[1] > matrices.shape[2]
    x = x / (matrices.flatten(1).norm(dim=1)[:, None, None].bfloat16() + 1e-7)
    x = x.transpose(1, 2) if turned else x
    for _ in range(5):
        a = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    x = x.transpose(1, 2) if turned else x
    return x.float() * max(1, matrices.shape[1] / matrices.shape[2]) ** 0.5


def train(
    model: torch.nn.Module,
    loss_at: Callable[[int], torch.Tensor],
    *,
    plan: Plan,
    folder: Path,
    muon: Callable[[str, torch.Tensor], bool] = lambda _name, _value: False,
    only_load: bool = False,
) -> None:
    """Train `model` on `loss_at(step)` until `plan.steps`, resuming from `folder`; leave it with averaged weights.

    Parameters for which `muon(name, value)` is true go to Muon, the others to AdamW. With `only_load` nothing is
    trained, and the newest checkpoint serves.
    """
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    others = [value for name, value in named if not muon(name, value)]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=1e-3)]
    if len(others) < len(named):
        optimizers.append(Muon([value for name, value in named if muon(name, value)], lr=0))
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    path = folder / f"{plan.name}.safetensors"
    first = _load(path, model, average, optimizers)
    started = time.perf_counter()
    losses: list[float] = []
    for step in range(first, first if only_load else plan.steps):
        torch.manual_seed(plan.seed + step)
        for optimizer, rate in zip(optimizers, (plan.learning_rate, plan.muon_rate), strict=False):
            optimizer.param_groups[0]["lr"] = rate * plan.share(step)
        loss = loss_at(step)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        _follow(average, model, step)
        losses = [*losses[1 - REPORT_EVERY :], loss.item()]
        if (step + 1) % REPORT_EVERY == 0:
            seconds = (time.perf_counter() - started) / (step + 1 - first)
            _report(folder, plan, step=step + 1, loss=sum(losses) / len(losses), seconds=seconds)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == plan.steps:
            _save(path, step + 1, model, average, optimizers)
    model.load_state_dict(average)
    model.eval()


def _follow(average: Tensors, model: torch.nn.Module, step: int) -> None:
    decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))  # a young average follows quickly
    with torch.no_grad():
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 1 - decay)


def _report(folder: Path, plan: Plan, *, step: int, loss: float, seconds: float) -> None:
    row = {"network": plan.name, "step": step, "loss": round(loss, 5), "seconds_per_step": round(seconds, 3)}
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(row) + "\n")
    print(f"{plan.name} {step}/{plan.steps}  loss {loss:.4f}  {seconds:.2f} s a step", flush=True)


def _save(
    path: Path, step: int, model: torch.nn.Module, average: Tensors, optimizers: list[torch.optim.Optimizer]
) -> None:
    """Write everything a resumed run needs, atomically: weights, average, both optimisers' states, the step."""
    tensors: Tensors = {"step": torch.tensor(step)}
    tensors |= {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{index}.{name}": value for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, partial)
    partial.replace(path)


def _load(path: Path, model: torch.nn.Module, average: Tensors, optimizers: list[torch.optim.Optimizer]) -> int:
    """Restore what `_save` wrote, in place; return the step, or 0 when there is no checkpoint."""
    if not path.exists():
        return 0
    tensors = load_file(path)
    model.load_state_dict(_part(tensors, "model."))
    for name, value in _part(tensors, "average.").items():
        average[name].copy_(value)
    for number, optimizer in enumerate(optimizers):
        state: dict[int, Tensors] = {}
        for name, value in _part(tensors, f"optimizer.{number}.").items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(tensors["step"])


def _part(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
