"""The bytes of a file → a picture: what is in the file decides, not its name."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from svdkit.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Photo formats only. Pillow knows 40 more; some of them start other programs (EPS runs Ghostscript).
# MPO is the JPEG of many phones: several pictures in one file, the photo first.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "GIF", "HEIF", "AVIF", "BMP", "JPEG2000", "PPM")
ALLOWED_FORMATS = "JPEG, PNG, WebP, TIFF, GIF, HEIC, AVIF, BMP, JPEG 2000 and PPM"

# What Pillow's plug-ins raise for damaged files. By trial: OSError (truncated or broken data; UnidentifiedImageError
# is one), ValueError (sizes, numbers, closed files), SyntaxError (PNG and TIFF headers), RuntimeError (WebP and AVIF
# decoders). By reading them: EOFError (a missing frame), LookupError (TIFF tags, JPEG tables), ArithmeticError
# (rationals with 0 below, overflows), TypeError and AttributeError (tags of the wrong kind, closed files),
# AssertionError (TIFF), struct.error (short headers), zlib.error (PNG text), MemoryError, SystemError from C code.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
    struct.error,
    zlib.error,
    MemoryError,
    SystemError,
)

_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

# The first bytes of photos: with these, what cannot be identified is damaged. Then those of common mistakes.
_PHOTO_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\x00", b"MM\x00*", b"\x00\x00\x00\x0cjP")
_STRANGERS = (
    (b"%PDF", "a PDF document: take a picture out of it first"),
    (b"8BPS", "a Photoshop file: export it as PNG first"),
    (b"PK\x03\x04", "a ZIP archive: unpack it first"),
    (b"\x93NUMPY", "a NumPy file: give numpy.load(file) instead"),
    (b"\x1aE\xdf\xa3", "a video: save one frame as a picture first"),
    (b"RIFF", "a sound or a video: save one frame as a picture first"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run git lfs pull first"),
)


def open_image(data: bytes, *, shown: str, max_pixels: int, hint: str = "") -> Image.Image:
    """Decode a photo that stands in memory.

    Args:
        data: The whole file.
        shown: What messages call it.
        max_pixels: The most pixels allowed, height × width; checked before anything is decoded.
        hint: A sentence more for when it is no picture, for example what the server called it.

    Returns:
        Pillow's picture, loaded, in the file's own mode, with its ``info``. The first frame of several.

    Raises:
        ImageError: The data is empty, no photo, too large, cut short or damaged, or needs a plug-in.

    Example:
        >>> open_image(b"", shown="photo.jpg", max_pixels=100)
        Traceback (most recent call last):
        svdkit.errors.ImageError: photo.jpg is empty. Copy or download it again, or choose another file.
    """
    if not data:
        raise ImageError(f"{shown} is empty. Copy or download it again, or choose another file.")
    _prepare_heic(data, shown)
    with _decoding(shown, max_pixels):
        try:
            image = Image.open(io.BytesIO(data), formats=_known_formats())
        except UnidentifiedImageError as error:
            damaged = _damaged(shown, "its header makes no sense")
            raise (damaged if _photo_start(data) else _unknown(data, shown, hint)) from error
    return load(image, shown=shown, max_pixels=max_pixels)


def load(image: Image.Image, *, shown: str, max_pixels: int) -> Image.Image:
    """Decode the pixels of an opened picture, after a look at its declared size.

    Args:
        image: A picture, decoded or not.
        shown: What messages call it.
        max_pixels: The most pixels allowed, height × width.

    Returns:
        The same picture, loaded.

    Raises:
        ImageError: It is empty, too large, cut short or damaged.

    Example:
        >>> load(Image.new("L", (3, 2)), shown="a picture", max_pixels=100).size
        (3, 2)
    """
    width, height = image.size
    if min(width, height) < 1:
        raise ImageError(f"{shown} is empty: {width} × {height} pixels (width × height). Choose another picture.")
    if width * height > max_pixels:
        raise _too_large(shown, f"{width:,} × {height:,} = {width * height:,} pixels", max_pixels)
    with _decoding(shown, max_pixels):
        image.load()
    return image


@contextlib.contextmanager
def _decoding(shown: str, max_pixels: int) -> Iterator[None]:
    """Turn whatever Pillow raises into an ImageError, and keep its remarks to itself.

    It warns of large sizes, which are checked here, and of odd metadata, which does not concern the picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Image.DecompressionBombError as error:
        # Pillow has a limit of its own, and says the size in words only.
        declared = int("".join(filter(str.isdigit, str(error).partition(")")[0])) or 0)
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        raise _too_large(shown, f"{declared:,} pixels", limit) from error
    except DECODE_ERRORS as error:
        raise _damaged(shown, error) from error


def _known_formats() -> list[str]:
    """List the formats that this Pillow and its plug-ins can read; naming an absent one is a KeyError in Pillow."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _prepare_heic(data: bytes, shown: str) -> None:
    """Let Pillow read HEIC when pillow-heif is installed, and name it when it is not."""
    if data[4:8] != b"ftyp" or data[8:12] not in _HEIC_BRANDS or "HEIF" in Image.OPEN:
        return
    if importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()
    elif b"avif" not in data[8:64]:  # mif1 is the outer brand of some AVIF files too, which Pillow reads by itself
        raise ImageError(
            f"{shown} is an HEIC photo, which needs one more package. Run: pip install pillow-heif. Or save the photo "
            "as JPEG first."
        )


def _photo_start(data: bytes) -> bool:
    """Tell whether the data begins like a photo."""
    return data.startswith(_PHOTO_STARTS) or data[8:12] in {*_HEIC_BRANDS, b"WEBP", b"avif"}


def _unknown(data: bytes, shown: str, hint: str) -> ImageError:
    """Say what the data seems to be instead of a photo."""
    head = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    seems = next((text for start, text in _STRANGERS if data.startswith(start)), "")
    if head.startswith(b"<"):
        seems = "a web page or a drawing (HTML, SVG or XML): open it in a browser and save the picture itself"
    elif data[4:8] == b"ftyp":
        seems = "a video, or a picture of a kind unknown here: save one frame as a picture first"
    detail = f"It seems to be {seems}." if seems else "Open it in an image viewer and save it as JPEG or PNG."
    return ImageError(
        " ".join(filter(None, [f"{shown} is not a photo.", hint, f"Allowed are {ALLOWED_FORMATS}.", detail]))
    )


def _damaged(shown: str, error: BaseException | str) -> ImageError:
    """Say that it is a photo, but cannot be decoded; too little memory is apart, for the file may be sound."""
    if isinstance(error, MemoryError):
        return ImageError(f"{shown} does not fit into this machine's memory. Make it smaller in an image editor first.")
    return ImageError(
        f"{shown} is cut short or damaged, or of a rare kind ({str(error) or type(error).__name__}). Copy or download "
        "it again; if an image viewer can open it, save it from there as JPEG or PNG."
    )


def _too_large(shown: str, size: str, max_pixels: int) -> ImageError:
    """Say how large it is and what is allowed."""
    return ImageError(
        f"{shown} is too large ({size}); at most {max_pixels:,} pixels are allowed. Make it smaller in an image editor "
        "first; if you trust it, read it with read_image(photo, max_pixels=…), which Pillow's own limit "
        "(twice PIL.Image.MAX_IMAGE_PIXELS) still bounds."
    )
