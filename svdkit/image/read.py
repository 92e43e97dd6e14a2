"""Any source of a photo (sample, path, address, bytes, open file, picture, array) → an upright sRGB photo."""

from __future__ import annotations

import difflib
import importlib.resources
import operator
import os
import re
import stat
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from PIL import Image

from svdkit.errors import ImageError
from svdkit.image.arrays import array_to_image
from svdkit.image.colour import parse_colour, upright_srgb
from svdkit.image.decode import load, open_image
from svdkit.image.fetch import fetch, printable, public_address

# Twice Pillow's default MAX_IMAGE_PIXELS, where Pillow itself begins to refuse (a 13,377 × 13,377 photo).
MAX_PIXELS: Final = 178_956_970
# A 16-bit TIFF of that size is just below this; a film given by mistake is far above.
MAX_FILE_BYTES = 2**30

# Where a photo carries the name of its source, so that it reaches the clip's provenance.
SOURCE_KEY = "svdkit_source"

_SAMPLES = ("rocket", "coffee", "cat")
_ALLOWED = "Give a path, an http(s) address, bytes, an open binary file, a PIL image, an array or the name of a sample"

# Two letters at least, for C:\photo.jpg is a path.
_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]+):(//)?", re.IGNORECASE)
_SCHEME_ADVICE = {
    "file": "Give the plain path instead, without file://.",
    "data": "Decode it first and give the bytes: base64.b64decode(text.split(',')[1]).",
    "ftp": "Download the picture first and give its path.",
}


def sample_photos() -> tuple[str, ...]:
    """Name the photographs that ship with svdkit; their authors and licences are in ``samples/LICENSES.md``.

    Returns:
        Names that `sample_photo`, `read_image`, `fit` and ``generate`` accept.

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
        raise ImageError(f"{printable(str(name))!r} is not a sample photo. The samples are: {', '.join(_SAMPLES)}.")
    return read_image(name)


def read_image(source: Any, *, max_pixels: int = MAX_PIXELS, background: str = "white") -> Image.Image:
    """Read a photo from whatever holds it.

    JPEG, PNG, WebP, TIFF, GIF, HEIC (with the package pillow-heif), AVIF, BMP, JPEG 2000 and PPM are read, whatever
    the file is called; of an animation, its first frame. The EXIF orientation is applied, the colour profile
    converted to sRGB, transparency laid over the background, and 16-bit channels scaled to 8.

    Args:
        source: The name of a sample (`sample_photos`), a path (text or ``PathLike``), an ``http://`` or ``https://``
            address, the bytes of a file, an open binary file (read from its start), a PIL image, or an array:
            height × width (× 1, 3 or 4), uint8, uint16 or floats from 0 to 1. A file that has a sample's name is
            read with ``Path("rocket")``.
        max_pixels: The most pixels allowed, height × width; checked before anything is decoded.
        background: What shows through transparent parts: a colour name or ``"#rrggbb"``.

    Returns:
        A new picture: RGB, 8 bits a channel, sRGB, upright. Its ``info`` holds nothing but the source's name.

    Raises:
        ImageError: The source is not a photo, cannot be reached or read, or is too large.

    Example:
        >>> read_image("cat").size, read_image("cat").mode
        ((451, 300), 'RGB')
    """
    parse_colour(background)
    limit = _positive(max_pixels)
    if isinstance(source, Image.Image):
        name = source.info.get(SOURCE_KEY) or getattr(source, "filename", None)
        image, shown = load(source, shown="the PIL image", max_pixels=limit), "the PIL image"
    elif hasattr(source, "__array__") or hasattr(source, "__array_interface__"):
        name, shown = None, "the array"
        image = array_to_image(source, max_pixels=limit)
    else:
        data, name, shown, hint = _read_bytes(source)
        image = open_image(data, shown=shown, max_pixels=limit, hint=hint)
    photo = upright_srgb(image, background=background, shown=shown)
    if name := _last_part(name):
        photo.info[SOURCE_KEY] = name
    return photo


def _read_bytes(source: Any) -> tuple[bytes, object, str, str]:
    """Get the bytes of a file from wherever it is; also its name, what to call it in messages, and a hint."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), None, f"the data ({len(source):,} bytes)", ""
    if isinstance(source, str):
        if source in _SAMPLES:
            sample = importlib.resources.files("svdkit") / "samples" / f"{source}.jpg"
            return sample.read_bytes(), source, f"the sample {source}", ""
        if scheme := _SCHEME.match(source):
            return _read_address(source, scheme)
    if isinstance(source, str | os.PathLike):
        text = os.fsdecode(source)
        return _read_file(text), text, printable(text), ""
    if hasattr(source, "read"):
        return _read_stream(source), getattr(source, "name", None), "the open file", ""
    raise ImageError(f"{type(source).__name__} is not a source of a photo. {_ALLOWED}: {', '.join(_SAMPLES)}.")


def _read_address(text: str, scheme: re.Match[str]) -> tuple[bytes, object, str, str]:
    """Download from the web, refuse other schemes; a file whose name has a colon in it is still a file."""
    kind = scheme[1].lower()
    if kind in {"http", "https"}:
        data, content_type = fetch(text.strip())
        hint = f"The server calls it {content_type}." if content_type else ""
        return data, unquote(urlsplit(public_address(text.strip())).path), public_address(text.strip()), hint
    if not scheme[2] and kind not in _SCHEME_ADVICE:
        return _read_file(text), text, printable(text), ""
    shown = public_address(text) if scheme[2] else f"{kind}:…"
    advice = _SCHEME_ADVICE.get(kind, "Download the picture first and give its path.")
    raise ImageError(f"{shown} has the scheme {kind}:, but only http: and https: are allowed. {advice}")


def _read_file(text: str) -> bytes:
    """Read a file, or say why not in the words the user used."""
    shown = printable(text)
    if not text:
        raise ImageError(f"an empty text names no photo. {_ALLOWED}: {', '.join(_SAMPLES)}.")
    try:
        path = Path(text).expanduser()
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{shown} is a folder, not a photo. Give the path of one file in it.")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device could wait or go on for ever
            raise ImageError(f"{shown} is a device or a pipe, not a file. Give the path of a picture file.")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageError(
                f"{shown} is too large for a photo: {status.st_size:,} bytes, at most {MAX_FILE_BYTES:,} are allowed. "
                "Save a smaller copy first."
            )
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(_missing(text)) from error
    except PermissionError as error:
        raise ImageError(
            f"{shown} cannot be read: permission denied. Allow reading (chmod +r on Linux and macOS), or copy the file "
            "to a folder of yours."
        ) from error
    except (OSError, ValueError, RuntimeError, MemoryError) as error:  # disk error; null byte; no home for ~
        reason = getattr(error, "strerror", None) or error
        raise ImageError(
            f"{shown} cannot be read ({reason}). Check the path, or copy the file to this machine."
        ) from error


def _missing(text: str) -> str:
    """Say that there is no such file, and name the one that was probably meant."""
    name = os.path.basename(text)  # noqa: PTH119 - Path drops a trailing slash and so the mistake
    try:
        nearby = [entry.name for entry in os.scandir(Path(text).expanduser().parent)]
    except (OSError, ValueError, RuntimeError):
        nearby = []
    if likely := difflib.get_close_matches(name, [*nearby, *_SAMPLES], n=1):
        return f"{printable(text)} does not exist. Did you mean {printable(likely[0])!r}?"
    return (
        f"{printable(text)} does not exist. Check the path (relative ones begin at the folder that Python runs in), or "
        f"use a sample: {', '.join(_SAMPLES)}."
    )


def _read_stream(stream: Any) -> bytes:
    """Read an open file from its start, and leave it open."""
    try:
        if hasattr(stream, "seekable") and stream.seekable():
            stream.seek(0)
        data = stream.read(MAX_FILE_BYTES + 1)
    except Exception as error:  # the object is the caller's: its read() can raise anything
        raise ImageError(
            f"the open file cannot be read ({type(error).__name__}: {error}). Open it with open(path, 'rb') and keep "
            "it open, or give the path."
        ) from error
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ImageError(
            f"the open file gives {type(data).__name__}, not bytes. Open it in binary mode: open(path, 'rb')."
        )
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(
            f"the open file is too large for a photo: more than {MAX_FILE_BYTES:,} bytes. Save a smaller copy."
        )
    return bytes(data)


def _positive(max_pixels: int) -> int:
    """Check the limit; a limit below one pixel would refuse everything with a puzzling message."""
    try:
        limit = operator.index(max_pixels)
    except TypeError:
        limit = 0
    if limit < 1:
        raise ImageError(f"max_pixels={max_pixels!r} is not a limit. Give a whole number of pixels, 1 or more.")
    return limit


def _last_part(name: object) -> str | None:
    """Keep the file's name only: where somebody keeps their photos must not travel with a clip."""
    if not isinstance(name, str | bytes | os.PathLike):
        return None
    text = os.fsdecode(name)
    return printable(re.split(r"[/\\]", text)[-1]) or None
