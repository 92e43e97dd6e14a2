"""Training state as safetensors: weights, their moving average, Adam's moments and the step. Nothing is pickled."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def save_checkpoint(
    path: Path, *, step: int, model: torch.nn.Module, average: Tensors, optimizer: torch.optim.Optimizer
) -> None:
    """Write everything a resumed run needs, atomically."""
    tensors: Tensors = {"step": torch.tensor(step)}
    tensors |= {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, partial)
    partial.replace(path)


def load_checkpoint(path: Path, *, model: torch.nn.Module, average: Tensors, optimizer: torch.optim.Optimizer) -> int:
    """Restore what `save_checkpoint` wrote, in place; return the step, or 0 when there is no checkpoint."""
    if not path.exists():
        return 0
    tensors = load_file(path)
    model.load_state_dict(part(tensors, "model."))
    for name, value in part(tensors, "average.").items():
        average[name].copy_(value)
    state: dict[int, Tensors] = {}
    for name, value in part(tensors, "adam.").items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(tensors["step"])


def part(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
