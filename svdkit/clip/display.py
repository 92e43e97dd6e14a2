"""Frames as HTML and as a contact sheet. Nothing is loaded from elsewhere, so both work offline and from disk."""

from __future__ import annotations

import base64
import html
import io
import math
import uuid
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from svdkit.clip.video import encode
from svdkit.errors import ClipError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from svdkit.clip.stills import Frames

_SHORTEST, _LONGEST = 480, 768  # CSS pixels of the longer side on screen
_INK, _PAPER, _MARGIN = (32, 32, 32), (255, 255, 255), 8

# Colours are inherited and only dimmed, so that text is readable in light and dark notebooks.
_CAPTION_STYLE = "font:13px/1.5 system-ui,sans-serif;opacity:.8;margin-top:4px"
_VIDEO_STYLE = "display:block;width:100%;height:auto;image-rendering:auto;border-radius:4px"
_ROW_STYLE = "display:grid;grid-template-columns:repeat(auto-fit,minmax(min(240px,100%),1fr));gap:0 16px"

# Without this script the players still run, each from the moment it is ready.
_START_TOGETHER = (
    '<script>(()=>{const v=[...document.getElementById("%s").querySelectorAll("video")];'
    'Promise.all(v.map(x=>x.readyState>2?0:new Promise(ok=>x.addEventListener("canplay",ok,{once:true}))))'
    ".then(()=>v.forEach(x=>{x.currentTime=0;x.play()}))})()</script>"
)


def figure_html(frames: Frames, *, fps: float, caption: str) -> str:
    """Return a playing video with its caption as HTML that needs no other file.

    Small frames are shown enlarged: the longer side takes 480 to 768 CSS pixels, and less on a narrow page.

    Args:
        frames: uint8 (frames, height, width, 3).
        fps: Playback, frames a second.
        caption: Plain text; it is escaped.

    Returns:
        A ``<figure>`` with an H.264 ``<video>`` and a JPEG poster, both as data URIs.

    Raises:
        ClipError: The video cannot be encoded.

    Example:
        >>> import numpy as np
        >>> figure_html(np.zeros((2, 8, 8, 3), np.uint8), fps=7, caption="micro")[:7]
        '<figure'
    """
    height, width = frames.shape[1:3]
    shown = round(width * min(max(_SHORTEST, height, width), _LONGEST) / max(height, width))
    poster = io.BytesIO()
    Image.fromarray(frames[0]).save(poster, "JPEG", quality=80)
    video = _data_uri(encode(frames, suffix=".mp4", fps=fps, crf=20), kind="video/mp4")
    text = html.escape(caption)
    return (
        f'<figure style="margin:8px 0;width:{shown}px;max-width:100%">'
        f'<video controls loop muted autoplay playsinline aria-label="{text}" style="{_VIDEO_STYLE}" '
        f'poster="{_data_uri(poster.getvalue(), kind="image/jpeg")}" src="{video}"></video>'
        f'<figcaption style="{_CAPTION_STYLE}">{text}</figcaption></figure>'
    )


def row_html(figures: Sequence[str]) -> str:
    """Return figures next to one another, started together.

    Args:
        figures: From ``figure_html``.

    Example:
        >>> row_html(["<figure></figure>"])[:4]
        '<div'
    """
    name = f"svdkit-{uuid.uuid4().hex}"  # one output may be shown twice in a page
    return f'<div id="{name}" style="{_ROW_STYLE}">{"".join(figures)}</div>{_START_TOGETHER % name}'


def contact_sheet(
    frames: Frames, *, caption: str, columns: int | None = None, cell_width: int | None = None
) -> Image.Image:
    """Lay all frames on one picture, numbered from 1, with a line of text below.

    Args:
        frames: uint8 (frames, height, width, 3).
        caption: The line of text.
        columns: Frames a row; 5, or fewer when there are fewer frames, when left out.
        cell_width: Pixels of a frame on the sheet; its own width within 200 to 320 when left out.

    Raises:
        ClipError: ``columns`` or ``cell_width`` is not a whole number from 1, or the sheet would be huge.

    Example:
        >>> import numpy as np
        >>> contact_sheet(np.zeros((14, 72, 128, 3), np.uint8), caption="micro").size
        (1048, 448)
    """
    count, height, width = frames.shape[:3]
    columns = min(5, count) if columns is None else columns
    cell_width = min(max(width, 200), 320) if cell_width is None else cell_width
    for name, value in (("columns", columns), ("cell_width", cell_width)):
        if type(value) is not int or not 1 <= value <= 4096:
            raise ClipError(f"{name} is {value!r}; give a whole number from 1 to 4096")
    columns, cell_height = min(columns, count), max(1, round(height * cell_width / width))
    font, line = ImageFont.load_default(size=14), 20
    step_x, step_y = cell_width + _MARGIN, cell_height + line + _MARGIN
    text = _wrap(caption, font=font, width=columns * step_x - _MARGIN)
    size = (_MARGIN + columns * step_x, _MARGIN + math.ceil(count / columns) * step_y + len(text) * line)
    if size[0] * size[1] > Image.MAX_IMAGE_PIXELS:
        raise ClipError(f"a contact sheet of {size[0]}x{size[1]} pixels is too large; give a smaller cell_width")
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, frame in enumerate(frames):
        x, y = _MARGIN + i % columns * step_x, _MARGIN + i // columns * step_y
        sheet.paste(Image.fromarray(frame).resize((cell_width, cell_height), Image.Resampling.LANCZOS), (x, y))
        draw.text((x, y + cell_height + 2), str(i + 1), fill=_INK, font=font)
    for i, words in enumerate(text):
        draw.text((_MARGIN, size[1] - (len(text) - i) * line - 2), words, fill=_INK, font=font)
    return sheet


def _wrap(text: str, *, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Break a line between its words where it would leave the sheet."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if not lines[-1] or font.getlength(longer) <= width else [*lines, word]
    return lines


def _data_uri(data: bytes, *, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
