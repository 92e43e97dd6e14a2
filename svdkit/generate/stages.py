"""The three stages of a clip: encode, denoise, decode; the output of each can be kept and handed on.

All random numbers come from one generator on the CPU, so that a seed begins from the same noise on every machine. The
noise on the photo is drawn first, then the latents: ``Encoded`` carries the generator's state over.
"""

from __future__ import annotations

import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from svdkit.clip import Clip, Provenance
from svdkit.environment import machine
from svdkit.errors import Cancelled, SettingsError, SvdkitWarning
from svdkit.generate.loop import (
    Resolved,
    decode_chunk,
    denoise_steps,
    embed_image,
    encode_image,
    execution_device,
    synchronize,
)
from svdkit.generate.progress import Meter, Shown, reporter
from svdkit.pipeline import report_of

if TYPE_CHECKING:
    from svdkit.image import Frame
    from svdkit.settings import ClipSettings


StageKey: TypeAlias = tuple[tuple[str, Any], ...]

_USUAL_CHUNK = 5  # what LoadReport says when memory does not limit the chunk
# Playback speed is in none of these: it only goes into the file.
_ENCODE = ("height", "width", "noise_aug_strength", "seed")
_GUIDANCE = ("min_guidance_scale", "max_guidance_scale")
_DENOISE = (*_ENCODE, "num_frames", "num_inference_steps", *_GUIDANCE, "fps", "motion_bucket_id")
_DEPENDS_ON = {"encode": _ENCODE, "denoise": _DENOISE, "decode": (*_DENOISE, "decode_chunk_size")}


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """What the networks know of a photo: output of ``encode``, input of ``denoise``."""

    key: StageKey
    settings: Resolved
    frame: Frame
    image_embeddings: Any  # from CLIP, tensor (1, 1, projection)
    image_latents: Any  # from the VAE, not scaled, tensor (1, channels, height / scale, width / scale)
    generator_state: Any  # of the CPU generator after the noise on the photo was drawn, bytes tensor
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Denoised:
    """A clip in latents, tensor ``(1, frames, channels, height / scale, width / scale)``: input of ``decode``."""

    key: StageKey
    settings: Resolved
    frame: Frame
    latents: Any
    seconds: float
    encode_seconds: float


def stage_key(stage: str, settings: ClipSettings, *, image_sha256: str, model: str) -> StageKey:
    """Say what a stage's output depends on: equal keys, equal outputs. Group jobs by it to run each stage once.

    Settings must be resolved; ``model`` is what ``model_identity`` says, or any text for planning without a model.
    """
    if stage not in _DEPENDS_ON:
        raise SettingsError(f"stage={stage!r} is not known; give one of {', '.join(_DEPENDS_ON)}")
    values = [(name, getattr(settings, name)) for name in _DEPENDS_ON[stage]]
    unset = ", ".join(name for name, value in values if value is None)
    if unset:
        raise SettingsError(f"a {stage} key needs {unset}, still None here; call ClipSettings.resolve() first")
    return (("stage", stage), ("model", model), ("photo", image_sha256), *values)


def describe_model(pipe: Any) -> dict[str, Any]:
    """Give name, revision and kind of weights, as a clip's provenance holds them."""
    report = report_of(pipe)
    return {"name": report.model.name, "revision": report.revision, "weights": report.weights}


def model_identity(pipe: Any) -> str:
    """Name the weights, so that outputs of different models are never mixed; own pipelines only in this process."""
    report = report_of(pipe)
    if not report.is_ours:
        return f"own pipeline {id(pipe.vae):x}"
    return f"{report.model.name}, revision {report.revision}, {report.weights} weights, {report.settings.dtype}"


def resolve(pipe: Any, settings: ClipSettings, frame: Frame, *, seed: int | None = None) -> Resolved:
    """Fill what is None from the frame, the model, its memory plan, and chance."""
    report = report_of(pipe)
    limit = report.decode_chunk_size
    if settings.decode_chunk_size is None and limit < _USUAL_CHUNK:
        settings = settings.replace(decode_chunk_size=limit)
    frames = pipe.unet.config.num_frames
    own = report.model.clip_defaults | {"height": frame.height, "width": frame.width, "num_frames": frames}
    settings = settings.resolve(**own, seed=seed)
    if (settings.height, settings.width) != (frame.height, frame.width):
        raise SettingsError(
            f"the settings ask for height={settings.height}, width={settings.width}, but the photo was fitted to "
            f"height={frame.height}, width={frame.width}; fit it to that size, or leave height and width out"
        )
    return settings


def _resolve_like(pipe: Any, settings: ClipSettings | None, earlier: Encoded | Denoised) -> Resolved:
    """Fill what is None from the stage before, and refuse settings that stage was not made for."""
    given, was = earlier.settings, dict(earlier.key)
    settings = settings or given
    if settings.num_frames is None:
        settings = settings.replace(num_frames=given.num_frames)
    settings = resolve(pipe, settings, earlier.frame, seed=given.seed)
    wanted = stage_key(was["stage"], settings, image_sha256=earlier.frame.sha256, model=model_identity(pipe))
    differences = [f"{name}: {was[name]!r} and {value!r}" for name, value in wanted if was[name] != value]
    if differences:
        raise SettingsError(
            f"this {type(earlier).__name__} was made for other settings ({'; '.join(differences)} now); "
            f"call {was['stage']} again with the settings of now, or go on with those it was made for"
        )
    return settings


OnStep = Callable[[int, Any], object]
P = ParamSpec("P")
_T = TypeVar("_T")

_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()

_NOT_NUMBERS = (
    "some values are not numbers, shown black; half precision does this with some models and small sizes: load with "
    "dtype='fp32' or 'bf16', or choose a size nearer to what the model was trained on"
)


def in_line(make: Callable[Concatenate[Any, P], _T]) -> Callable[Concatenate[Any, P], _T]:
    """Let threads that share a pipeline wait in line: it has one schedule, and one memory."""

    @wraps(make)
    def wait(pipe: Any, *arguments: P.args, **options: P.kwargs) -> _T:
        with _LOCKS.setdefault(pipe, threading.RLock()):
            return make(pipe, *arguments, **options)

    return wait  # type: ignore[return-value]  # pipe may be given by its name too


@in_line
def encode(
    pipe: Any, frame: Frame, settings: ClipSettings, *, progress: Shown = False, reuse: Encoded | None = None
) -> Encoded:
    """Show the photo to CLIP and to the VAE.

    Args:
        pipe: A ``StableVideoDiffusionPipeline``.
        frame: The fitted photo; its size is the clip's size.
        settings: Of the clip. What is None is taken from the frame and the model; the seed is drawn.
        progress: As in ``generate``.
        reuse: An earlier result of the same photo and model: only the seed or the noise changed, so CLIP need not look
            again. That of another photo is ignored.

    Returns:
        The encoded photo, on the pipeline's device.

    Raises:
        SettingsError: when the settings ask for another size than the frame has.

    Example:
        >>> encoded = encode(pipe, fit("rocket", height=72, width=128), ClipSettings(seed=1))
    """
    import torch

    settings = resolve(pipe, settings, frame)
    key = stage_key("encode", settings, image_sha256=frame.sha256, model=model_identity(pipe))
    if reuse is not None and any(dict(reuse.key)[part] != dict(key)[part] for part in ("model", "photo")):
        reuse = None
    generator = torch.Generator("cpu").manual_seed(settings.seed)
    device = execution_device(pipe)
    with _running(pipe, "encode", steps=2, progress=progress, device=device) as meter:
        embeddings = reuse.image_embeddings if reuse else embed_image(pipe, frame, device)
        meter.step()
        latents = encode_image(pipe, frame, settings, generator=generator, device=device).to(embeddings.dtype)
    made = {"image_embeddings": embeddings, "image_latents": latents, "generator_state": generator.get_state()}
    return Encoded(key=key, settings=settings, frame=frame, seconds=meter.seconds, **made)


@in_line
def denoise(
    pipe: Any,
    encoded: Encoded,
    settings: ClipSettings | None = None,
    *,
    progress: Shown = False,
    on_step: OnStep | None = None,
) -> Denoised:
    """Turn noise into the latents of a clip, step by step.

    Args:
        pipe: A ``StableVideoDiffusionPipeline``.
        encoded: The encoded photo.
        settings: Of the clip; None for those of ``encoded``. Frames, steps, guidance, fps and motion may differ.
        progress: As in ``generate``.
        on_step: As in ``generate``. The latents are the run's own: copy them to keep or change them.

    Returns:
        The clip in latents, on the pipeline's device.

    Raises:
        SettingsError: when ``encoded`` was made for other settings or another model; it names the difference.
        Cancelled: when ``on_step`` said so; ``finished`` is the encoded photo.

    Example:
        >>> wild = denoise(pipe, encoded, settings.replace(motion_bucket_id=220))
    """
    import torch

    settings = _resolve_like(pipe, settings, encoded)
    key = stage_key("denoise", settings, image_sha256=encoded.frame.sha256, model=model_identity(pipe))
    device = execution_device(pipe)
    generator = torch.Generator("cpu")
    generator.set_state(encoded.generator_state)
    # diffusers sets the schedule a little later; nothing in between depends on it.
    pipe.scheduler.set_timesteps(settings.num_inference_steps, device=device)
    photo = {"embeddings": encoded.image_embeddings, "image_latents": encoded.image_latents}
    steps = denoise_steps(pipe, settings, **photo, generator=generator, device=device)
    count = len(pipe.scheduler.timesteps)
    try:
        with _running(pipe, "denoise", steps=count, progress=progress, device=device) as meter:
            for step, latents in enumerate(steps, start=1):
                meter.step()
                if on_step is not None and on_step(step, latents) is False:
                    raise Cancelled(f"stopped by on_step after denoising step {step}")  # noqa: TRY301 - like one of on_step
    except Cancelled as error:
        error.finished = error.finished or encoded
        raise
    seconds = {"encode_seconds": encoded.seconds, "seconds": meter.seconds}
    return Denoised(key=key, settings=settings, frame=encoded.frame, latents=latents, **seconds)


@in_line
def decode(
    pipe: Any,
    denoised: Denoised,
    settings: ClipSettings | None = None,
    *,
    progress: Shown = False,
    notes: Sequence[str] = (),
) -> Clip:
    """Turn latents into the frames of a clip, a chunk of frames at a time.

    Args:
        pipe: A ``StableVideoDiffusionPipeline``.
        denoised: The clip in latents.
        settings: Of the clip; None for those of ``denoised``. Decode chunk and playback fps may differ.
        progress: As in ``generate``.
        notes: Sentences for the clip's provenance.

    Returns:
        The clip. A warning is given, and noted in it, when values are not numbers.

    Raises:
        SettingsError: when ``denoised`` was made for other settings or another model; it names the difference.

    Example:
        >>> clip = decode(pipe, denoised)
    """
    now = _resolve_like(pipe, settings, denoised)
    starts = range(0, now.num_frames, now.decode_chunk_size)
    device = execution_device(pipe)
    latents = denoised.latents.to(device)
    chunks = []
    with _running(pipe, "decode", steps=len(starts), progress=progress, device=device) as meter:
        for start in starts:
            chunks.append(decode_chunk(pipe, latents[:, start : start + starts.step]))
            meter.step()
    pixels = np.concatenate([frames for frames, _ in chunks])
    if not all(finite for _, finite in chunks):
        notes = (*notes, _NOT_NUMBERS)
        warnings.warn(_NOT_NUMBERS, SvdkitWarning, stacklevel=3)
    model, report = describe_model(pipe), report_of(pipe)
    made = Provenance(
        kind="micro" if model["name"] == "micro" else "svd",
        settings=now.to_dict(),
        load=report.settings.to_dict() if report.is_ours else {},
        conditioning=now.conditioning.to_dict(),
        model=model,
        image=denoised.frame.to_dict(),
        stage_seconds={"encode": denoised.encode_seconds, "denoise": denoised.seconds, "decode": meter.seconds},
        notes=tuple(notes),
        environment=machine(str(device)),
    )
    return Clip(frames=pixels, fps=now.playback_fps, provenance=made, photo=denoised.frame.image)


@contextmanager
def _running(pipe: Any, stage: str, *, steps: int, progress: Shown, device: Any) -> Iterator[Meter]:
    """Time a stage, without gradients; leave the pipeline usable, also after an error or an interrupt."""
    import torch

    try:
        with torch.no_grad(), Meter(stage, steps, reporter(progress), partial(synchronize, device)) as meter:
            yield meter
    except BaseException as error:
        # The traceback holds the networks' activations, also of an interrupt, and a notebook keeps the last traceback.
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        pipe.maybe_free_model_hooks()  # offloaded networks leave the device, as after diffusers' own call
