"""Any source of a photo (sample, path, address, bytes, open file, picture, array) → an upright sRGB photo."""

from __future__ import annotations

import importlib.resources
import os
import re
import time
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

from PIL import Image

from svdkit.errors import ImageError
from svdkit.given import user_path
from svdkit.image.decode import array_to_image, decode, load, upright_srgb

# Twice Pillow's default MAX_IMAGE_PIXELS, where Pillow itself begins to refuse (a 13,377 × 13,377 photo).
MAX_PIXELS = 178_956_970
# A 16-bit TIFF of that size is just below this; a film given by mistake is far above.
MAX_FILE_BYTES = 2**30
# A 100-megapixel photo is 20 to 60 MB as a JPEG; more than this is not a photo that a clip needs.
MAX_DOWNLOAD_BYTES = 128 * 2**20
ANSWER_TIMEOUT_SECONDS = 20.0
# A server that sends a byte now and then never runs into the timeout above, so the whole is limited too.
DOWNLOAD_TIMEOUT_SECONDS = 120.0
# Where a photo carries the name of its source, so that it reaches the clip's provenance.
SOURCE_KEY = "svdkit_source"

_INSTEAD = "Or save the picture on this machine and give the path of the file."
_SAMPLES = ("rocket", "coffee", "cat")
_ALLOWED = (
    "Give a path, an http(s) address, bytes, an open binary file, a PIL image, an array or the name of a sample: "
    f"{', '.join(_SAMPLES)}."
)


def sample_photos() -> tuple[str, ...]:
    """Name the photographs that ship with svdkit; their authors and licences are in ``samples/LICENSES.md``.

    Returns:
        Names that `sample_photo`, and whatever takes a photo, accept.

    Example:
        >>> sample_photos()
        ('rocket', 'coffee', 'cat')
    """
    return _SAMPLES


def sample_photo(name: str) -> Image.Image:
    """Read one of the photographs that ship with svdkit.

    Args:
        name: One of `sample_photos`.

    Returns:
        The photo: RGB, 8 bits a channel, sRGB, about 640 × 427 pixels.

    Raises:
        ImageError: There is no sample of that name.

    Example:
        >>> sample_photo("rocket").size
        (640, 427)
    """
    if name not in _SAMPLES:
        raise ImageError(f"{_printable(str(name))!r} is not a sample photo. The samples are: {', '.join(_SAMPLES)}.")
    return read_image(name)


def read_image(source: Any, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a photo from whatever holds it.

    JPEG, PNG, WebP, TIFF, GIF, HEIC (with the package pillow-heif), AVIF, BMP, JPEG 2000 and PPM are read, whatever
    the file is called; of an animation, its first frame. The EXIF orientation is applied, the colour profile
    converted to sRGB, transparency laid over white, and 16-bit channels scaled to 8.

    Args:
        source: The name of a sample (`sample_photos`), a path (text or ``PathLike``), an ``http://`` or ``https://``
            address, the bytes of a file, an open binary file (read from its start), a PIL image, or an array:
            height × width (× 1, 3 or 4), uint8, uint16 or floats from 0 to 1. A file that has a sample's name is
            read with ``Path("rocket")``.
        max_pixels: The most pixels allowed, height × width; checked before anything is decoded.

    Returns:
        A new picture: RGB, 8 bits a channel, sRGB, upright. Its ``info`` holds nothing but the source's name.

    Raises:
        ImageError: The source is not a photo, cannot be reached or read, or is too large.

    Example:
        >>> read_image("cat").size, read_image("cat").mode
        ((451, 300), 'RGB')
    """
    if not isinstance(max_pixels, int) or max_pixels < 1:  # type: ignore[redundant-expr]  # callers are not typed
        raise ImageError(f"max_pixels={max_pixels!r} is not a limit. Give a whole number of pixels, 1 or more.")
    name: Any = None
    if isinstance(source, Image.Image):
        shown = "the PIL image"
        name = source.info.get(SOURCE_KEY, getattr(source, "filename", None))
        image = load(source, shown=shown, max_pixels=max_pixels)
    elif hasattr(source, "__array__") or hasattr(source, "__array_interface__"):
        shown = "the array"
        image = array_to_image(source, shown=shown, max_pixels=max_pixels)
    else:
        data, name, shown = _read_bytes(source)
        image = decode(data, shown=shown, max_pixels=max_pixels)
    photo = upright_srgb(image, shown=shown)
    if isinstance(name, str | bytes | os.PathLike) and (last := re.split(r"[/\\]", os.fsdecode(name))[-1]):
        photo.info[SOURCE_KEY] = _printable(last)  # never the folder: it must not travel with a clip
    return photo


def _read_bytes(source: Any) -> tuple[bytes, Any, str]:
    """Get the bytes of a file from wherever it is; also its name, and what to call it in messages."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), None, f"the data ({len(source):,} bytes)"
    if isinstance(source, str):
        if source in _SAMPLES:
            sample = importlib.resources.files("svdkit") / "samples" / f"{source}.jpg"
            return sample.read_bytes(), source, f"the sample {source}"
        if scheme := re.match(r"\s*([a-z][a-z0-9+.-]+://|data:)", source, re.IGNORECASE):
            shown = "data:…" if scheme[1].lower() == "data:" else _public_address(source.strip())
            if scheme[1].lower() not in {"http://", "https://"}:
                raise ImageError(
                    f"{shown} is an address, but only those with http: and https: are allowed. Save the picture on "
                    "this machine and give its plain path, or give its bytes."
                )
            return _fetch(source.strip()), unquote(urlsplit(shown).path), shown
    if isinstance(source, str | os.PathLike):
        text = os.fsdecode(source)
        return _read_file(text), text, _printable(text)
    if hasattr(source, "read"):
        return _read_stream(source, "the open file"), getattr(source, "name", None), "the open file"
    raise ImageError(f"{type(source).__name__} is not a source of a photo. {_ALLOWED}")


def _read_file(text: str) -> bytes:
    """Read a file, or say why not in the words the user used."""
    shown = _printable(text)
    if not text:
        raise ImageError(f"an empty text names no photo. {_ALLOWED}")
    try:
        path = user_path(text)
        if path.exists() and not path.is_file():  # a pipe or device could be read for ever
            raise ImageError(f"{shown} is a folder or a device, not a file. Give the path of one picture file.")
        with path.open("rb") as stream:
            return _read_stream(stream, shown)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(
            f"{shown} does not exist. Check the path (relative ones begin at the folder that Python runs in), or use a "
            f"sample: {', '.join(_SAMPLES)}."
        ) from error
    except (OSError, ValueError) as error:  # no right, disk error; null byte
        reason = getattr(error, "strerror", None) or error
        raise ImageError(
            f"{shown} cannot be read ({reason}). Check the path and your rights, or copy the file to a folder of yours."
        ) from error


def _read_stream(stream: Any, shown: str) -> bytes:
    """Read an open file from its start, and leave it open."""
    try:
        if hasattr(stream, "seekable") and stream.seekable():
            stream.seek(0)
        data = stream.read(MAX_FILE_BYTES + 1)
    except Exception as error:  # the object may be the caller's: its read() can raise anything
        raise ImageError(
            f"{shown} cannot be read ({type(error).__name__}: {error}). Open it with open(path, 'rb') and keep it "
            "open, or give the path."
        ) from error
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ImageError(f"{shown} gives {type(data).__name__}, not bytes. Open it in binary mode: open(path, 'rb').")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(
            f"{shown} is too large for a photo: more than {MAX_FILE_BYTES:,} bytes. Save a smaller copy first."
        )
    return bytes(data)


def _fetch(url: str) -> bytes:
    """Download a photo from an http or https address; proxies are taken from the environment, as usual."""
    shown = _public_address(url)
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ImageError(f"{shown}: addresses with a user name or password in them are not allowed. {_INSTEAD}")
    try:
        address = quote(url, safe="%/:=&?~#+!$,;'@()*[]")
        headers = {"User-Agent": "Mozilla/5.0 (svdkit)"}  # urllib's own name is refused by many sites
        request = Request(address, headers=headers)  # noqa: S310 - read_image lets only http and https through
        with urlopen(request, timeout=ANSWER_TIMEOUT_SECONDS) as response:  # noqa: S310 - the same
            return _receive(response, shown)
    except HTTPError as error:
        error.close()
        said = _printable(str(error.reason))
        raise ImageError(
            f"{shown} answered with HTTP error {error.code} ({said}), not with a picture. Open the address in a "
            f"browser to see whether it exists and is public. {_INSTEAD}"
        ) from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a malformed host, port or name
        reason = error.reason if isinstance(error, URLError) else error
        raise ImageError(
            f"{shown} cannot be reached ({reason or type(reason).__name__}). Check the address, which looks like "
            f"https://example.org/photo.jpg, and the network. {_INSTEAD}"
        ) from error


def _public_address(url: str) -> str:
    """Shorten an address to what may be shown and kept: no user, password, query (often a token) or fragment."""
    return _printable(re.sub(r"(?s)^([^:]*://)([^/]*@)?([^?#]*).*$", r"\1\3", url))


def _printable(text: str) -> str:
    """Escape control characters and lone surrogates, and cut to 120 characters."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:121])
    return shown if len(shown) <= 120 else f"{shown[:117]}..."


def _receive(response: Any, shown: str) -> bytes:
    """Read the body in pieces, and stop as soon as it is too long or takes too long."""
    if not isinstance(response, HTTPResponse):  # urllib follows redirects to ftp, but not to file
        raise ImageError(f"{shown} leads on to an address that is not http or https. {_INSTEAD}")
    declared, received = response.length or 0, bytearray()
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT_SECONDS
    while chunk := response.read1(1 << 16):
        received += chunk
        if len(received) > MAX_DOWNLOAD_BYTES or time.monotonic() > deadline:
            raise ImageError(
                f"{shown} is too large or too slow: {len(received):,} bytes came, of at most {MAX_DOWNLOAD_BYTES:,} in "
                f"{DOWNLOAD_TIMEOUT_SECONDS:.0f} s. Give the address of a smaller picture. {_INSTEAD}"
            )
    if len(received) < declared:
        raise ImageError(f"{shown} was cut short: {len(received):,} of {declared:,} bytes came. Try again. {_INSTEAD}")
    return bytes(received)
