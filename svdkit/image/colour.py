"""A picture as its file stores it → the upright sRGB photo that people see."""

from __future__ import annotations

import functools
import io
import warnings

import numpy as np
from PIL import Image, ImageCms, ImageColor

from svdkit.errors import ImageError, SvdkitWarning
from svdkit.image.arrays import array_to_image
from svdkit.image.decode import DECODE_ERRORS

# EXIF tag 0x0112 and what undoes each of its values (EXIF 2.32, table 4, section 4.6.4 A).
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# The colour space a profile describes (ICC.1:2022, table 19) and the mode whose pixels it can be applied to.
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}


def upright_srgb(image: Image.Image, *, background: str, shown: str) -> Image.Image:
    """Make a picture of any mode into the photo that people see.

    Transparent parts are laid over the background, 16 bits become 8, the colour profile is converted to sRGB and
    the EXIF orientation applied. A profile or EXIF data that cannot be used is ignored with a warning.

    Args:
        image: A loaded picture of any mode.
        background: What shows through transparent parts: a colour name or ``"#rrggbb"``.
        shown: What messages call the picture.

    Returns:
        A new picture of mode RGB, 8 bits a channel, sRGB, with an empty ``info``.

    Raises:
        ImageError: The numbers of a floating-point or 32-bit picture have no known scale, or its mode is unknown.

    Example:
        >>> upright_srgb(Image.new("CMYK", (3, 2)), background="white", shown="a picture").getpixel((0, 0))
        (255, 255, 255)
    """
    profile = image.info.get("icc_profile")
    turn = _turn(image, shown)
    try:
        colours, alpha = _split_alpha(_eight_bits(image, shown))
        photo = _to_srgb(colours, profile, shown)
        if alpha is not None:
            photo = Image.composite(photo, Image.new("RGB", photo.size, parse_colour(background)), alpha)
        photo = photo.copy() if turn is None else photo.transpose(turn)
    except (ImageCms.PyCMSError, ImportError, *DECODE_ERRORS) as error:
        raise ImageError(
            f"{shown} has colours that cannot be converted (mode {image.mode}: {error}). Save it as an 8-bit RGB PNG "
            "or JPEG first."
        ) from error
    photo.info = {}
    return photo


def parse_colour(colour: str) -> tuple[int, int, int]:
    """Read a colour.

    Args:
        colour: A name such as ``"white"``, ``"#rgb"`` or ``"#rrggbb"``.

    Returns:
        Red, green and blue, 0 to 255.

    Raises:
        ImageError: It is no colour.

    Example:
        >>> parse_colour("#ff8000")
        (255, 128, 0)
    """
    try:
        red, green, blue = ImageColor.getrgb(colour)[:3]
    except (AttributeError, TypeError, ValueError, ArithmeticError) as error:  # no text; no colour
        raise ImageError(
            f'{colour!r} is not a colour. Give a name such as "white", or "#rrggbb" such as "#000000".'
        ) from error
    if not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise ImageError(f"{colour!r} is not a colour: its channels go beyond 0..255. Use #rrggbb.")
    return red, green, blue


def _turn(image: Image.Image, shown: str) -> Image.Transpose | None:
    """Find what makes the photo upright; None when it is already."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd tags, none of which is the orientation
            return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except DECODE_ERRORS as error:
        _warn(f"{shown}: the EXIF data cannot be read ({error}), so the photo is shown as it is stored.")
        return None


def _eight_bits(image: Image.Image, shown: str) -> Image.Image:
    """Bring greyscale of 16 or 32 bits and of floats to 8 bits; Pillow's own convert() would clip at 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "I":
        # Pillow's 32-bit mode also carries 8-bit and 16-bit numbers; beyond them the full scale is unknown.
        for kind in (np.uint8, np.uint16):
            if values.min() >= 0 and values.max() <= np.iinfo(kind).max:
                values = values.astype(kind)
                break
    try:
        return array_to_image(values, max_pixels=values.size)
    except ImageError as error:
        raise ImageError(f"{shown} (mode {image.mode}): {error}") from error


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Part the colours (mode L, RGB, CMYK or LAB) from the opacity; None when nothing is transparent."""
    if image.mode in {"La", "RGBa"}:  # colours already multiplied by the opacity
        image = image.convert(image.mode.upper())
    alpha = None
    if image.mode in {"LA", "PA", "RGBA"} or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
        alpha = None if alpha.getextrema() == (255, 255) else alpha
    if image.mode in {"1", "LA"}:
        image = image.convert("L")
    elif image.mode not in {"L", "RGB", "CMYK", "LAB"}:
        image = image.convert("RGBA").convert("RGB") if alpha is not None else image.convert("RGB")
    return image, alpha


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _to_srgb(image: Image.Image, profile: object, shown: str) -> Image.Image:
    """Convert by the profile; without one, or with one that is broken, by Pillow's plain formulas."""
    if image.mode == "LAB" and not profile:
        return _apply(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if not profile:
        return image.convert("RGB")
    try:
        if not isinstance(profile, bytes):
            raise TypeError("it is not bytes")
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if image.mode == "L" and space == "RGB":
            image = image.convert("RGB")
        if _PROFILE_MODES.get(space) != image.mode:
            raise ValueError(f"it is for {space}, the picture is {image.mode}")
        return _apply(image, source)
    except (ImageCms.PyCMSError, ImportError, *DECODE_ERRORS) as error:  # ImportError: a Pillow without LittleCMS
        _warn(f"{shown}: the colour profile cannot be used ({error}); the colours are taken as they are.")
        return _to_srgb(image, None, shown)


def _apply(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    """Transform to sRGB, perceptually: for RGB profiles that is exact, for CMYK it keeps detail in the shadows."""
    photo = ImageCms.profileToProfile(image, source, _srgb(), outputMode="RGB")
    if photo is None:  # only with inPlace=True
        raise ValueError("no picture came back")
    return photo


def _warn(message: str) -> None:
    warnings.warn(message, SvdkitWarning, stacklevel=5)
