"""What the stages hand on: an encoded photo, and a clip in latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from svdkit.generate.keys import StageKey
    from svdkit.image import Frame

# ClipSettings in which nothing is None any more, which the types of its fields cannot say.
Resolved: TypeAlias = Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """What the networks know of a photo: output of ``encode``, input of ``denoise``.

    Attributes:
        key: What it depends on.
        settings: The settings it was made with, all resolved.
        frame: The fitted photo.
        image_embeddings: From CLIP, tensor ``(1, 1, projection)``.
        image_latents: From the VAE, not scaled, tensor ``(1, channels, height / scale, width / scale)``.
        generator_state: Of the CPU generator after the noise on the photo was drawn, bytes tensor.
        seconds: How long the stage took.
    """

    key: StageKey
    settings: Resolved
    frame: Frame
    image_embeddings: Any
    image_latents: Any
    generator_state: Any
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Denoised:
    """A clip in latents: output of ``denoise``, input of ``decode``.

    Attributes:
        key: What it depends on.
        settings: The settings it was made with, all resolved.
        frame: The fitted photo.
        latents: Tensor ``(1, frames, channels, height / scale, width / scale)``, as the UNet scales them.
        seconds: How long this stage took.
        encode_seconds: How long the stage before took.
    """

    key: StageKey
    settings: Resolved
    frame: Frame
    latents: Any
    seconds: float
    encode_seconds: float
