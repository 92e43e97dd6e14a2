"""A clip: its frames, how fast they play, where they come from; its files and its look in a notebook."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from svdkit.clip.formats import Frames, check_size, encode_file
from svdkit.clip.provenance import Document, Provenance, check_fps, clip_number
from svdkit.clip.storage import read_clip, resize, write_clip
from svdkit.errors import ClipError
from svdkit.settings.base import number
from svdkit.units import format_count

__all__ = ["Provenance", "Clip"]

_SHORTEST, _LONGEST = 480, 768  # CSS pixels of the longer side on screen

# Colours are inherited and only dimmed, so that text is readable in light and dark notebooks.
_CAPTION_STYLE = "font:13px/1.5 system-ui,sans-serif;opacity:.8;margin-top:4px"
_VIDEO_STYLE = "display:block;width:100%;height:auto;image-rendering:auto;border-radius:4px"


def _figure_html(frames: Frames, *, fps: float, caption: str) -> str:
    """Return a <figure> with an H.264 <video> and a JPEG poster, as data URIs, and the caption, plain text."""
    height, width = frames.shape[1:3]
    shown = round(width * min(max(_SHORTEST, height, width), _LONGEST) / max(height, width))
    buffer = io.BytesIO()
    Image.fromarray(frames[0]).save(buffer, "JPEG", quality=80)
    poster = base64.b64encode(buffer.getvalue()).decode()
    video = base64.b64encode(encode_file(frames, suffix=".mp4", fps=fps, crf=20)).decode()
    text = html.escape(caption)
    return (
        f'<figure style="margin:8px 0;width:{shown}px;max-width:100%">'
        f'<video controls loop muted autoplay playsinline aria-label="{text}" style="{_VIDEO_STYLE}" '
        f'poster="data:image/jpeg;base64,{poster}" src="data:video/mp4;base64,{video}"></video>'
        f'<figcaption style="{_CAPTION_STYLE}">{text}</figcaption></figure>'
    )


def picture_sheet(
    pictures: Sequence[Image.Image | None],
    labels: Sequence[str],
    *,
    height: int,
    width: int,
    columns: int,
    caption: str = "",
) -> Image.Image:
    """Lay pictures, none larger than height and width, on a sheet over their labels, with a text below them all.

    None is an empty field; a label has two lines at most.
    """
    columns, margin, line = min(columns, len(pictures)), 8, 18
    font, (caption, *labels) = lettering([caption, *labels], size=13)
    texts = [wrapped(label, width, font)[:2] for label in labels]
    step_x, step_y = width + margin, height + line * max(map(len, texts)) + margin
    below = wrapped(caption, columns * step_x - margin, font) if caption else []
    end = margin + math.ceil(len(pictures) / columns) * step_y
    sheet = Image.new("RGB", (margin + columns * step_x, end + len(below) * line), "white")
    pen = ImageDraw.Draw(sheet)

    def write(lines: Sequence[str], x: int, y: int) -> None:
        for row, words in enumerate(lines):
            pen.text((x, y + row * line), words, fill="#202020", font=font)

    for i, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        x, y = margin + i % columns * step_x, margin + i // columns * step_y
        pen.rectangle((x, y, x + width - 1, y + height - 1), fill="#e9ebee")
        if picture:
            sheet.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))
        write(text, x, y + height + 1)
    write(below, margin, end - 2)
    return sheet


def lettering(texts: Sequence[str], *, size: int) -> tuple[Any, list[str]]:
    """Give a font of this machine that has every letter of some texts, and the texts.

    Without one it is Pillow's, and what that lacks is escaped: boxes could not be told apart or looked up.
    """
    texts = [" ".join(text.split()) for text in texts]
    letters, font = {letter for letter in "".join(texts) if letter.isprintable()}, ImageFont.load_default(size=size)
    lacking = {letter for letter in letters if not _has(font, letter)}
    if lacking:
        from matplotlib.font_manager import findSystemFonts  # a second, so only for those who need it

        for path in sorted(findSystemFonts()):
            with contextlib.suppress(OSError):  # not every file in those folders is a font that can be drawn with
                found = ImageFont.truetype(path, size)
                if all(_has(found, letter) for letter in letters):
                    font, lacking = found, set()
                    break
    drawn = letters - lacking
    return font, ["".join(c if c in drawn else c.encode("unicode_escape").decode() for c in text) for text in texts]


def _has(font: Any, letter: str) -> bool:
    """Whether a font has a letter: what it lacks, it draws as it draws U+FFFF, which is none."""
    return letter == " " or bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))


def wrapped(text: str, width: int, font: Any) -> list[str]:
    """Break a text into lines of so many pixels, at blanks where there are some."""
    lines = [""]
    for letter in text:
        if font.getlength(lines[-1] + letter) > width:
            head, _, tail = lines[-1].rpartition(" ")
            lines[-1:] = [head, tail] if head else [tail, ""]
        lines[-1] += letter
    return [line.strip() for line in lines]


@dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """Frames, how fast they play, and where they come from.

    Two clips are equal when their frames, rate and provenance are; ``Provenance`` says what of it counts.

    Attributes:
        frames: uint8 RGB (frames, height, width, 3), values 0 to 255; kept as a read-only copy.
        fps: Playback, 0.1 to 240 frames a second.
        provenance: What made the clip; None for a video that svdkit did not make. Such a clip can be shown and
            saved, and is not marked as AI-generated; only ``replay`` refuses it.
        photo: The fitted photo (PIL, RGB), saved beside the clip for ``replay``; or None.

    Raises:
        ClipError: A part is not what it should be.

    Example:
        >>> Clip(np.zeros((14, 72, 128, 3), np.uint8), fps=7)
        Clip(video · 14 frames · 7 fps, height=72, width=128)
    """

    frames: Frames
    fps: float = field(kw_only=True)
    provenance: Provenance | None = field(default=None, kw_only=True)
    photo: Image.Image | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check_frames(self.frames)
        frames = np.array(self.frames, order="C")
        frames.flags.writeable = False
        object.__setattr__(self, "frames", frames)
        object.__setattr__(self, "fps", check_fps(self.fps))
        if not isinstance(self.provenance, Provenance | None):
            raise ClipError(f"provenance is a {type(self.provenance).__name__}; give a Provenance, or None")
        if not isinstance(self.photo, Image.Image | None):
            raise ClipError(f"photo is a {type(self.photo).__name__}; give the PIL image of the fitted photo, or None")

    __hash__ = None  # type: ignore[assignment]  # equality compares megabytes of frames

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Clip):
            return NotImplemented
        same = self.fps == other.fps and self.provenance == other.provenance
        return same and np.array_equal(self.frames, other.frames)

    def __repr__(self) -> str:
        return f"Clip({self.label}, height={self.height}, width={self.width})"

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.frames)

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.frames.shape[2])

    @property
    def label(self) -> str:
        """One line for captions and tables; the built-in model is always called micro, never SVD."""
        made = self.provenance
        parts = [made.name if made else "video", format_count(self.num_frames, "frame"), f"{self.fps:g} fps"]
        for name, words in (("motion_bucket_id", "bucket"), ("seed", "seed")):
            if made and made.settings.get(name) is not None:
                parts.append(f"{words} {made.settings[name]}")
        return " · ".join(parts)

    def save(
        self,
        path: str | Path,
        *,
        overwrite: bool = True,
        keep_photo: bool = True,
        keep_frames: bool = True,
        scale: float | None = None,
    ) -> Path:
        """Save the clip, by suffix; with ``<stem>.json`` and, when it has a photo, ``<stem>.photo.png`` beside it.

        .mp4 (H.264, plays everywhere), .webm, .webp, .gif, or .png: the folder ``<stem>_frames`` of lossless frames.
        Provenance goes into the file's metadata too, with the IPTC mark of AI-generated media. mp4 and webm need
        even sizes: an odd one grows by a repeated row or column, which ``Clip.read`` cuts off again. Files appear
        whole or not at all; an error says so if some were already replaced.

        Args:
            path: Where to; the folder must exist.
            overwrite: Whether existing files may be replaced.
            keep_photo: Whether the fitted photo goes beside the clip. Leave it out for photos that are private.
            keep_frames: Whether frames that cannot be encoded are kept as a folder of PNG, which the error names.
            scale: Size of the saved frames as a factor, for example 4 for a clip of micro; true size when left out.

        Returns:
            The file or folder written.

        Raises:
            ClipError: The suffix is unknown, a file is in the way, an encoder fails, or the disk is full or read-only.

        Example:
            >>> clip.save("walk.mp4").name
            'walk.mp4'
        """
        count, height, width = self.frames.shape[:3]
        document = Document(fps=self.fps, num_frames=count, height=height, width=width, provenance=self.provenance)
        frames = self.frames if scale is None else resize(self.frames, scale=scale)
        photo, how = self.photo if keep_photo else None, {"overwrite": overwrite, "keep_frames": keep_frames}
        return write_clip(path, frames, document, photo=photo, **how)

    @classmethod
    def read(cls, path: str | Path) -> Clip:
        """Read a clip back from any of its files, or a video that svdkit did not make.

        Provenance comes from the file's metadata, else from the JSON beside it; the photo is read when it is the one
        the clip was made from. Frames of lossy formats differ a little from those saved.

        Args:
            path: An .mp4, .webm, .webp or .gif file, a folder of PNG frames, or the ``<stem>.json`` beside one.

        Raises:
            ClipError: There is no clip, it is broken, or it is larger than svdkit reads (1 GiB of raw frames).

        Warns:
            SvdkitWarning: Provenance or photo do not belong to the clip, or frames are missing.

        Example:
            >>> Clip.read("walk.mp4").provenance.settings["seed"]
            1
        """
        return cls(**read_clip(path))

    def contact_sheet(self, *, columns: int = 5) -> Image.Image:
        """Lay all frames on one picture, numbered from 1, so many in a row, with the settings below.

        Example:
            >>> Clip(np.zeros((14, 72, 128, 3), np.uint8), fps=7).contact_sheet().size
            (1048, 440)
        """
        check = number(1, 4096, step=1)
        columns = clip_number(columns, check, name="columns", give="a whole number from 1 to 4096")
        made = self.provenance.settings if self.provenance else {}
        names = ("num_inference_steps", "min_guidance_scale", "max_guidance_scale", "noise_aug_strength")
        settings = [f"{name} {made[name]}" for name in names if name in made]
        caption = " · ".join((self.label, f"height {self.height}", f"width {self.width}", *settings))
        width = min(max(self.width, 200), 320)
        height = max(1, round(self.height * width / self.width))
        if min(columns, self.num_frames) * width * height * math.ceil(self.num_frames / columns) > 2**27:
            raise ClipError(f"a contact sheet of {self.num_frames} frames of {width}x{height} pixels is too large")
        scaled = [Image.fromarray(each).resize((width, height), Image.Resampling.LANCZOS) for each in self.frames]
        numbers, size = [str(i + 1) for i in range(len(scaled))], {"height": height, "width": width}
        return picture_sheet(scaled, numbers, columns=columns, caption=caption, **size)

    def _repr_html_(self) -> str:
        return _figure_html(self.frames, fps=self.fps, caption=self.label)


def _check_frames(frames: object) -> None:
    if not isinstance(frames, np.ndarray):
        raise ClipError(f"frames are a {type(frames).__name__}; give one array, for a list of pictures np.stack(them)")
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ClipError(f"frames have shape {frames.shape}; give (frames, height, width, 3), at least one frame")
    if frames.dtype != np.uint8:
        raise ClipError(f"frames are {frames.dtype}; give uint8, values 0 to 255; of values 0 to 1 take 255 times")
    check_size(height=frames.shape[1], width=frames.shape[2], num_frames=frames.shape[0])
