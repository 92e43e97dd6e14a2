"""A photo → a frame of the model's size → a clip back in the photo's aspect."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from svdkit.errors import ImageError
from svdkit.image.colour import parse_colour
from svdkit.image.frame import Box, Frame, check_fit
from svdkit.image.read import SOURCE_KEY, read_image

# Pillow first shrinks by whole numbers to 3 times the final size, then resamples: several times faster on large
# photos and, says its documentation for values of 3 and more, indistinguishable.
_REDUCING_GAP = 3.0


def fit(
    photo: Any,
    *,
    height: int,
    width: int,
    mode: str = "crop",
    focus: tuple[float, float] = (0.5, 0.5),
    border: str = "blur",
) -> Frame:
    """Fit a photo to the model's size.

    Args:
        photo: Anything that `read_image` reads.
        height: Pixels of the frame, 8 to 8192 (for SVD a multiple of 8).
        width: Pixels of the frame, 8 to 8192 (for SVD a multiple of 8).
        mode: ``"crop"`` fills the frame and cuts what is too much; ``"pad"`` keeps the whole photo and adds borders;
            ``"stretch"`` distorts the photo to the frame's aspect.
        focus: For ``"crop"``: the point that should be in the middle, (x, y) from (0, 0) at the photo's top left to
            (1, 1) at its bottom right. The cut never leaves the photo.
        border: For ``"pad"``: ``"blur"``, the photo itself out of focus, or a colour such as ``"#000000"``.

    Returns:
        The frame.

    Raises:
        ImageError: The photo cannot be read, or a setting is none of the above.

    Example:
        >>> fit("rocket", height=576, width=1024, focus=(0.5, 1.0)).box
        (0.0, 67.0, 640.0, 427.0)
    """
    height, width = check_fit(height=height, width=width, mode=mode, focus=focus, border=border)
    image = read_image(photo)
    focus = (float(focus[0]), float(focus[1]))
    box: Box = (0.0, 0.0, float(image.width), float(image.height))
    content = (0, 0, width, height)
    if mode == "crop":
        box = crop_box(image, height=height, width=width, focus=focus)
    elif mode == "pad":
        content = _content_box(image, height=height, width=width)
    fitted = resize(image, height=content[3] - content[1], width=content[2] - content[0], box=box)
    if mode == "pad":
        canvas = _background(image, height=height, width=width, border=border)
        canvas.paste(fitted, content[:2])
        fitted = canvas
    fitted.info = {}
    return Frame(
        image=fitted, height=height, width=width, mode=mode, focus=focus, border=border,
        photo_height=image.height, photo_width=image.width, box=box, content_box=content,
        source=image.info.get(SOURCE_KEY),
    )  # fmt: skip


def restore(frames: npt.NDArray[np.uint8], frame: Frame) -> npt.NDArray[np.uint8]:
    """Bring a clip back to the aspect of what was kept of the photo.

    Args:
        frames: Uint8, frames × height × width × 3, of the frame's height and width.
        frame: What `fit` returned for the photo.

    Returns:
        Uint8, frames × height × width × 3. ``"crop"``: unchanged. ``"pad"``: the borders cut off. ``"stretch"``:
        squeezed, in the direction that was stretched most, back to the photo's aspect; never enlarged.

    Raises:
        ImageError: The frames are not of the type, shape or size above.

    Example:
        >>> frame = fit("cat", height=64, width=128, mode="pad")
        >>> restore(np.zeros((14, 64, 128, 3), dtype=np.uint8), frame).shape
        (14, 64, 96, 3)
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (frame.height, frame.width, 3):
        raise ImageError(
            f"frames of shape {frames.shape} ({frames.dtype}) do not belong to this frame: allowed is uint8 of "
            f"(frames, {frame.height}, {frame.width}, 3). Give the frames of the clip made from it."
        )
    if frame.mode == "pad":
        left, top, right, bottom = frame.content_box
        return frames[:, top:bottom, left:right]
    if frame.mode == "stretch":
        scale = min(frame.height / frame.photo_height, frame.width / frame.photo_width)
        height = max(1, round(frame.photo_height * scale))
        width = max(1, round(frame.photo_width * scale))
        squeezed = [np.asarray(resize(Image.fromarray(one), height=height, width=width)) for one in frames]
        return np.stack(squeezed) if squeezed else np.empty((0, height, width, 3), dtype=np.uint8)
    return frames


def resize(image: Image.Image, *, height: int, width: int, box: Box | None = None) -> Image.Image:
    """Resample a part of a picture by Lanczos; a picture that has the size already is copied bit by bit."""
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=_REDUCING_GAP)


def crop_box(image: Image.Image, *, height: int, width: int, focus: tuple[float, float]) -> Box:
    """Find the largest part of the frame's aspect, centred on the focus as far as the photo allows."""
    scale = min(image.width / width, image.height / height)
    kept_width, kept_height = min(width * scale, image.width), min(height * scale, image.height)
    left = min(max(focus[0] * image.width - kept_width / 2, 0.0), image.width - kept_width)
    top = min(max(focus[1] * image.height - kept_height / 2, 0.0), image.height - kept_height)
    return left, top, min(left + kept_width, image.width), min(top + kept_height, image.height)


def _content_box(image: Image.Image, *, height: int, width: int) -> tuple[int, int, int, int]:
    """Find where the whole photo goes in the frame: as large as possible, in the middle, 1 pixel at least."""
    scale = min(width / image.width, height / image.height)
    content_width = min(width, max(1, round(image.width * scale)))
    content_height = min(height, max(1, round(image.height * scale)))
    left, top = (width - content_width) // 2, (height - content_height) // 2
    return left, top, left + content_width, top + content_height


def _background(image: Image.Image, *, height: int, width: int, border: str) -> Image.Image:
    """Make what stands behind a padded photo."""
    if border != "blur":
        return Image.new("RGB", (width, height), parse_colour(border))
    # A blur of 1/16 of the frame needs no detail, so it is made at about 1/8 of the size: 60 times less work.
    small = max(1, height // 8), max(1, width // 8)
    box = crop_box(image, height=height, width=width, focus=(0.5, 0.5))
    cover = resize(image, height=small[0], width=small[1], box=box)
    cover = cover.filter(ImageFilter.GaussianBlur(max(1.0, math.hypot(*small) / 16)))
    return cover.resize((width, height), Image.Resampling.BICUBIC)
