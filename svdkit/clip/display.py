"""Frames as HTML and as a contact sheet. Nothing is loaded from elsewhere, so both work offline and from disk."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import math
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from svdkit.clip.formats import Frames, encode
from svdkit.clip.provenance import clip_number
from svdkit.errors import ClipError
from svdkit.settings.base import number

_SHORTEST, _LONGEST = 480, 768  # CSS pixels of the longer side on screen

# Colours are inherited and only dimmed, so that text is readable in light and dark notebooks.
_CAPTION_STYLE = "font:13px/1.5 system-ui,sans-serif;opacity:.8;margin-top:4px"
_VIDEO_STYLE = "display:block;width:100%;height:auto;image-rendering:auto;border-radius:4px"


def figure_html(frames: Frames, *, fps: float, caption: str) -> str:
    """Return a <figure> with an H.264 <video> and a JPEG poster, as data URIs, and the caption, plain text."""
    height, width = frames.shape[1:3]
    shown = round(width * min(max(_SHORTEST, height, width), _LONGEST) / max(height, width))
    buffer = io.BytesIO()
    Image.fromarray(frames[0]).save(buffer, "JPEG", quality=80)
    poster = base64.b64encode(buffer.getvalue()).decode()
    video = base64.b64encode(encode(frames, suffix=".mp4", fps=fps, crf=20)).decode()
    text = html.escape(caption)
    return (
        f'<figure style="margin:8px 0;width:{shown}px;max-width:100%">'
        f'<video controls loop muted autoplay playsinline aria-label="{text}" style="{_VIDEO_STYLE}" '
        f'poster="data:image/jpeg;base64,{poster}" src="data:video/mp4;base64,{video}"></video>'
        f'<figcaption style="{_CAPTION_STYLE}">{text}</figcaption></figure>'
    )


def contact_sheet(frames: Frames, *, caption: str, columns: int) -> Image.Image:
    """Lay all frames on one picture, numbered from 1, with a line of text below; see ``Clip.contact_sheet``."""
    check = number(1, 4096, step=1)
    columns = clip_number(columns, check, name="columns", give="a whole number from 1 to 4096")
    count, height, width = frames.shape[:3]
    columns, margin, line = min(columns, count), 8, 20
    cell_width = min(max(width, 200), 320)
    cell_height = max(1, round(height * cell_width / width))
    step_x, step_y = cell_width + margin, cell_height + line + margin
    font, (caption,) = lettering([caption], size=14)
    text = wrapped(caption, columns * step_x - margin, font)
    size = (margin + columns * step_x, margin + math.ceil(count / columns) * step_y + len(text) * line)
    if size[0] * size[1] > 2**27:
        raise ClipError(f"a contact sheet of {size[0]}x{size[1]} pixels is too large; {count} frames do not fit")
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for i, frame in enumerate(frames):
        x, y = margin + i % columns * step_x, margin + i // columns * step_y
        sheet.paste(Image.fromarray(frame).resize((cell_width, cell_height), Image.Resampling.LANCZOS), (x, y))
        draw.text((x, y + cell_height + 2), str(i + 1), fill="#202020", font=font)
    for i, words in enumerate(text):
        draw.text((margin, size[1] - (len(text) - i) * line - 2), words, fill="#202020", font=font)
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
