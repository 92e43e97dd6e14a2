"""A clip: its frames, how fast they play, where they come from; its files and its look in a notebook."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from svdkit.clip.formats import Frames, check_size, encode_file
from svdkit.clip.provenance import Provenance, check_fps, clip_number
from svdkit.clip.storage import read_clip, write_clip
from svdkit.errors import ClipError
from svdkit.settings.base import number
from svdkit.units import format_count

__all__ = ["Provenance", "Clip"]

_LARGEST_SHEET = 2**27  # pixels of a contact sheet, 0.4 GB
_SHORTEST, _LONGEST = 480, 768  # CSS pixels of the longer side on screen

# Colours are inherited and only dimmed, so that text is readable in light and dark notebooks.
_CAPTION_STYLE = "font:13px/1.5 system-ui,sans-serif;opacity:.8;margin-top:4px"
_VIDEO_STYLE = "display:block;width:100%;height:auto;image-rendering:auto;border-radius:4px"


def picture_sheet(
    pictures: Sequence[Image.Image | None],
    labels: Sequence[str],
    *,
    height: int,
    width: int,
    columns: int,
    caption: str = "",
) -> Image.Image:
    """Lay pictures, scaled into height and width, on a sheet over their labels, with a text below them all.

    None is an empty field; a label has two lines at most.
    """
    columns, line = min(columns, len(pictures)), 18
    font, (caption, *labels) = lettering([caption, *labels], size=13)

    def wrap(text: str, width: int) -> list[str]:
        return textwrap.wrap(text, max(1, int(width * len(text) / (font.getlength(text) or 1))))

    texts = [wrap(label, width)[:2] for label in labels]
    step_x, step_y = width + 8, height + line * max(map(len, texts)) + 8
    below, end = wrap(caption, columns * width), 8 + math.ceil(len(pictures) / columns) * step_y
    sheet = Image.new("RGB", (8 + columns * step_x, end + len(below) * line), "white")
    pen, grey = ImageDraw.Draw(sheet), "#e9ebee"
    empty = Image.new("RGB", (width, height), grey)
    for i, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        x, y = 8 + i % columns * step_x, 8 + i // columns * step_y
        sheet.paste(ImageOps.pad(picture or empty, (width, height), Image.Resampling.LANCZOS, grey), (x, y))
        pen.text((x, y + height + 1), "\n".join(text), "#202020", font)
    pen.text((8, end - 2), "\n".join(below), "#202020", font)
    return sheet


def lettering(texts: Sequence[str], *, size: int) -> tuple[Any, list[str]]:
    """Give a font of this machine that has every letter of some texts, and the texts.

    Without one it is Pillow's, and what that lacks is escaped: boxes could not be told apart or looked up.
    """
    texts = [" ".join(text.split()) for text in texts]
    escaped = [re.sub("[^ -~·]", lambda found: found[0].encode("unicode_escape").decode(), text) for text in texts]
    if escaped != texts:
        from matplotlib.font_manager import findSystemFonts  # a second, so only for those who need it

        for path in sorted(findSystemFonts()):
            with contextlib.suppress(OSError):  # not every file in those folders is a font that can be drawn with
                font = ImageFont.truetype(path, size)
                drawn = {bytes(font.getmask(letter)) for letter in {*"".join(texts)} - {" "}}
                if bytes(font.getmask("\uffff")) not in drawn:  # that is no letter: it is drawn as what a font lacks
                    return font, texts
    return ImageFont.load_default(size=size), escaped


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
        given: object = self.frames
        if not isinstance(given, np.ndarray):
            raise ClipError(f"frames are a {type(given).__name__}; give one array, of a list np.stack(it)")
        if given.ndim != 4 or given.shape[3] != 3 or 0 in given.shape:
            raise ClipError(f"frames have shape {given.shape}; give (frames, height, width, 3), at least one frame")
        if given.dtype != np.uint8:
            raise ClipError(f"frames are {given.dtype}; give uint8, values 0 to 255; of values 0 to 1 take 255 times")
        check_size(height=given.shape[1], width=given.shape[2], num_frames=given.shape[0])
        frames = np.array(given, order="C")
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
        return write_clip(self, path, overwrite=overwrite, keep_photo=keep_photo, keep_frames=keep_frames, scale=scale)

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
            SvdkitWarning: Provenance or photo are broken or another clip's, or frames are missing.

        Example:
            >>> Clip.read("walk.mp4").provenance.settings["seed"]
            1
        """
        return cls(**read_clip(path))

    def contact_sheet(self, *, columns: int = 5) -> Image.Image:
        """Lay all frames on one picture, numbered from 1, so many in a row, with the settings below.

        Example:
            >>> Clip(np.zeros((14, 72, 128, 3), np.uint8), fps=7).contact_sheet().size
            (1648, 644)
        """
        check = number(1, 4096, step=1)
        columns = clip_number(columns, check, name="columns", give="a whole number from 1 to 4096")
        made, scale = self.provenance.settings if self.provenance else {}, 320 / max(self.height, self.width)
        names = ("num_inference_steps", "min_guidance_scale", "max_guidance_scale", "noise_aug_strength")
        settings = [f"{name} {made[name]}" for name in ("height", "width", *names) if name in made]
        height, width = (max(1, round(side * scale)) for side in (self.height, self.width))
        if height * width * self.num_frames > _LARGEST_SHEET:
            size = f"{self.num_frames} frames of {self.width}x{self.height} pixels"
            raise ClipError(f"a contact sheet of {size} is too large; cut the clip")
        return picture_sheet(
            [*map(Image.fromarray, self.frames)],
            [*map(str, range(1, self.num_frames + 1))],
            height=height,
            width=width,
            columns=columns,
            caption=" · ".join([self.label, *settings]),
        )

    def _repr_html_(self) -> str:
        longest = max(self.height, self.width)
        shown = round(self.width * min(max(_SHORTEST, longest), _LONGEST) / longest)
        buffer = io.BytesIO()
        Image.fromarray(self.frames[0]).save(buffer, "JPEG", quality=80)
        video = encode_file(self.frames, suffix=".mp4", fps=self.fps, crf=20)
        poster, source = (base64.b64encode(data).decode() for data in (buffer.getvalue(), video))
        text = html.escape(self.label)
        return (
            f'<figure style="margin:8px 0;width:{shown}px;max-width:100%">'
            f'<video controls loop muted autoplay playsinline aria-label="{text}" style="{_VIDEO_STYLE}" '
            f'poster="data:image/jpeg;base64,{poster}" src="data:video/mp4;base64,{source}"></video>'
            f'<figcaption style="{_CAPTION_STYLE}">{text}</figcaption></figure>'
        )
