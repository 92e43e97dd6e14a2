"""The bytes of a file, or numbers → the upright sRGB photo that people see."""

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
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms, ImageColor, ImageOps, UnidentifiedImageError

from svdkit.errors import ImageError, SvdkitWarning
from svdkit.errors import shown as as_text

# Photo formats only. Pillow knows 40 more; some of them start other programs (EPS runs Ghostscript).
# MPO is the JPEG of many phones: several pictures in one file, the photo first.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "GIF", "HEIF", "AVIF", "BMP", "JPEG2000", "PPM")
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_MAX_PROFILE_BYTES = 2**24
_SMALLER = "Make it smaller in an image editor first"
_OTHERS = {  # what comes in a photo's place, by its first bytes
    rb"\x1f\x8b": "a gzip archive",
    rb"PK\x03\x04": "a zip archive",
    rb"%PDF": "a PDF document",
    rb"(?s).{4}ftyp(iso|mp4|avc|M4V|qt|3g)|\x1a\x45\xdf\xa3|RIFF.{4}AVI ": "a video",
    rb"(?is)(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!doctype svg|<svg)": "an SVG drawing",
    rb"(\xef\xbb\xbf)?\s*<[!?/a-zA-Z]": "a web page (perhaps one around the picture, or one that asks to sign in)",
    rb"(\xef\xbb\xbf)?\s*[\[{]": "a JSON text",
}
_SUBFILE_TYPE, _OLD_SUBFILE_TYPE, _SUB_PICTURES, _MP_ENTRIES = 254, 255, 330, 0xB002  # TIFF 6.0; CIPA DC-007
_ARRAY = (
    "An array is a photo when it is height × width, or height × width × 1, 3 (RGB) or 4 (RGBA), "
    "of uint8, uint16 or floats from 0 to 1."
)


def decode_picture(data: bytes, *, shown: str, max_pixels: int) -> Image.Image:
    """Decode a file, of several pictures the photo, of an animation the first frame; messages call it ``shown``."""
    if not data:
        raise ImageError(f"{shown} is empty. Copy or download it again, or choose another file.")
    _prepare_heic(data, shown)
    try:
        return open_picture(_open(data, shown), shown=shown, max_pixels=max_pixels)
    except ImageError:
        slim, profile = _slim_png(data)
        if len(slim) == len(data):
            raise
    image = open_picture(_open(slim, shown), shown=shown, max_pixels=max_pixels)
    image.info |= {"icc_profile": profile}
    return image


def _open(data: bytes, shown: str) -> Image.Image:
    """Open a file that Pillow knows, and turn to the photo in it."""
    Image.init()
    known = [
        name for name in _FORMATS if name in Image.OPEN
    ]  # Pillow raises KeyError for one that it was built without
    with _decoding(shown):
        try:
            image = Image.open(io.BytesIO(data), formats=known)
        except UnidentifiedImageError as error:
            other = next((kind for start, kind in _OTHERS.items() if re.match(start, data[:1024])), None)
            what = f"is {other}, not a photo" if other else "is not a photo, or damaged"
            again = "Give the picture itself" if other else "Copy or download it again"
            raise ImageError(
                f"{shown} {what}. Allowed are JPEG, PNG, WebP, TIFF, GIF, HEIC, AVIF, BMP, JPEG 2000 and PPM. {again}, "
                "or save it as JPEG or PNG from what can open it."
            ) from error
        _turn_to_photo(image, shown)
    return image


def _turn_to_photo(image: Image.Image, shown: str) -> None:
    """Leave a preview or mask that is the first picture of a file, for the first that is neither; else stay there."""
    if not _is_beside(image):
        return
    for page in range(1, min(getattr(image, "n_frames", 1), 64)):
        image.seek(page)
        if not _is_beside(image):
            return
    image.seek(0)
    if _SUB_PICTURES in getattr(image, "tag_v2", ()):
        raise ImageError(
            f"{shown} is a camera's raw file, of which only the preview ({image.width} × {image.height} pixels) can be "
            "read. Develop it first: save it as JPEG or PNG from the camera's program."
        )


def _is_beside(image: Image.Image) -> bool:
    """Whether an opened picture is the preview or mask of another one in its file, by its mark or for its size."""
    if image.format not in {"TIFF", "MPO"}:
        return bool(getattr(image, "default_image", False)) and image.tell() == 0  # in a PNG, for lack of animation
    tags: Any = getattr(image, "tag_v2", {})
    if tags.get(_SUBFILE_TYPE, 0) & 5 or tags.get(_OLD_SUBFILE_TYPE) == 2:
        return True
    entries = getattr(image, "mpinfo", {}).get(_MP_ENTRIES)
    return max(image.size) <= 256 or bool(entries and "Thumbnail" in entries[image.tell()]["Attribute"]["MPType"])


def _slim_png(data: bytes) -> tuple[bytes, bytes | None]:
    """Take texts and profile, which Pillow refuses above 1 MiB, out of a PNG; give the profile apart."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data, None
    kept, profile, at = [data[:8]], None, 8
    while at < len(data):
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if kind == b"iCCP":
            with contextlib.suppress(zlib.error):
                packed = data[at + 8 : end - 4].partition(b"\0")[2][1:]
                profile = zlib.decompressobj().decompress(packed, _MAX_PROFILE_BYTES)
        elif kind not in {b"tEXt", b"zTXt", b"iTXt"}:
            kept.append(data[at:end])
        at = end
    return b"".join(kept), profile


def open_picture(image: Image.Image, *, shown: str, max_pixels: int) -> Image.Image:
    """Decode the pixels of an opened picture, after a look at its declared size."""
    _check_size(*image.size, shown=shown, max_pixels=max_pixels)
    with _decoding(shown):
        try:
            image.load()
        except Exception as error:
            if "closed" in str(error) or (getattr(image, "tile", None) and getattr(image, "fp", image) is None):
                raise ImageError(
                    f"{shown} was closed before its pixels were read. Use it inside the with block that opens it, call "
                    "image.load() there, or give the path of the file."
                ) from error
            raise
    return image


def _check_size(width: int, height: int, *, shown: str, max_pixels: int) -> None:
    """Refuse what is empty or too large, before memory is spent on it."""
    if width * height < 1:
        raise ImageError(f"{shown} is empty: {width} × {height} pixels (width × height). Choose another picture.")
    if width * height > max_pixels:
        raise ImageError(
            f"{shown} is too large ({width:,} × {height:,} = {width * height:,} pixels); at most {max_pixels:,} pixels "
            f"are allowed. {_SMALLER}; if you trust it, read it with read_image(photo, max_pixels=…)."
        )


@contextlib.contextmanager
def _decoding(shown: str) -> Iterator[None]:
    """Turn whatever Pillow raises into an ImageError: its plug-ins raise nearly anything for damaged files."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large sizes, which are checked here, and of odd metadata
            yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{shown} is too large: {error} (PIL.Image.MAX_IMAGE_PIXELS). {_SMALLER}.") from error
    except MemoryError as error:
        raise ImageError(f"{shown} does not fit into this machine's memory. {_SMALLER}.") from error
    except Exception as error:
        raise ImageError(
            f"{shown} is cut short or damaged, or of a rare kind ({str(error) or type(error).__name__}). Copy or "
            "download it again; if an image viewer can open it, save it from there as JPEG or PNG."
        ) from error


def _prepare_heic(data: bytes, shown: str) -> None:
    """Let Pillow read HEIC when pillow-heif is installed, and name it when it is not."""
    if data[4:8] != b"ftyp" or data[8:12] not in _HEIC_BRANDS or "HEIF" in Image.OPEN:
        return
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError as error:
        if b"avif" not in data[8:64]:  # mif1 is the outer brand of some AVIF files too, which Pillow reads by itself
            raise ImageError(
                f"{shown} is an HEIC photo, which needs one more package. Run: pip install pillow-heif. Or save the "
                "photo as JPEG first."
            ) from error


def parse_colour(colour: Any) -> tuple[int, int, int]:
    """Read ``"white"`` or ``"#rrggbb"`` as red, green and blue, 0 to 255."""
    try:
        return ImageColor.getrgb(colour)[:3]
    except Exception as error:  # no text, no colour, or an object of the caller's
        raise ImageError(
            f'{as_text(colour)} is not a colour. Give a name such as "white", or "#rrggbb" such as "#000000".'
        ) from error


def array_to_image(values: Any, *, shown: str, max_pixels: int) -> Image.Image:
    """Turn numbers into a picture of mode L, RGB or RGBA, 8 bits a channel."""
    try:
        array = np.asarray(values)
    except Exception as error:  # the object is the caller's: its __array__ can raise anything
        raise ImageError(
            f"{type(values).__name__} cannot be read as an array ({as_text(error, most=200)}). {_ARRAY} Convert it "
            "first: a tensor with .cpu().numpy()."
        ) from error
    given = f"{shown} ({' × '.join(map(str, array.shape)) or 'no dimensions'}, {array.dtype})"
    if array.ndim not in {2, 3} or (array.ndim == 3 and array.shape[2] not in {1, 3, 4}):
        raise ImageError(
            f"{given} is not a photo. {_ARRAY} Give one photo of that shape: array[0] takes the first of several, "
            "array.transpose(1, 2, 0) puts channels last."
        )
    _check_size(array.shape[1], array.shape[0], shown=given, max_pixels=max_pixels)
    squeezed = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    return Image.fromarray(np.ascontiguousarray(_as_bytes(squeezed, given)))


def _as_bytes(array: npt.NDArray[Any], given: str) -> npt.NDArray[np.uint8]:
    """Scale every allowed number type to 0..255, to the nearest."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.newbyteorder("=") == np.uint16:
        wide = array.astype(np.uint32)
        wide += 128
        wide //= 257  # 65535 / 255, exactly
        return wide.astype(np.uint8)
    if array.dtype.kind != "f":
        raise ImageError(
            f"{given} is ambiguous: its full scale is not known. {_ARRAY} Convert it first, for example "
            "array.astype(np.uint8) for values from 0 to 255."
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # resampling leaves a rounding error outside 0..1; NaN fails here too
        raise ImageError(
            f"{given} runs from {low:.4g} to {high:.4g}. {_ARRAY} Scale it first: array / 255, or (array + 1) / 2 for "
            "values from -1 to 1, or np.nan_to_num(array)."
        )
    scaled = array.clip(0, 1)  # from here on in place: a float is 4 or 8 bytes
    scaled *= 255
    return np.asarray(np.rint(scaled, out=scaled), np.uint8)


def upright_srgb(image: Image.Image, *, shown: str) -> Image.Image:
    """Make a loaded picture of any mode into the RGB photo that people see, on white, without its metadata."""
    orientation, profile, clear = _orientation(image, shown), image.info.get("icc_profile"), None
    with _decoding(shown):
        image = _eight_bits(image, shown)
        if image.has_transparency_data:
            full = image if image.mode in {"RGBA", "LA"} else image.convert("RGBA")
            clear = ImageOps.invert(full.getchannel("A"))
            del full  # each copy of a large photo is hundreds of megabytes
        if image.mode in {"1", "LA"}:
            image = image.convert("L")
        elif image.mode not in {"L", "RGB", "RGBA", "CMYK", "LAB"}:
            image = image.convert("RGBA")  # straight to RGB, Pillow warns of some palettes
    image = _to_srgb(image, profile, shown)
    if clear is not None:
        image.paste("white", mask=clear)
    image.info = {}
    if orientation == 1:
        return image
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(image)


def _eight_bits(image: Image.Image, shown: str) -> Image.Image:
    """Bring greyscale of 16 or 32 bits and of floats to 8 bits; Pillow's own convert() would clip at 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "I" and 0 <= values.min() <= values.max() <= 65535:  # 8 or 16 bits in Pillow's 32-bit mode
        values = values.astype(np.uint8 if values.max() <= 255 else np.uint16)
    return array_to_image(values, shown=shown, max_pixels=values.size)


def _to_srgb(image: Image.Image, profile: Any, shown: str) -> Image.Image:
    """Convert by the profile; without one, or with one that is broken, by Pillow's plain formulas."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            given = image.convert("RGB") if image.mode == "L" and source.profile.xcolor_space == "RGB " else image
            # Perceptual, the default: exact for RGB profiles, and keeps detail in the shadows of CMYK
            return ImageCms.profileToProfile(given, source, ImageCms.createProfile("sRGB"), outputMode="RGB") or given
        except Exception as error:  # noqa: BLE001 - no bytes, no profile, for other pixels, a Pillow without LittleCMS
            message = f"{shown}: the colour profile cannot be used ({error}); the colours are taken as they are."
            warnings.warn(message, SvdkitWarning, stacklevel=5)
    return image.convert("RGB")


def _orientation(image: Image.Image, shown: str) -> Any:
    """Read the EXIF orientation of a stored picture; other tags may be broken."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd tags
            return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # noqa: BLE001 - broken EXIF raises nearly anything
        message = f"{shown}: the EXIF data cannot be read ({error}), so the photo is shown as it is stored."
        warnings.warn(message, SvdkitWarning, stacklevel=5)
        return 1
