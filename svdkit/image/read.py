"""Any source of a photo (sample, path, address, bytes, open file, picture, array) → an upright sRGB photo."""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import re
import socket
import threading
import time
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, Request, build_opener

from PIL import Image

from svdkit.errors import ImageError
from svdkit.errors import shown as as_text
from svdkit.given import user_path
from svdkit.image.decode import to_photo

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
    "Give the path of a file that you may read, an http(s) address, bytes, a file opened with open(path, 'rb'), a PIL "
    f"image, an array or the name of a sample: {', '.join(_SAMPLES)}."
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
    found, name, shown = _find(source)
    photo = to_photo(found, shown=shown, max_pixels=max_pixels)
    if isinstance(name, str) and (last := re.split(r"[/\\]", name)[-1]):
        photo.info[SOURCE_KEY] = _printable(last)  # never the folder: it must not travel with a clip
    return photo


def _find(source: Any) -> tuple[Any, Any, str]:
    """Find the picture, array or bytes that a source holds; also its name, and what to call it in messages."""
    if isinstance(source, Image.Image):
        return source, source.info.get(SOURCE_KEY, getattr(source, "filename", None)), "the PIL image"
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), None, f"the data ({len(source):,} bytes)"
    if hasattr(type(source), "__array__"):
        return source, None, "the array"
    if isinstance(source, str):
        if not source:
            raise ImageError(f"an empty text names no photo. {_ALLOWED}")
        if source in _SAMPLES:
            sample = importlib.resources.files("svdkit") / "samples" / f"{source}.jpg"
            return sample.read_bytes(), source, f"the sample {source}"
        if re.match(r"(?i)\s*([a-z][a-z0-9+.-]+://|data:)", source):
            is_data = source.strip()[:5].lower() == "data:"  # which holds the picture itself
            shown = "data:…" if is_data else _public_address(source.strip())
            return _fetch(source.strip(), shown), unquote(urlsplit(shown).path), shown
    return _read_file(source)


def _read_file(source: Any) -> tuple[bytes, Any, str]:
    """Read a file by its path, or one that is open; say why not in the words the user used."""
    shown = as_text(source)
    try:
        if not isinstance(source, str | os.PathLike):
            return _bytes_of(source, "the open file"), getattr(source, "name", None), "the open file"
        text = os.fsdecode(source)
        shown = _printable(text)
        return _bytes_of(user_path(text), shown), text, shown
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(
            f"{shown} does not exist. Check the path (relative ones begin at the folder that Python runs in), or use a "
            f"sample: {', '.join(_SAMPLES)}."
        ) from error
    except Exception as error:  # no right, disk error; null byte; an object of the caller's can raise anything
        reason = getattr(error, "strerror", None) or as_text(error, most=200)
        raise ImageError(f"{shown} cannot be read ({reason}). {_ALLOWED}") from error


def _bytes_of(file: Any, shown: str) -> bytes:
    """Read a path; or an open file from its start, which stays open."""
    if isinstance(file, Path):
        if file.exists() and not file.is_file():  # a pipe or device could be read for ever
            raise ImageError(f"{shown} is a folder or a device, not a file. Give the path of one picture file.")
        with file.open("rb") as stream:
            return _bytes_of(stream, shown)
    if getattr(file, "seekable", lambda: False)():
        file.seek(0)
    data = bytes(file.read(MAX_FILE_BYTES + 1))
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(
            f"{shown} is too large for a photo: more than {MAX_FILE_BYTES:,} bytes. Save a smaller copy first."
        )
    return data


def _fetch(url: str, shown: str) -> bytes:
    """Download a photo under a limit of time and bytes; proxies are taken from the environment, as usual."""
    if not re.match("(?i)https?:", url):
        raise ImageError(
            f"{shown} is an address, but only those with http: and https: are allowed. Save the picture on this "
            "machine and give its plain path, or give its bytes."
        )
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ImageError(f"{shown}: addresses with a user name or password in them are not allowed. {_INSTEAD}")
    received, faults, sockets = bytearray(), list[Exception](), list[socket.socket]()

    def download() -> None:
        try:
            _download(url, received, sockets)
        except Exception as error:  # noqa: BLE001 - raised below; urllib and http raise many kinds
            faults.append(error)
            if isinstance(error, HTTPError):
                error.close()

    # In a thread that can be left: a server may send a head, a "100 Continue" or a trailer byte by byte, for ever.
    work = threading.Thread(target=download, name="svdkit-download", daemon=True)
    work.start()
    work.join(DOWNLOAD_TIMEOUT_SECONDS)
    is_late = work.is_alive()
    for each in sockets if is_late else ():
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)  # which ends the thread as well
    if is_late or len(received) > MAX_DOWNLOAD_BYTES:
        raise ImageError(
            f"{shown} is too large or too slow: {len(received):,} bytes came, of at most {MAX_DOWNLOAD_BYTES:,} in "
            f"{DOWNLOAD_TIMEOUT_SECONDS:.0f} s. Give the address of a smaller picture. {_INSTEAD}"
        )
    for fault in faults:
        raise ImageError(
            f"{shown} cannot be reached ({_printable(str(fault)) or type(fault).__name__}). Check the address, which "
            "looks like https://example.org/photo.jpg, and the network, and open it in a browser to see whether it is "
            f"public. {_INSTEAD}"
        ) from fault
    return bytes(received)


class _Web(HTTPHandler, HTTPSHandler):
    """Opens addresses, and keeps the sockets of the answers."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self.sockets = sockets

    def do_open(self, http_class: Any, req: Any, **options: Any) -> Any:
        """Connect as usual."""

        def answer(sock: socket.socket, *how: Any, **more: Any) -> HTTPResponse:
            self.sockets.append(sock)
            return HTTPResponse(sock, *how, **more)

        def connect(*where: Any, **more: Any) -> Any:
            made = http_class(*where, **more)
            made.response_class = answer
            return made

        return super().do_open(connect, req, **options)


def _download(url: str, received: bytearray, sockets: list[socket.socket]) -> None:
    """Receive the body of an answer, piece by piece: a server may declare any length."""
    end = time.monotonic() + DOWNLOAD_TIMEOUT_SECONDS + 1  # when nobody waits any more
    address = quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    headers = {"User-Agent": "Mozilla/5.0 (svdkit)"}  # urllib's own name is refused by many sites
    request = Request(address, headers=headers)  # noqa: S310 - only http and https come here
    with build_opener(_Web(sockets)).open(request, timeout=_ANSWER_TIMEOUT_SECONDS) as response:
        if not isinstance(response, HTTPResponse):  # urllib follows redirects to ftp, but not to file
            raise OSError("it leads on to an address that is not http or https")
        while len(received) <= MAX_DOWNLOAD_BYTES and time.monotonic() < end and (piece := response.read1(1 << 16)):
            received += piece
        if response.length:
            raise OSError(f"it was cut short, {response.length:,} bytes are missing; try again")


def _public_address(url: str) -> str:
    """Shorten an address to what may be shown and kept: no user, password, query (often a token) or fragment."""
    return _printable(re.sub(r"(?s)^([^:]*://)([^/]*@)?([^?#]*).*$", r"\1\3", url))


def _printable(text: str) -> str:
    """Escape control characters and lone surrogates, and cut to 120 characters."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:121])
    return shown if len(shown) <= 120 else f"{shown[:119]}…"
