"""Out of memory: which errors mean it, and the steps down that keep a clip coming.

Only the stage that failed is run again; each step is warned of and noted in the clip. Techniques stay applied, since
the next clip of the same size would fail in the same place.
"""

from __future__ import annotations

import gc
import traceback
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from svdkit.errors import OutOfMemoryError, SvdkitWarning
from svdkit.generate.loop import execution_device, is_guided
from svdkit.pipeline import active_techniques, apply_technique
from svdkit.pipeline.device import is_out_of_memory

if TYPE_CHECKING:
    from svdkit.generate.loop import Resolved

T = TypeVar("T")

_SMALLER_CHUNK = "smaller decode chunk"
_STEPS = {
    "encode": ("offload",),
    "denoise": ("two-pass-guidance", "forward-chunking", "offload", "group-offload"),
    "decode": (_SMALLER_CHUNK, "offload"),
}


def run_stage(
    pipe: Any, stage: str, attempt: Callable[[Any], T], settings: Resolved, *, step_down: bool, notes: list[str]
) -> tuple[T, Resolved]:
    """Run ``attempt(settings)`` until it fits; note each step down; return its result and the settings that fitted."""
    import torch

    while True:
        try:
            return attempt(settings), settings
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # The traceback holds the stage's tensors, and a notebook keeps the last traceback.
            traceback.clear_frames(error.__traceback__)
            step = _next_step(pipe, stage, settings) if step_down else None
            if step is None:
                size = f"height={settings.height}, width={settings.width}, num_frames={settings.num_frames}"
                size += f", decode_chunk_size={settings.decode_chunk_size}" if stage == "decode" else ""
                taken = f" after {'; '.join(notes)}" if notes else ""
                allow = "" if step_down else "allow smaller steps with step_down=True, "
                raise OutOfMemoryError(
                    f"{stage} ran out of memory at {size}{taken}; {allow}make a smaller or shorter clip, load with "
                    "memory='sequential' or dtype='fp8', or close what else uses the device"
                ) from error
        gc.collect()
        torch.cuda.empty_cache()
        if step == _SMALLER_CHUNK:
            chunk = settings.decode_chunk_size
            settings = settings.replace(decode_chunk_size=chunk // 2)
            done = f"decoding again with decode_chunk_size={chunk // 2} instead of {chunk}"
        else:
            apply_technique(pipe, step)
            done = f"applied {step!r} and ran {stage} again; it stays on until undo_technique(pipe, {step!r})"
        notes.append(f"{stage} ran out of memory: {done}")
        warnings.warn(notes[-1], SvdkitWarning, stacklevel=2)


def _next_step(pipe: Any, stage: str, settings: Resolved) -> str | None:
    """Find the first step of a stage that would change anything here."""
    active = {*active_techniques(pipe)}
    compiled = hasattr(pipe, "svdkit") and pipe.svdkit.settings.compile
    # Offloading moves weights off a GPU; a plan that does more is not replaced by one that does less.
    offloaded = active & {"group-offload", "sequential"}
    can_offload = execution_device(pipe).type == "cuda" and not compiled and not offloaded
    possible = {_SMALLER_CHUNK: settings.decode_chunk_size > 1, "two-pass-guidance": is_guided(settings)}
    possible |= {"forward-chunking": True, "offload": can_offload, "group-offload": can_offload}
    return next((step for step in _STEPS[stage] if possible[step] and step not in active), None)
