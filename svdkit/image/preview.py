"""What will be kept of a photo and what will be cut, as a picture."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageDraw, ImageOps

from svdkit.image.fitting import crop_box, fit, resize
from svdkit.image.frame import check_fit
from svdkit.image.read import read_image

# Large enough to judge a cut by, small enough for a notebook's column.
MAX_SIDE = 768

_OUTLINE = (255, 255, 255)
_SHADE = (18, 20, 26)
_SHADE_STRENGTH = 0.55


def preview_fit(
    photo: Any,
    *,
    height: int,
    width: int,
    mode: str = "crop",
    focus: tuple[float, float] = (0.5, 0.5),
    border: str = "blur",
) -> Image.Image:
    """Show what `fit` will do, before anything is generated.

    Args:
        photo: Anything that `read_image` reads.
        height: As for `fit`.
        width: As for `fit`.
        mode: As for `fit`.
        focus: As for `fit`.
        border: As for `fit`.

    Returns:
        RGB, at most 768 pixels a side. ``"crop"``: the whole photo, what is cut in the shade and what is kept in a
        thin outline. ``"pad"`` and ``"stretch"``, which cut nothing: the frame.

    Raises:
        ImageError: As for `fit`.

    Example:
        >>> preview_fit("rocket", height=576, width=1024).size
        (640, 427)
    """
    height, width = check_fit(height=height, width=width, mode=mode, focus=focus, border=border)
    if mode != "crop":
        image = fit(photo, height=height, width=width, mode=mode, focus=focus, border=border).image
        return _shrink(image)
    image = read_image(photo)
    left, top, right, bottom = crop_box(image, height=height, width=width, focus=focus)
    shown = _shrink(image)
    across, down = shown.width / image.width, shown.height / image.height
    kept = (round(left * across), round(top * down), round(right * across), round(bottom * down))
    return _shade(shown, kept)


def _shrink(image: Image.Image) -> Image.Image:
    """Make a picture fit the notebook; small ones stay as they are."""
    scale = min(1.0, MAX_SIDE / max(image.size))
    return resize(image, height=max(1, round(image.height * scale)), width=max(1, round(image.width * scale)))


def _shade(photo: Image.Image, kept: tuple[int, int, int, int]) -> Image.Image:
    """Darken and grey all but the kept part, and draw a line around it that shows on light and dark photos."""
    grey = ImageOps.grayscale(photo).convert("RGB")
    canvas = Image.blend(Image.blend(photo, grey, 0.5), Image.new("RGB", photo.size, _SHADE), _SHADE_STRENGTH)
    left, top, right, bottom = kept
    canvas.paste(photo.crop(kept), (left, top))
    draw = ImageDraw.Draw(canvas)
    if min(right - left, bottom - top) >= 8:  # a line around less than that would hide it
        draw.rectangle((left, top, right - 1, bottom - 1), outline=_OUTLINE, width=max(1, max(photo.size) // 320))
    return canvas
