"""Any source of a photo (sample, path, address, bytes, open file, picture, array) → an upright sRGB photo."""

from __future__ import annotations

import importlib.resources
import io
import os
import re
import time
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, Request, build_opener

from PIL import Image

from svdkit.errors import ImageError
from svdkit.errors import shown as as_text
from svdkit.given import user_path
from svdkit.image.decode import array_to_image, decode_picture, open_picture, upright_srgb

# 12,000 × 9,000, as the largest photos of phones and cameras. A file of a few KB can declare as much, and reading it
# takes 9 bytes a pixel, 1 GB (18 as WebP, 25 as JPEG 2000).
MAX_PIXELS = 108_000_000
# A 16-bit TIFF of that size is just below this; a film given by mistake is far above.
MAX_FILE_BYTES = 2**30
# A 100-megapixel photo is 20 to 60 MB as a JPEG; more than this is not a photo that a clip needs.
MAX_DOWNLOAD_BYTES = 128 * 2**20
_ANSWER_TIMEOUT_SECONDS = 20.0
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
    if not isinstance(name, str) or name not in _SAMPLES:  # type: ignore[redundant-expr]  # callers are not typed
        raise ImageError(f"{as_text(name)} is not a sample photo. The samples are: {', '.join(_SAMPLES)}.")
    return read_image(name)


def read_image(source: Any, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a photo from whatever holds it.

    JPEG, PNG, WebP, TIFF, GIF, HEIC (with the package pillow-heif), AVIF, BMP, JPEG 2000 and PPM are read, whatever
    the file is called; of an animation, its first frame; of a photo and its preview, the photo. The EXIF orientation
    is applied, the colour profile converted to sRGB, transparency laid over white, and 16-bit channels scaled to 8.

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
        raise ImageError(f"max_pixels={as_text(max_pixels)} is not a limit. Give a whole number of pixels, 1 or more.")
    photo, name = _read(source, max_pixels)
    if isinstance(name, str | bytes | os.PathLike) and (last := re.split(r"[/\\]", os.fsdecode(name))[-1]):
        photo.info[SOURCE_KEY] = _printable(last)  # never the folder: it must not travel with a clip
    return photo


def _read(source: Any, max_pixels: int) -> tuple[Image.Image, Any]:
    """Read a photo and the name of its source; no stored picture is kept longer than its photo needs it."""
    if isinstance(source, Image.Image):
        shown, name = "the PIL image", source.info.get(SOURCE_KEY, getattr(source, "filename", None))
        return upright_srgb(open_picture(source, shown=shown, max_pixels=max_pixels), shown=shown), name
    if _has(source, "__array__") or _has(source, "__array_interface__"):
        shown = "the array"
        return upright_srgb(array_to_image(source, shown=shown, max_pixels=max_pixels), shown=shown), None
    data, name, shown = _read_bytes(source)
    return upright_srgb(decode_picture(data, shown=shown, max_pixels=max_pixels), shown=shown), name


def _has(source: Any, name: str) -> bool:
    try:
        return hasattr(source, name)
    except Exception:  # noqa: BLE001 - the object is the caller's: its __getattr__ can raise anything
        return False


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
        try:
            text = os.fsdecode(source)
        except Exception as error:
            raise ImageError(f"{type(source).__name__} names no file ({as_text(error)}). {_ALLOWED}") from error
        return _read_file(text), text, _printable(text)
    if _has(source, "read"):
        name = source.name if _has(source, "name") else None
        return _read_stream(source, "the open file"), name, "the open file"
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
            f"{shown} cannot be read ({as_text(error, most=200)}). Open it with open(path, 'rb') and keep it "
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
        with build_opener(_Web(shown)).open(request, timeout=_ANSWER_TIMEOUT_SECONDS) as response:
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


class _Web(HTTPHandler, HTTPSHandler):
    """http and https under one limit of time and bytes for all that a download receives, redirects included.

    The timeout of a socket is for one byte only: a head, a "100 Continue" or a trailer may come for ever.
    """

    def __init__(self, shown: str) -> None:
        super().__init__()
        self.shown, self.received, self.deadline = shown, 0, time.monotonic() + DOWNLOAD_TIMEOUT_SECONDS

    def do_open(self, http_class: Any, req: Request, **options: Any) -> Any:
        def answer(sock: Any, *rest: Any, **named: Any) -> HTTPResponse:
            limited: Any = _Limited(sock, self)
            return HTTPResponse(limited, *rest, **named)

        def connect(host: str, **more: Any) -> Any:
            connection = http_class(host, **more)
            connection.response_class = answer
            return connection

        return super().do_open(connect, req, **options)

    def check(self, count: int) -> float:
        """Count bytes that came; give the seconds left."""
        self.received += count
        left = self.deadline - time.monotonic()
        if left <= 0 or self.received > MAX_DOWNLOAD_BYTES:
            raise ImageError(
                f"{self.shown} is too large or too slow: {self.received:,} bytes came, of at most "
                f"{MAX_DOWNLOAD_BYTES:,} in {DOWNLOAD_TIMEOUT_SECONDS:.0f} s. Give the address of a smaller picture. "
                f"{_INSTEAD}"
            )
        return left


class _Limited(io.RawIOBase):
    """What an answer is read from, in a socket's place."""

    def __init__(self, sock: Any, web: _Web) -> None:
        self._sock, self._raw, self._web = sock, sock.makefile("rb", buffering=0), web

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(min(_ANSWER_TIMEOUT_SECONDS, self._web.check(0)))
        count = 0
        try:
            count = int(self._raw.readinto(buffer) or 0)
        finally:
            self._web.check(count)  # a timeout that is the deadline is said to be that
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _public_address(url: str) -> str:
    """Shorten an address to what may be shown and kept: no user, password, query (often a token) or fragment."""
    return _printable(re.sub(r"(?s)^([^:]*://)([^/]*@)?([^?#]*).*$", r"\1\3", url))


def _printable(text: str) -> str:
    """Escape control characters and lone surrogates, and cut to 120 characters."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:121])
    return shown if len(shown) <= 120 else f"{shown[:117]}..."


def _receive(response: Any, shown: str) -> bytes:
    """Read the body of an answer, in pieces: a server may declare any length."""
    if not isinstance(response, HTTPResponse):  # urllib follows redirects to ftp, but not to file
        raise ImageError(f"{shown} leads on to an address that is not http or https. {_INSTEAD}")
    declared, received = response.length or 0, b"".join(iter(lambda: response.read1(1 << 16), b""))
    if len(received) < declared:
        raise ImageError(f"{shown} was cut short: {len(received):,} of {declared:,} bytes came. Try again. {_INSTEAD}")
    return received
