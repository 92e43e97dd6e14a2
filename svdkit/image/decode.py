"""The bytes of a file → a picture: what is in the file decides, not its name."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator

from PIL import Image, UnidentifiedImageError

from svdkit.errors import ImageError

# Photo formats only. Pillow knows 40 more; some of them start other programs (EPS runs Ghostscript).
# MPO is the JPEG of many phones: several pictures in one file, the photo first.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "GIF", "HEIF", "AVIF", "BMP", "JPEG2000", "PPM")
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_SMALLER = "Make it smaller in an image editor first"


def decode(data: bytes, *, shown: str, max_pixels: int) -> Image.Image:
    """Decode a file, the first frame of several; ``shown`` is what messages call it."""
    if not data:
        raise ImageError(f"{shown} is empty. Copy or download it again, or choose another file.")
    _prepare_heic(data, shown)
    Image.init()
    known = [
        name for name in _FORMATS if name in Image.OPEN
    ]  # Pillow raises KeyError for one that it was built without
    with decoding(shown):
        try:
            image = Image.open(io.BytesIO(data), formats=known)
        except UnidentifiedImageError as error:
            raise ImageError(
                f"{shown} is not a photo, or damaged. Allowed are JPEG, PNG, WebP, TIFF, GIF, HEIC, AVIF, BMP, JPEG "
                "2000 and PPM. Copy or download it again, or save it as JPEG or PNG from what can open it."
            ) from error
    return load(image, shown=shown, max_pixels=max_pixels)


def load(image: Image.Image, *, shown: str, max_pixels: int) -> Image.Image:
    """Decode the pixels of an opened picture, after a look at its declared size."""
    check_size(*image.size, shown=shown, max_pixels=max_pixels)
    with decoding(shown):
        image.load()
    return image


def check_size(width: int, height: int, *, shown: str, max_pixels: int) -> None:
    """Refuse what is empty or too large, before memory is spent on it."""
    if width * height < 1:
        raise ImageError(f"{shown} is empty: {width} × {height} pixels (width × height). Choose another picture.")
    if width * height > max_pixels:
        raise ImageError(
            f"{shown} is too large ({width:,} × {height:,} = {width * height:,} pixels); at most {max_pixels:,} pixels "
            f"are allowed. {_SMALLER}; if you trust it, read it with read_image(photo, max_pixels=…)."
        )


@contextlib.contextmanager
def decoding(shown: str) -> Iterator[None]:
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
