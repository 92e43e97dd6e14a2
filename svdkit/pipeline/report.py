"""What `load` did: the settings as resolved, the model, and why each was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from svdkit.models import ModelInfo
    from svdkit.settings import LoadSettings


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What was loaded, and why so; it is at `pipe.svdkit`.

    Attributes:
        settings: as resolved: nothing is "auto". A folder is named, not given as a path, so that a record of it tells
            nothing about the machine; applying or undoing a technique changes them.
        model: catalogue entry.
        revision: commit of the hub, or a hash of the weight files; "seed 0" for random weights.
        weights: "trained" or "random".
        reasons: sentences: what was chosen and why.
        load_seconds: from call to return, download included.
        decode_chunk_size: frames to decode at a time that are expected to fit, at most 5.

    Example:
        >>> print(svdkit.load("micro").svdkit)
        micro (trained weights, revision 4f0c2d9e81ab) loaded in 1.2 s
        - device: cpu, because there is no CUDA GPU and no Apple GPU
    """

    settings: LoadSettings
    model: ModelInfo
    revision: str
    weights: str
    reasons: tuple[str, ...]
    load_seconds: float
    decode_chunk_size: int = 5

    def __str__(self) -> str:
        from svdkit.units import format_seconds

        title = f"{self.model.name} ({self.weights} weights, revision {self.revision})"
        lines = [f"{title} loaded in {format_seconds(self.load_seconds)}", *(f"- {text}" for text in self.reasons)]
        return "\n".join(lines)
