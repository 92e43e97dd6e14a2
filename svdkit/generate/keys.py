"""What a stage hands on, what that depends on, and when it may be used again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from svdkit.errors import SettingsError

if TYPE_CHECKING:
    from svdkit.image import Frame
    from svdkit.settings import ClipSettings

# ClipSettings in which nothing is None any more, which the types of its fields cannot say.
Resolved: TypeAlias = Any
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
    report = getattr(pipe, "svdkit", None)
    if report is None:
        return {"name": "own pipeline", "revision": None, "weights": "unknown"}
    return {"name": report.model.name, "revision": report.revision, "weights": report.weights}


def model_identity(pipe: Any) -> str:
    """Name the weights, so that outputs of different models are never mixed; own pipelines only in this process."""
    report = getattr(pipe, "svdkit", None)
    if report is None:
        return f"own pipeline {id(pipe.vae):x}"
    return f"{report.model.name}, revision {report.revision}, {report.weights} weights, {report.settings.dtype}"


def resolve(pipe: Any, settings: ClipSettings, frame: Frame, *, seed: int | None = None) -> Resolved:
    """Fill what is None from the frame, the model, its memory plan, and chance."""
    report = getattr(pipe, "svdkit", None)
    limit = _USUAL_CHUNK if report is None else report.decode_chunk_size
    if settings.decode_chunk_size is None and limit < _USUAL_CHUNK:
        settings = settings.replace(decode_chunk_size=limit)
    frames = pipe.unet.config.num_frames
    own = {} if report is None else report.model.clip_defaults
    own |= {"height": frame.height, "width": frame.width, "num_frames": frames}
    settings = settings.resolve(**own, seed=seed)
    if (settings.height, settings.width) != (frame.height, frame.width):
        raise SettingsError(
            f"the settings ask for height={settings.height}, width={settings.width}, but the photo was fitted to "
            f"height={frame.height}, width={frame.width}; fit it to that size, or leave height and width out"
        )
    return settings


def resolve_like(pipe: Any, settings: ClipSettings | None, earlier: Encoded | Denoised) -> Resolved:
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
