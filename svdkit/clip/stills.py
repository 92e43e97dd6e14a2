"""The formats that Pillow writes or reads: webp, gif, folders of PNG frames; and what all formats share."""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageSequence
from PIL.PngImagePlugin import PngInfo

from svdkit.clip.provenance import DIGITAL_SOURCE_TYPE
from svdkit.errors import ClipError
from svdkit.units import format_bytes

Frames = npt.NDArray[np.uint8]
"""uint8 RGB, shape (frames, height, width, 3), values 0 to 255."""

MAX_BYTES = 2**30
"""Raw frames that are read at most: 606 frames at 576x1024. More is a film or a decompression bomb."""

MAX_PIXELS = 7680 * 4320
"""Pixels of one frame at most (8K)."""

XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'xmp:CreatorTool="svdkit" Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta>'
    '<?xpacket end="w"?>'
)
"""The XMP packet that marks a file as AI-generated where other programs look for it."""

_EXIF_DESCRIPTION, _EXIF_SOFTWARE = 0x010E, 0x0131  # ImageDescription, Software: Exif 2.32, table 4


@dataclass(frozen=True, kw_only=True)
class Tags:
    """What a file says about itself.

    Attributes:
        comment: One line of ASCII, here the JSON of the provenance.
        title: Of the clip; None for a clip that svdkit did not make, which is then not marked as AI-generated.

    Example:
        >>> Tags(comment="{}", title="AI-generated video").title
        'AI-generated video'
    """

    comment: str
    title: str | None = None


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What a file holds.

    Attributes:
        frames: uint8 (frames, height, width, 3); equal neighbours may be one frame with a long delay.
        fps: Frames a second, as near as the file tells; None if it does not.
        delays: Milliseconds each frame is shown, 0 for a still picture; empty when all are equal.
        comment: The text the file carries, or None.
    """

    frames: Frames
    fps: float | None
    delays: tuple[float, ...] = ()
    comment: str | None = None

    def at(self, fps: float) -> Frames:
        """Return the frames at a steady rate, each repeated as often as its delay asks.

        Raises:
            ClipError: That would be more than ``MAX_BYTES``.

        Example:
            >>> Decoded(frames=np.zeros((2, 1, 1, 3), np.uint8), fps=10, delays=(100, 200)).at(10).shape
            (3, 1, 1, 3)
        """
        repeats = [max(1, round(delay * fps / 1000)) for delay in self.delays]
        if sum(repeats) == len(repeats):
            return self.frames
        check_size(height=self.frames.shape[1], width=self.frames.shape[2], num_frames=sum(repeats))
        return np.repeat(self.frames, repeats, axis=0)


def check_size(*, height: int, width: int, num_frames: int) -> None:
    """Refuse sizes that no clip has, before memory is asked for them.

    Raises:
        ClipError: A frame has more than ``MAX_PIXELS``, or all have more than ``MAX_BYTES``.

    Example:
        >>> check_size(height=576, width=1024, num_frames=25)
    """
    if height * width > MAX_PIXELS:
        raise ClipError(f"frames of {width}x{height} pixels are larger than 8K ({MAX_PIXELS:,}); scale them down")
    if num_frames > (fitting := MAX_BYTES // (height * width * 3)):
        limit = format_bytes(MAX_BYTES)
        raise ClipError(f"{num_frames} frames of {width}x{height}: {fitting} fit into {limit}; cut the clip")


def resize(frames: Frames, *, scale: float) -> Frames:
    """Scale frames by a factor (Lanczos), to even sizes.

    Args:
        frames: uint8 (frames, height, width, 3).
        scale: Factor on both sides, above 0 to 16.

    Raises:
        ClipError: The factor is outside, or the result too large.

    Example:
        >>> resize(np.zeros((1, 72, 128, 3), np.uint8), scale=4).shape
        (1, 288, 512, 3)
    """
    if not 0 < scale <= 16:
        raise ClipError(f"scale is {scale!r}; give a factor above 0, at most 16")
    height, width = (max(2, 2 * round(side * scale / 2)) for side in frames.shape[1:3])
    check_size(height=height, width=width, num_frames=len(frames))
    scaled = [Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS) for frame in frames]
    return np.stack([np.asarray(image) for image in scaled])


def encode_png(frame: npt.NDArray[np.uint8], *, tags: Tags) -> bytes:
    """Encode one frame, uint8 (height, width, 3), as PNG with its metadata.

    Example:
        >>> encode_png(np.zeros((8, 8, 3), np.uint8), tags=Tags(comment="{}"))[1:4]
        b'PNG'
    """
    info = PngInfo()
    info.add_text("Comment", tags.comment)
    if tags.title:
        info.add_text("Title", tags.title)
        info.add_text("Software", "svdkit")
        info.add_itxt("XML:com.adobe.xmp", XMP)
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def encode_webp(frames: Frames, *, fps: float, tags: Tags | None = None) -> bytes:
    """Encode as animated webp, lossy of high quality.

    Args:
        frames: uint8 (frames, height, width, 3).
        fps: Playback, 0.1 to 240 frames a second.
        tags: Metadata; none when left out.

    Example:
        >>> encode_webp(np.zeros((2, 8, 8, 3), np.uint8), fps=7)[8:12]
        b'WEBP'
    """
    exif, xmp = Image.Exif(), b""
    if tags:
        exif[_EXIF_DESCRIPTION] = tags.comment
    if tags and tags.title:
        exif[_EXIF_SOFTWARE], xmp = "svdkit", XMP.encode()
    edges = [round(i * 1000 / fps) for i in range(len(frames) + 1)]  # whole milliseconds that add up to the duration
    delays = [after - before for before, after in itertools.pairwise(edges)]
    first, *others = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    first.save(
        buffer, "WEBP", save_all=True, append_images=others, duration=delays, quality=90, loop=0, exif=exif, xmp=xmp
    )
    return buffer.getvalue()


def decode_animation(path: Path) -> Decoded:
    """Read a gif or webp file, animated or still.

    Raises:
        ClipError: It is broken or too large.

    Example:
        >>> decode_animation(Path("walk.gif")).fps  # doctest: +SKIP
        7.142857142857143
    """
    stills: list[Frames] = []
    delays: list[float] = []
    with _pillow_errors(path), Image.open(path, formats=("GIF", "WEBP")) as image:
        exif = image.getexif() if image.format == "WEBP" else Image.Exif()
        comment = exif.get(_EXIF_DESCRIPTION, image.info.get("comment"))
        for still in ImageSequence.Iterator(image):
            check_size(height=image.height, width=image.width, num_frames=len(stills) + 1)
            stills.append(np.asarray(still.convert("RGB")))
            delays.append(float(still.info.get("duration", 0)))
        text = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else comment
    if len(delays) > 1:
        delays = [delay if delay >= 4 else 100.0 for delay in delays]  # none is above 240 fps; 0 is shown as 100 ms
    return Decoded(
        frames=np.stack(stills),
        fps=1000 / min(delays) if min(delays) else None,
        delays=tuple(delays),
        comment=text if isinstance(text, str) else None,
    )


def decode_folder(folder: Path) -> Decoded:
    """Read the .png files of a folder in the order of the numbers in their names.

    Raises:
        ClipError: There is none, one is broken, or their sizes differ.

    Example:
        >>> decode_folder(Path("walk_frames")).frames.shape  # doctest: +SKIP
        (14, 72, 128, 3)
    """
    paths = [path for path in folder.iterdir() if path.suffix.lower() == ".png"]
    if not paths:
        raise ClipError(f"{folder} holds no .png frames; give a folder that Clip.save wrote, or a video file")
    paths.sort(key=_by_numbers)
    pictures = [read_png(path, count=len(paths)) for path in paths]
    for path, picture in zip(paths, pictures, strict=True):
        if picture.size != pictures[0].size:
            raise ClipError(f"{path.name} is not as large as {paths[0].name}; all frames of a clip have one size")
    comment = pictures[0].info.get("Comment")
    frames = np.stack([np.asarray(picture) for picture in pictures])
    return Decoded(frames=frames, fps=None, comment=comment if isinstance(comment, str) else None)


def _by_numbers(path: Path) -> list[str | int]:
    """Return a sort key by which frame 10 comes after frame 9."""
    parts = re.split(r"([0-9]+)", path.name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def read_png(path: Path, *, count: int = 1) -> Image.Image:
    """Read a PNG file as RGB.

    Args:
        path: The file.
        count: How many as large will be kept; for the check of the size.

    Raises:
        ClipError: It is broken or too large.

    Example:
        >>> read_png(Path("walk_frames/0001.png")).mode  # doctest: +SKIP
        'RGB'
    """
    with _pillow_errors(path), Image.open(path, formats=("PNG",)) as image:
        check_size(height=image.height, width=image.width, num_frames=count)
        return image.convert("RGB")


@contextmanager
def _pillow_errors(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures and odd chunks; check_size decides
            yield
    except ClipError:
        raise
    except Exception as error:  # Pillow's readers raise many kinds: SyntaxError, EOFError, struct.error, OSError
        raise ClipError(f"{path.name} cannot be read ({error}); is it whole? Save or download it again") from error
