"""Which part of the pipeline is running: watched from outside, without a change to its code or its results.

A part is called through a function of ours that calls the part; it is put back when the block ends. A moment belongs to
one stage. A call inside another takes its time from the outer one (``vae.decode`` from ``decode_latents``), and what
runs between two calls belongs to the stage that it prepares or finishes: guidance, between the UNet and the scheduler's
step, to ``scheduler``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from svdkit.clip import Clip
from svdkit.errors import PipelineError

STAGES = ("image_encoder", "vae_encode", "unet", "scheduler", "vae_decode", "postprocess", "export")
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
    """Tell which stage begins, and where single calls (a denoising step, a decode chunk) begin and end.

    Args:
        pipe: A ``StableVideoDiffusionPipeline``; used as ever inside the block: by calling it, or with ``generate``.
        on_stage: Called with the stage that begins, one of ``STAGES``, or None.
        on_call: Called with ``(stage, "begins")`` right after a call has begun, ``(stage, "ends")`` after it has ended.

    Raises:
        PipelineError: The pipeline is being watched already.

    Example:
        >>> with watch(pipe, print):  # doctest: +SKIP
        ...     pipe(photo, decode_chunk_size=5)
    """
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
