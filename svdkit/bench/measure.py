"""Where a clip's seconds go: stages watched, and timed by stage.

Memory (``svdkit.bench.memory``) is a pass of its own: counting bytes would slow what is timed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from svdkit.clip import Clip
from svdkit.errors import PipelineError
from svdkit.generate.loop import execution_device, synchronize
from svdkit.units import format_count, format_seconds

TIMED_STAGES = ("image_encoder", "vae_encode", "unet", "scheduler", "vae_decode", "postprocess", "export")
"""What is told apart, in the order of a run."""
Seconds = dict[str, float]
"""By stage, with "unattributed" and "total"."""


# Owner ("" is the pipeline), method, stage (None: that of the network that ran last), the stage of what follows until
# the next part, whether it is listed among the calls. diffusers' own call and svdkit's stages both go through these.
# `_compiled_call_impl` is what calling a torch module runs first, outside its hooks, its offloading and its compiled
# code, none of which should see a function of ours:
# https://github.com/pytorch/pytorch/blob/v2.6.0/torch/nn/modules/module.py#L1735
_PARTS: tuple[tuple[str, str, str | None, str | None, bool], ...] = (
    ("", "_encode_image", "image_encoder", None, True),
    ("video_processor", "preprocess", "vae_encode", "vae_encode", False),  # what follows: noise, upcasting
    ("", "_encode_vae_image", "vae_encode", "vae_encode", True),
    ("scheduler", "set_timesteps", "scheduler", None, False),
    ("", "prepare_latents", "scheduler", None, False),
    ("scheduler", "scale_model_input", "scheduler", "scheduler", False),
    ("unet", "_compiled_call_impl", "unet", "scheduler", True),  # what follows: guidance
    ("scheduler", "step", "scheduler", None, True),
    ("", "decode_latents", "postprocess", "postprocess", False),
    ("vae", "decode", "vae_decode", None, True),
    ("video_processor", "postprocess_video", "postprocess", "postprocess", True),  # what follows: 8-bit numbers, a copy
    ("", "maybe_free_model_hooks", None, None, False),  # an offloaded network leaves the device
)
_NETWORKS = {"image_encoder", "vae_encode", "unet", "vae_decode"}


@contextmanager
def watch(
    pipe: Any, on_stage: Callable[[str | None], object], on_call: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Tell which stage begins, and then whether with a single call: a denoising step, a decode chunk."""
    if hasattr(pipe.decode_latents, "svdkit_watches"):
        raise PipelineError(
            "this pipeline is being measured already, and two measurements would time each other: end the block around "
            "this one first"
        )
    running: list[str | None] = []
    network: str | None = None

    @contextmanager
    def inside(own: str | None, then: str | None, *, is_call: bool) -> Iterator[None]:
        nonlocal network
        stage = own or network
        network = stage if stage in _NETWORKS else network
        running.append(stage)
        on_stage(stage)
        if is_call:
            on_call()
        try:
            yield
        finally:
            running.pop()
            on_stage(running[-1] if running else then)

    with ExitStack() as undo:
        for part, method, stage, then, is_call in _PARTS:
            owner = getattr(pipe, part) if part else pipe
            own = vars(owner)  # past what torch and diffusers do when attributes of theirs are set
            undo.callback(own.update, {method: own[method]} if method in own else {})
            undo.callback(own.pop, method, None)
            call = getattr(owner, method) or owner._call_impl  # noqa: SLF001 - a module that is not compiled
            own[method] = inside(stage, then, is_call=is_call)(call)
        pipe.decode_latents.svdkit_watches = True
        undo.callback(setattr, Clip, "save", Clip.save)
        Clip.save = inside("export", None, is_call=True)(Clip.save)  # type: ignore[method-assign]
        yield


@dataclass
class Measurement:
    """Seconds of what ran in a block, complete when the block has ended.

    Attributes:
        seconds: By stage, in the order of a run, with "unattributed" and "total", their sum.
        calls: Stage and seconds of each denoising step, decode chunk and other single call, in the order of the run.
    """

    seconds: Seconds = field(default_factory=dict)
    calls: list[tuple[str, float]] = field(default_factory=list)

    @property
    def total(self) -> float:
        """Seconds from the begin to the end of the block."""
        return self.seconds.get("total", 0.0)

    @property
    def unattributed(self) -> float:
        """Seconds of the block in which none of the stages ran."""
        return self.seconds.get("unattributed", 0.0)

    def __str__(self) -> str:
        lines = []
        for stage, seconds in self.seconds.items():
            count = sum(call == stage for call, _ in self.calls)
            calls = f"  {format_count(count, 'call')}" if count else ""
            lines.append(f"{stage:<14}{format_seconds(seconds):>12}{seconds / (self.total or 1):>8.1%}{calls}")
        return "\n".join(lines)


@contextmanager
def measure(pipe: Any) -> Iterator[Measurement]:
    """Time the stages of what runs in the block; results are those of a block without it, to the bit.

    On a CUDA GPU events are put between the stages and read after one synchronisation at the end, so that the GPU is
    not kept waiting; Apple's GPU is synchronised between stages; on a CPU a clock is read.

    Args:
        pipe: A ``StableVideoDiffusionPipeline``. Inside the block call it, or ``generate`` with it; ``Clip.save`` is
            "export". The pipeline is as before after the block, also after an error.

    Returns:
        What the block took, filled when it ends; after an error too, up to it.

    Raises:
        PipelineError: The pipeline is being measured already.

    Example:
        >>> with measure(pipe) as m:
        ...     saved = svdkit.generate(pipe, "rocket").save("rocket.mp4")
        >>> print(m)
        image_encoder ... 1 call
        ...
    """
    device = execution_device(pipe)
    result = Measurement()
    stages: list[str | None] = []
    marks: list[Any] = []
    calls: list[int] = []

    def on_stage(stage: str | None) -> None:
        stages.append(stage)
        marks.append(_mark(device))

    with watch(pipe, on_stage, lambda: calls.append(len(stages) - 1)):
        synchronize(device)
        on_stage(None)
        try:
            yield result
        finally:
            on_stage(None)
            synchronize(device)
            is_cuda = device.type == "cuda"
            pairs = itertools.pairwise(marks)
            lengths = [first.elapsed_time(last) / 1000 if is_cuda else last - first for first, last in pairs]
            found: dict[str | None, float] = {}
            for stage, length in zip(stages, lengths, strict=False):
                found[stage] = found.get(stage, 0.0) + length
            result.seconds = {stage: found[stage] for stage in TIMED_STAGES if stage in found}
            result.seconds |= {"unattributed": found.get(None, 0.0), "total": sum(lengths)}
            result.calls = [(str(stages[index]), lengths[index]) for index in calls]


def _mark(device: Any) -> Any:
    if device.type != "cuda":
        synchronize(device)
        return time.perf_counter()
    import torch

    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event
