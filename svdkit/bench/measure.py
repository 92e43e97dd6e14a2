"""Where a clip's seconds go: stages watched, and timed by stage.

Memory (``svdkit.bench.memory``) is a pass of its own: counting bytes would slow what is timed.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from svdkit.clip import Clip
from svdkit.errors import PipelineError
from svdkit.generate.loop import execution_device, synchronize
from svdkit.units import format_count, format_seconds

TIMED_STAGES = ("image_encoder", "vae_encode", "unet", "scheduler", "vae_decode", "postprocess", "export")
"""What is told apart, in the order of a run."""


class _Part(NamedTuple):
    """A method that is watched."""

    owner: str  # of the pipeline; "" is the pipeline itself
    method: str
    stage: str | None  # None: that of the network that ran last
    then: str | None  # the stage of what follows, until the next part
    is_call: bool = True  # whether it is listed among the calls


# diffusers' own call and svdkit's stages both go through these. `_compiled_call_impl` is what calling a torch module
# runs first, outside its hooks, its offloading and its compiled code, none of which should see a function of ours:
# https://github.com/pytorch/pytorch/blob/v2.6.0/torch/nn/modules/module.py#L1735
_PARTS = (
    _Part("", "_encode_image", "image_encoder", None),
    _Part("video_processor", "preprocess", "vae_encode", "vae_encode", is_call=False),  # then: noise, upcasting
    _Part("", "_encode_vae_image", "vae_encode", "vae_encode"),
    _Part("scheduler", "set_timesteps", "scheduler", None, is_call=False),
    _Part("", "prepare_latents", "scheduler", None, is_call=False),
    _Part("scheduler", "scale_model_input", "scheduler", "scheduler", is_call=False),
    _Part("unet", "_compiled_call_impl", "unet", "scheduler"),  # then: guidance
    _Part("scheduler", "step", "scheduler", None),
    _Part("", "decode_latents", "postprocess", "postprocess", is_call=False),
    _Part("vae", "decode", "vae_decode", None),
    _Part("video_processor", "postprocess_video", "postprocess", "postprocess"),  # then: 8-bit numbers, the copy
    _Part("", "maybe_free_model_hooks", None, None, is_call=False),  # an offloaded network leaves the device
)
_NETWORKS = {"image_encoder", "vae_encode", "unet", "vae_decode"}
_MISSING = object()


class _Watch:
    """Follows which stage is running."""

    def __init__(self, on_stage: Callable[[str | None], object], on_call: Callable[[str, str], object]) -> None:
        self.on_stage, self.on_call = on_stage, on_call
        self.running: list[str | None] = []
        self.between: str | None = None
        self.network: str | None = None

    def wrap(self, part: _Part, inner: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(inner)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._begin(part)
            try:
                return inner(*args, **kwargs)
            finally:
                self._end(part)

        return watched

    def _begin(self, part: _Part) -> None:
        stage = part.stage or self.network
        self.running.append(stage)
        self.network = stage if stage in _NETWORKS else self.network
        self.on_stage(stage)
        if part.is_call:
            self.on_call(str(stage), "begins")

    def _end(self, part: _Part) -> None:
        stage = self.running.pop()
        if not self.running:
            self.between = part.then
        self.on_stage(self.running[-1] if self.running else self.between)
        if part.is_call:
            self.on_call(str(stage), "ends")


@contextmanager
def watch(
    pipe: Any, on_stage: Callable[[str | None], object], on_call: Callable[[str, str], object] = lambda *_: None
) -> Iterator[None]:
    """Tell which stage begins, and where single calls (a denoising step, a decode chunk) begin and end."""
    if "decode_latents" in vars(pipe) and hasattr(pipe.decode_latents, "svdkit_watches"):
        raise PipelineError(
            "this pipeline is being measured already, and two measurements would time each other: end the block around "
            "this one first"
        )
    following = _Watch(on_stage, on_call)
    with ExitStack() as undo:
        for part in _PARTS:
            owner = getattr(pipe, part.owner) if part.owner else pipe
            inner = getattr(owner, part.method) or owner._call_impl  # noqa: SLF001 - a module that is not compiled
            undo.callback(_put, owner, part.method, vars(owner).get(part.method, _MISSING))
            _put(owner, part.method, following.wrap(part, inner))
        pipe.decode_latents.svdkit_watches = True
        undo.callback(setattr, Clip, "save", Clip.save)
        Clip.save = following.wrap(_Part("", "save", "export", None), Clip.save)  # type: ignore[method-assign]
        yield


def _put(owner: Any, name: str, value: Any) -> None:
    """Set or take away an attribute, past what torch and diffusers do when theirs are set."""
    if value is _MISSING:
        object.__delattr__(owner, name)
    else:
        object.__setattr__(owner, name, value)


@dataclass
class Measurement:
    """Seconds of what ran in a block, complete when the block has ended.

    Attributes:
        seconds: By stage, in the order of a run, with "unattributed" and "total", their sum.
        calls: Stage and seconds of each denoising step, decode chunk and other single call, in the order of the run.
    """

    seconds: dict[str, float] = field(default_factory=dict)
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
    timer = _Timer(execution_device(pipe))
    result = Measurement()
    with watch(pipe, timer.on_stage, timer.on_call):
        synchronize(timer.device)
        timer.on_stage(None)
        try:
            yield result
        finally:
            timer.on_stage(None)
            result.seconds, result.calls = timer.read()


class _Timer:
    """Notes when stages begin, and adds up afterwards."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.stages: list[str | None] = []
        self.marks: list[Any] = []
        self.open: list[int] = []
        self.calls: list[tuple[str, int, int]] = []

    def on_stage(self, stage: str | None) -> None:
        self.stages.append(stage)
        self.marks.append(self._mark())

    def on_call(self, stage: str, what: str) -> None:
        here = len(self.marks) - 1
        if what == "begins":
            self.open.append(here)
        else:
            self.calls.append((stage, self.open.pop(), here))

    def read(self) -> tuple[dict[str, float], list[tuple[str, float]]]:
        synchronize(self.device)
        lengths = [self._between(first, second) for first, second in itertools.pairwise(self.marks)]
        found: dict[str | None, float] = {}
        for stage, length in zip(self.stages, lengths, strict=False):
            found[stage] = found.get(stage, 0.0) + length
        seconds = {stage: found[stage] for stage in TIMED_STAGES if stage in found}
        seconds |= {"unattributed": found.get(None, 0.0), "total": sum(lengths)}
        return seconds, [(stage, sum(lengths[first:last])) for stage, first, last in self.calls]

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            synchronize(self.device)
            return time.perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _between(self, first: Any, second: Any) -> float:
        return float(first.elapsed_time(second) / 1000 if self.device.type == "cuda" else second - first)
