"""Out of memory: which errors mean it, and the steps down that keep a clip coming.

::

    encode    offload
    denoise   two-pass guidance → forward chunking → offload → group offload
    decode    half the chunk, down to one frame → offload

Only the stage that failed is run again. A step is never silent: it is warned of and noted in the clip's provenance.
Techniques stay applied to the pipeline, since the next clip of the same size would fail in the same place.
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

if TYPE_CHECKING:
    from svdkit.generate.outputs import Resolved

T = TypeVar("T")

# What other allocators than CUDA's say; they raise a plain RuntimeError.
_SIGNS = (
    "cuda error: out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "mps backend out of memory",
    "invalid buffer size",  # MPS, for a single tensor that is larger than Metal allows
    "defaultcpuallocator: can't allocate memory",
    "defaultcpuallocator: not enough memory",
)
_SMALLER_CHUNK = "smaller decode chunk"
_PLANS = ("offload", "group-offload", "sequential")
_STEPS = {
    "encode": ("offload",),
    "denoise": ("two-pass-guidance", "forward-chunking", "offload", "group-offload"),
    "decode": (_SMALLER_CHUNK, "offload"),
}


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, on CUDA, Apple's MPS or the CPU.

    Args:
        error: Any exception.

    Returns:
        True for torch's and Python's own classes and for the plain errors known to mean it.

    Example:
        >>> is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 18.0 GB)"))
        True
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


class MemoryLadder:
    """Runs the stages of one clip, and steps down when memory runs out.

    Args:
        pipe: The pipeline.
        settings: Resolved.
        step_down: Whether stepping down is allowed.

    Attributes:
        settings: The settings now; their ``decode_chunk_size`` shrinks.
        notes: One sentence for each step taken.

    Example:
        >>> ladder = MemoryLadder(pipe, settings, step_down=True)  # doctest: +SKIP
        >>> clip = ladder.run("decode", lambda settings: decode(pipe, denoised, settings))  # doctest: +SKIP
    """

    def __init__(self, pipe: Any, settings: Resolved, *, step_down: bool) -> None:
        self.settings = settings
        self.notes: list[str] = []
        self._pipe = pipe
        self._step_down = step_down

    def run(self, stage: str, attempt: Callable[[Resolved], T]) -> T:
        """Try a stage until it fits.

        Args:
            stage: ``"encode"``, ``"denoise"`` or ``"decode"``.
            attempt: Runs the stage with the settings given to it.

        Returns:
            What ``attempt`` returns.

        Raises:
            OutOfMemoryError: when no step is left, or stepping down is not allowed.
        """
        while True:
            try:
                return attempt(self.settings)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                # The traceback holds the stage's tensors, and a notebook keeps the last traceback.
                traceback.clear_frames(error.__traceback__)
                step = self._next_step(stage) if self._step_down else None
                if step is None:
                    raise OutOfMemoryError(self._advice(stage)) from error
            free_memory(self._pipe)
            self._take(stage, step)

    def _next_step(self, stage: str) -> str | None:
        return next((step for step in _STEPS[stage] if self._is_possible(step)), None)

    def _is_possible(self, step: str) -> bool:
        """Say whether a step would change anything here."""
        if step == _SMALLER_CHUNK:
            return bool(self.settings.decode_chunk_size > 1)
        active = active_techniques(self._pipe)
        if step in active:
            return False
        if step == "two-pass-guidance":
            return is_guided(self.settings)
        if step == "forward-chunking":
            return True
        # Offloading moves weights off a GPU; a plan that does more is not replaced by one that does less.
        report = getattr(self._pipe, "svdkit", None)
        compiled = report is not None and report.settings.compile
        stronger = _PLANS[_PLANS.index(step) :]
        return not compiled and execution_device(self._pipe).type == "cuda" and not {*stronger} & {*active}

    def _take(self, stage: str, step: str) -> None:
        if step == _SMALLER_CHUNK:
            chunk = self.settings.decode_chunk_size
            self.settings = self.settings.replace(decode_chunk_size=chunk // 2)
            done = f"decoding again with decode_chunk_size={chunk // 2} instead of {chunk}"
        else:
            apply_technique(self._pipe, step)
            done = f"applied {step!r} and ran {stage} again; it stays on until undo_technique(pipe, {step!r})"
        note = f"{stage} ran out of memory: {done}"
        self.notes.append(note)
        warnings.warn(note, SvdkitWarning, stacklevel=2)

    def _advice(self, stage: str) -> str:
        now = self.settings
        size = f"height={now.height}, width={now.width}, num_frames={now.num_frames}"
        if stage == "decode":
            size += f", decode_chunk_size={now.decode_chunk_size}"
        taken = f" after {'; '.join(self.notes)}" if self.notes else ""
        allow = "" if self._step_down else "allow smaller steps with step_down=True, "
        return (
            f"{stage} ran out of memory at {size}{taken}; {allow}make a smaller or shorter clip, load with "
            "memory='sequential' or dtype='fp8', or close what else uses the device"
        )


def free_memory(pipe: Any) -> None:
    """Give back what a failed attempt held: offloaded networks, Python's garbage, the allocator's cache.

    Args:
        pipe: The pipeline.

    Example:
        >>> free_memory(pipe)  # doctest: +SKIP
    """
    import torch

    pipe.maybe_free_model_hooks()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
