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
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from svdkit.clip import Clip, Provenance
from svdkit.environment import machine
from svdkit.errors import Cancelled, SettingsError, SvdkitWarning
from svdkit.generate.loop import (
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
    from svdkit.generate.loop import Resolved
    from svdkit.image import Frame
    from svdkit.settings import ClipSettings


_USUAL_CHUNK = 5  # what LoadReport says when memory does not limit the chunk
# Playback speed is in none of these: it only goes into the file.
_ENCODE = ("height", "width", "noise_aug_strength", "seed")
_STEPS = ("num_frames", "num_inference_steps", "min_guidance_scale", "max_guidance_scale")
_DENOISE = (*_ENCODE, *_STEPS, "fps", "motion_bucket_id")
_DEPENDS_ON = {"encode": _ENCODE, "denoise": _DENOISE, "decode": (*_DENOISE, "decode_chunk_size")}


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """What the networks know of a photo: output of ``encode``, input of ``denoise``."""

    settings: Resolved
    frame: Frame
    model: str  # of ``model_identity``
    image_embeddings: Any  # from CLIP, tensor (1, 1, projection)
    image_latents: Any  # from the VAE, not scaled, tensor (1, channels, height / scale, width / scale)
    generator_state: Any  # of the CPU generator after the noise on the photo was drawn, bytes tensor
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Denoised:
    """A clip in latents, tensor ``(1, frames, channels, height / scale, width / scale)``: input of ``decode``."""

    settings: Resolved
    frame: Frame
    model: str
    latents: Any
    seconds: float
    encode_seconds: float


def stage_key(stage: str, settings: ClipSettings, *, image_sha256: str, model: str) -> tuple[tuple[str, Any], ...]:
    """Say what a stage's output depends on: equal keys, equal outputs. Group jobs by it to run each stage once.

    Settings must be resolved; ``model`` is what ``model_identity`` says, or any text for planning without a model.
    """
    values = ((name, getattr(settings, name)) for name in _DEPENDS_ON[stage])
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
    if settings.decode_chunk_size is None and report.decode_chunk_size < _USUAL_CHUNK:
        settings = settings.replace(decode_chunk_size=report.decode_chunk_size)
    own = report.model.clip_defaults | {"height": frame.height, "width": frame.width}
    settings = settings.resolve(**own | {"num_frames": pipe.unet.config.num_frames}, seed=seed)
    if (settings.height, settings.width) != (frame.height, frame.width):
        raise SettingsError(
            f"the settings ask for height={settings.height}, width={settings.width}, but the photo was fitted to "
            f"height={frame.height}, width={frame.width}; fit it to that size, or leave height and width out"
        )
    return settings


def _go_on(pipe: Any, settings: ClipSettings | None, earlier: Encoded | Denoised) -> Resolved:
    """Fill what is None from the stage before, and refuse settings that stage was not made for."""
    was, stage = earlier.settings, "encode" if isinstance(earlier, Encoded) else "denoise"
    settings = settings or was
    settings = settings.replace(num_frames=settings.num_frames or was.num_frames)
    settings = resolve(pipe, settings, earlier.frame, seed=was.seed)
    made = {"model": (earlier.model, model_identity(pipe))}
    made |= {name: (getattr(was, name), getattr(settings, name)) for name in _DEPENDS_ON[stage]}
    differences = [f"{name}: {then!r} and {now!r}" for name, (then, now) in made.items() if then != now]
    if differences:
        raise SettingsError(
            f"this {type(earlier).__name__} was made for other settings ({'; '.join(differences)} now); "
            f"call {stage} again with the settings of now, or go on with those it was made for"
        )
    return settings


OnStep = Callable[[int, Any], object]

_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()

_NOT_NUMBERS = (
    "some values are not numbers, shown black; half precision does this with some models and small sizes: load with "
    "dtype='fp32' or 'bf16', or choose a size nearer to what the model was trained on"
)


def in_line(pipe: Any) -> threading.RLock:
    """The lock of a pipeline, which threads that share it wait for: it has one schedule, and one memory."""
    return _LOCKS.setdefault(pipe, threading.RLock())


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

    settings, model, device = resolve(pipe, settings, frame), model_identity(pipe), execution_device(pipe)
    generator = torch.Generator("cpu").manual_seed(settings.seed)
    with _running(pipe, "encode", steps=2, progress=progress, device=device) as meter:
        if reuse and (reuse.model, reuse.frame.sha256) == (model, frame.sha256):
            embeddings = reuse.image_embeddings
        else:
            embeddings = embed_image(pipe, frame, device)
        meter.step()
        latents = encode_image(pipe, frame, settings, generator=generator, device=device).to(embeddings.dtype)
    return Encoded(
        settings=settings,
        frame=frame,
        model=model,
        image_embeddings=embeddings,
        image_latents=latents,
        generator_state=generator.get_state(),
        seconds=meter.seconds,
    )


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

    now, device = _go_on(pipe, settings, encoded), execution_device(pipe)
    generator = torch.Generator("cpu")
    generator.set_state(encoded.generator_state)
    steps = denoise_steps(pipe, now, encoded, generator=generator, device=device)
    count = now.num_inference_steps
    try:
        with _running(pipe, "denoise", steps=count, progress=progress, device=device) as meter:
            for step, latents in enumerate(steps, start=1):
                meter.step()
                if on_step is not None and on_step(step, latents) is False:
                    raise Cancelled(f"stopped by on_step after denoising step {step}")  # noqa: TRY301 - like one of on_step
    except Cancelled as error:
        error.finished = error.finished or encoded
        raise
    return Denoised(
        settings=now,
        frame=encoded.frame,
        model=encoded.model,
        latents=latents,
        seconds=meter.seconds,
        encode_seconds=encoded.seconds,
    )


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
    now, device, report = _go_on(pipe, settings, denoised), execution_device(pipe), report_of(pipe)
    chunks = denoised.latents.to(device).split(now.decode_chunk_size, dim=1)
    decoded = []
    with _running(pipe, "decode", steps=len(chunks), progress=progress, device=device) as meter:
        for chunk in chunks:
            decoded.append(decode_chunk(pipe, chunk))
            meter.step()
    if not all(finite for _, finite in decoded):
        notes = (*notes, _NOT_NUMBERS)
        warnings.warn(_NOT_NUMBERS, SvdkitWarning, stacklevel=2)
    made = Provenance(
        kind=report.model.kind,
        settings=now.to_dict(),
        load=report.settings.to_dict() if report.is_ours else {},
        conditioning=now.conditioning.to_dict(),
        model=describe_model(pipe),
        image=denoised.frame.to_dict(),
        stage_seconds={"encode": denoised.encode_seconds, "denoise": denoised.seconds, "decode": meter.seconds},
        notes=tuple(notes),
        environment=machine(str(device)),
    )
    frames = np.concatenate([pixels for pixels, _ in decoded])
    return Clip(frames=frames, fps=now.playback_fps, provenance=made, photo=denoised.frame.image)


@contextmanager
def _running(pipe: Any, stage: str, *, steps: int, progress: Shown, device: Any) -> Iterator[Meter]:
    """Time a stage, without gradients; leave the pipeline usable, also after an error or an interrupt."""
    import torch

    meter = Meter(stage, steps, reporter(progress), partial(synchronize, device))
    with in_line(pipe):
        try:
            with torch.no_grad(), meter:
                yield meter
        except BaseException as error:
            # The traceback holds the networks' activations, also of an interrupt, and a notebook keeps the last one.
            traceback.clear_frames(error.__traceback__)
            raise
        finally:
            pipe.maybe_free_model_hooks()  # offloaded networks leave the device, as after diffusers' own call
