"""The bytes of a file, a picture or numbers → the upright sRGB photo that people see."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageColor, ImageOps, UnidentifiedImageError

from svdkit.errors import ImageError, SvdkitError, SvdkitWarning
from svdkit.errors import shown as as_text

# Photo formats only. Pillow knows 40 more; some of them start other programs (EPS runs Ghostscript).
# MPO is the JPEG of many phones: several pictures in one file, the photo first.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "GIF", "HEIF", "AVIF", "BMP", "JPEG2000", "PPM")
_MAX_PROFILE_BYTES = 2**24
_OTHERS = {  # what comes in a photo's place, by its first bytes
    rb"\Z": "empty",
    rb"(?s).{4}ftyp(he|mif1|msf1)": "an HEIC photo, which needs more: pip install pillow-heif; or damaged",
    rb"\x1f\x8b": "a gzip archive, not a photo",
    rb"PK\x03\x04": "a zip archive, not a photo",
    rb"%PDF": "a PDF document, not a photo",
    rb"(?s).{4}ftyp(iso|mp4|avc|M4V|qt|3g)|\x1a\x45\xdf\xa3|RIFF.{4}AVI ": "a video, not a photo",
    rb"(?is)(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!doctype svg|<svg)": "an SVG drawing, not a photo",
    rb"(\xef\xbb\xbf)?\s*<[!?/a-zA-Z]": "a web page (perhaps around the picture, or to sign in), not a photo",
    rb"(\xef\xbb\xbf)?\s*[\[{]": "a JSON text, not a photo",
    rb"": "not a photo, or damaged",
}
_ARRAY = (
    "An array is a photo when it is height × width, or height × width × 1, 3 (RGB) or 4 (RGBA), "
    "of uint8, uint16 or floats from 0 to 1."
)
_CURES = {
    Image.DecompressionBombError: "It is too large for PIL.Image.MAX_IMAGE_PIXELS. Make it smaller first.",
    MemoryError: "It does not fit into this machine's memory. Make it smaller in an image editor first.",
}
_DAMAGED = (
    "It is cut short or damaged, or of a rare kind. Copy or download it again; if an image viewer can open it, save it "
    "from there as JPEG or PNG."
)
_CLOSED = (
    "If it was closed, use it inside the with block that opens it, call image.load() there, or give the path of the "
    "file."
)


def to_photo(source: Any, *, shown: str, max_pixels: int) -> Image.Image:
    """Make bytes, an opened picture or an array into the upright RGB photo, on white, without its metadata.

    Of a file with several pictures it is the photo, of an animation the first frame. Messages call it ``shown``.
    """
    load = _from_bytes if isinstance(source, bytes) else _loaded if isinstance(source, Image.Image) else _from_array
    # No name holds a stored picture longer than its photo needs it: large ones are hundreds of megabytes.
    return _upright_srgb(load(source, shown, max_pixels), shown)


@contextlib.contextmanager
def decoding(shown: str, cure: str = _DAMAGED) -> Iterator[None]:
    """Turn whatever Pillow raises into an ImageError: its plug-ins raise nearly anything for damaged files."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large sizes, which are checked here, and of odd metadata
            yield
    except SvdkitError:
        raise
    except Exception as error:
        cure = next((text for kind, text in _CURES.items() if issubclass(type(error), kind)), cure)
        reason = str(error) or type(error).__name__
        raise ImageError(f"{shown} cannot be decoded ({reason}). {cure}") from error


def _from_bytes(data: bytes, shown: str, max_pixels: int) -> Image.Image:
    """Decode a file that Pillow knows; a PNG that it refuses for its long texts, without them."""
    try:
        with decoding(shown):
            image = _open(data, shown)
        return _loaded(image, shown, max_pixels, _DAMAGED)
    except ImageError:
        if not data.startswith(b"\x89PNG\r\n\x1a\n"):
            raise
        slim, profile = _slim_png(data)
        if len(slim) == len(data):
            raise
    image = _from_bytes(slim, shown, max_pixels)
    image.info |= {"icc_profile": profile}
    return image


def _open(data: bytes, shown: str) -> Image.Image:
    """Open a file, and turn to the photo in it: away from a preview or mask, if there is a picture that is neither."""
    if data[4:8] == b"ftyp":
        with contextlib.suppress(ImportError):
            importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    try:  # Pillow raises KeyError for a format that it was built without
        image = Image.open(io.BytesIO(data), formats=[name for name in _FORMATS if name in Image.OPEN])
    except UnidentifiedImageError as error:
        kind = next(kind for start, kind in _OTHERS.items() if re.match(start, data[:1024]))
        raise ImageError(
            f"{shown} is {kind}. Allowed are JPEG, PNG, WebP, TIFF, GIF, HEIC, AVIF, BMP, JPEG 2000 and PPM. Copy or "
            "download it again, give the picture itself, or save it as JPEG or PNG from what can open it."
        ) from error
    for page in range(1, 64):
        if not _is_beside(image):
            return image
        with contextlib.suppress(EOFError):
            image.seek(page)
    image.seek(0)
    if 330 in getattr(image, "tag_v2", ()):  # sub-pictures
        raise ImageError(
            f"{shown} is a camera's raw file, of which only the preview ({image.width} × {image.height} pixels) can be "
            "read. Develop it first: save it as JPEG or PNG from the camera's program."
        )
    return image


def _is_beside(image: Any) -> bool:
    """Whether an opened picture is the preview or mask of another one in its file, by its mark or for its size."""
    tags, entries = getattr(image, "tag_v2", {}), getattr(image, "mpinfo", {}).get(0xB002)  # CIPA DC-007
    return bool(
        tags.get(254, 0) & 5  # TIFF 6.0: new subfile type, and the old one
        or tags.get(255) == 2
        or (image.format in {"TIFF", "MPO"} and max(image.size) <= 256)
        or (entries and "Thumbnail" in entries[image.tell()]["Attribute"]["MPType"])
        or (getattr(image, "default_image", False) and image.tell() == 0)  # of a PNG, for lack of animation
    )


def _slim_png(data: bytes) -> tuple[bytes, bytes | None]:
    """Take texts and profile, which Pillow refuses above 1 MiB, out of a PNG; give the profile apart."""
    kept, profile, at = bytearray(data[:8]), None, 8
    while at < len(data):
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if kind == b"iCCP":
            with contextlib.suppress(zlib.error):
                packed = data[at + 8 : end - 4].partition(b"\0")[2][1:]
                profile = zlib.decompressobj().decompress(packed, _MAX_PROFILE_BYTES)
        elif kind not in {b"tEXt", b"zTXt", b"iTXt"}:
            kept += data[at:end]
        at = end
    return bytes(kept), profile


def _loaded(image: Image.Image, shown: str, max_pixels: int, cure: str = _CLOSED) -> Image.Image:
    """Decode the pixels of an opened picture, after a look at its declared size."""
    _check_size(*image.size, shown=shown, max_pixels=max_pixels)
    with decoding(shown, cure):
        image.load()
    return image


def _check_size(width: int, height: int, *, shown: str, max_pixels: int) -> None:
    """Refuse what is empty or too large, before memory is spent on it."""
    if width * height < 1:
        raise ImageError(f"{shown} is empty: {width} × {height} pixels (width × height). Choose another picture.")
    if width * height > max_pixels:
        raise ImageError(
            f"{shown} is too large ({width:,} × {height:,} = {width * height:,} pixels); at most {max_pixels:,} pixels "
            "are allowed. Make it smaller in an image editor, or if you trust it, use read_image(photo, max_pixels=…)."
        )


def parse_colour(colour: Any) -> tuple[int, int, int]:
    """Read ``"white"`` or ``"#rrggbb"`` as red, green and blue, 0 to 255."""
    try:
        return ImageColor.getrgb(colour)[:3]
    except Exception as error:  # no text, no colour, or an object of the caller's
        raise ImageError(
            f'{as_text(colour)} is not a colour. Give a name such as "white", or "#rrggbb" such as "#000000".'
        ) from error


def _from_array(values: Any, shown: str, max_pixels: int) -> Image.Image:
    """Turn numbers into a picture of mode L, RGB or RGBA, 8 bits a channel, each to the nearest."""
    try:
        array = np.asarray(values)
    except Exception as error:  # the object is the caller's: its __array__ can raise anything
        raise ImageError(
            f"{type(values).__name__} cannot be read as an array ({as_text(error, most=200)}). {_ARRAY} Convert it "
            "first: a tensor with .cpu().numpy()."
        ) from error
    given = f"{shown} ({' × '.join(map(str, array.shape)) or 'no dimensions'}, {array.dtype})"
    if array.ndim < 2 or array.shape[2:] not in {(), (1,), (3,), (4,)}:
        raise ImageError(
            f"{given} is not a photo. {_ARRAY} Give one photo of that shape: array[0] takes the first of several, "
            "array.transpose(1, 2, 0) puts channels last."
        )
    _check_size(array.shape[1], array.shape[0], shown=given, max_pixels=max_pixels)
    array = array[:, :, 0] if array.shape[2:] == (1,) else array
    if array.dtype.newbyteorder("=") == np.uint16:
        array = np.divide(array, 257, dtype=np.float32)  # 65535 / 255, exactly
    elif array.dtype.kind == "f":
        low, high = array.min(), array.max()
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # resampling leaves a rounding error outside 0..1; NaN fails too
            raise ImageError(
                f"{given} runs from {low:.4g} to {high:.4g}. {_ARRAY} Scale it first: array / 255, or (array + 1) / 2 "
                "for values from -1 to 1, or np.nan_to_num(array)."
            )
        array = array.clip(0, 1)  # from here on in place: a float is 4 or 8 bytes
        array *= 255
    elif array.dtype != np.uint8:
        raise ImageError(
            f"{given} is ambiguous: its full scale is not known. {_ARRAY} Convert it first, for example "
            "array.astype(np.uint8) for values from 0 to 255."
        )
    if array.dtype.kind == "f":
        np.rint(array, out=array)
    return Image.fromarray(np.asarray(array, np.uint8))


def _upright_srgb(image: Image.Image, shown: str) -> Image.Image:
    """Make a loaded picture of any mode into an RGB photo; with a profile or EXIF that is broken, as it is stored."""
    orientation, profile, clear = 1, image.info.get("icc_profile"), None
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # broken EXIF raises nearly anything
        warnings.simplefilter("ignore")
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    with decoding(shown):
        if image.mode.startswith(("I", "F")):  # Pillow's own convert() would clip at 255
            values = np.asarray(image)
            if image.mode == "I" and 0 <= values.min() <= values.max() <= 65535:  # 8 or 16 bits in 32
                values = values.astype(np.uint8 if values.max() <= 255 else np.uint16)
            image = _from_array(values, shown, values.size)
        if image.has_transparency_data:
            full = image if image.mode == "LA" else image.convert("RGBA")
            clear = ImageOps.invert(full.getchannel("A"))
            image = image if image.mode in {"1", "L"} else full  # whose profile may be one for grey
            del full  # a picture is hundreds of megabytes
        if image.mode in {"1", "LA"}:
            image = image.convert("L")
        elif image.mode not in {"L", "CMYK", "LAB"}:
            image = image.convert("RGB")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            image = image.convert("RGB") if image.mode == "L" and source.profile.xcolor_space == "RGB " else image
            # Perceptual, the default: exact for RGB profiles, and keeps detail in the shadows of CMYK
            image = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
        except Exception as error:  # noqa: BLE001 - no bytes, no profile, for other pixels, a Pillow without LittleCMS
            message = f"{shown}: the colour profile cannot be used ({error}); the colours are taken as they are."
            warnings.warn(message, SvdkitWarning, stacklevel=4)
    image = image.convert("RGB")
    if clear is not None:
        image.paste("white", mask=clear)
    image.info = {}
    image.getexif()[ExifTags.Base.Orientation] = orientation
    ImageOps.exif_transpose(image, in_place=True)
    return image
