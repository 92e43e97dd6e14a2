"""Clips that play in step: one source for notebooks and for the report, plain HTML that needs no network."""

from __future__ import annotations

import base64
import html
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.clip import Clip
from svdkit.clip.formats import encode_file
from svdkit.clip.provenance import clip_number
from svdkit.clip.storage import resize
from svdkit.errors import ClipError, SvdkitWarning
from svdkit.settings.base import number
from svdkit.units import format_bytes, format_count

if TYPE_CHECKING:
    from markupsafe import Markup

_ASSETS = Path(__file__).parent / "assets"
_LONGEST = 512  # pixels of the longer side of an embedded clip
_CRF = 23  # of H.264; a clip of 25 frames at 512x288 takes about 100 KB
_MANY_BYTES = 8 * 2**20  # papermill writes the whole notebook again at each cell, so large outputs cost every later one
_CELL, _GAP, _CHROME, _CAPTION = 320, 12, 170, 44  # CSS pixels: figure width, space between, controls, caption


@dataclass(frozen=True)
class Player:
    """What ``sync_player`` gives: shown by a notebook, or written to a file as a page of its own.

    Attributes:
        page: A whole HTML page, clips included.
        num_clips: How many clips.
        height: CSS pixels that it needs in a wide window.
        title: What screen readers call it.
    """

    page: str = field(repr=False)
    num_clips: int
    height: int
    title: str = "Synchronised clips"

    def __str__(self) -> str:
        return f"Player({format_count(self.num_clips, 'clip')}, {format_bytes(len(self.page))})"

    def _repr_html_(self) -> str:
        # A frame of its own keeps the notebook's shortcuts and styles out, and ours in; it may run scripts, no more.
        style = f"width:100%;height:{self.height}px;border:0"
        title, source = html.escape(self.title), html.escape(self.page)
        return f'<iframe title="{title}" sandbox="allow-scripts" style="{style}" srcdoc="{source}"></iframe>'


def sync_player(
    clips: Sequence[Clip | str | Path],
    *,
    labels: Sequence[str] | None = None,
    columns: int | None = None,
    texts: Mapping[str, str] | None = None,
) -> Player:
    """Show clips in step, with play, single steps, loop, speed, zoom, and one of them as a reference under a slider.

    The clips become part of the notebook: H.264, at most 512 pixels on the longer side, about 100 KB for 25 frames.
    Show the few that matter and link to a report for the rest, for papermill writes all outputs again at every cell.

    Args:
        clips: Clips or files of clips, at least one; they may differ in size, rate and length.
        labels: A caption each; the clips' own when left out.
        columns: Clips in a row, 1 or more; when left out, as many as fit, at most 3.
        texts: The player's own texts in another language, by the English ones, and its code by "en"; what is missing
            stays English.

    Raises:
        ClipError: There is no clip, a file cannot be read, or labels and clips differ in number.

    Warns:
        SvdkitWarning: All together are above 8 MiB.

    Example:
        >>> sync_player([calm, lively], labels=["bucket 60", "bucket 180"]).num_clips
        2
    """
    read = [clip if isinstance(clip, Clip) else Clip.read(clip) for clip in clips]
    if not read:
        raise ClipError("there is nothing to play; give at least one clip")
    captions = [clip.label for clip in read] if labels is None else [str(label) for label in labels]
    if len(captions) != len(read):
        raise ClipError(f"{len(captions)} labels for {len(read)} clips; give one label a clip")
    if columns is not None:
        columns = clip_number(columns, number(1, 4096, step=1), name="columns", give="a whole number from 1 to 4096")
    columns = columns or min(len(read), 3)
    shown = [_entry(*pair) for pair in zip(read, captions, strict=True)]
    data: dict[str, Any] = {"clips": shown, "columns": columns, "autoplay": True, "texts": dict(texts or {})}
    title = data["texts"].get(Player.title, Player.title)
    name, language = html.escape(title), html.escape(data["texts"].get("en", "en"))
    page = (
        f'<!doctype html><html lang="{language}"><meta charset="utf-8"><title>{name}</title>'
        f"<style>{asset('player.css')}</style>"
        f'<div class="player" role="group" aria-label="{name}">{json_script(data)}</div>'
        f"<script>{asset('player.js')}</script></html>"
    )
    if len(page) > _MANY_BYTES:
        advice = "show fewer, or write_report, which leaves clips in their files"
        text = f"these clips add {format_bytes(len(page))} to the notebook; {advice}"
        warnings.warn(text, SvdkitWarning, stacklevel=2)
    rows = -(-len(read) // columns)
    tallest = max(clip.height / clip.width for clip in read)
    height = min(900, round(_CHROME + rows * (_CELL * tallest + _CAPTION + _GAP)))
    return Player(page, len(read), height, title)


def _entry(clip: Clip, label: str) -> dict[str, Any]:
    scale = _LONGEST / max(clip.height, clip.width)
    frames = resize(clip.frames, scale=scale) if scale < 1 else clip.frames
    video = encode_file(frames, suffix=".mp4", fps=clip.fps, crf=_CRF)
    source = f"data:video/mp4;base64,{base64.b64encode(video).decode()}"
    size = {"width": clip.width, "height": clip.height}
    return {"label": label, "src": source, "fps": clip.fps, "frames": clip.num_frames, "values": {}, **size}


def asset(name: str) -> Markup:
    """Read a style sheet or script of this package, as text that goes into HTML as it is."""
    from markupsafe import Markup

    return Markup((_ASSETS / name).read_text(encoding="utf-8"))  # noqa: S704 - our own file


def json_script(data: object) -> Markup:
    """Write data as a script element that holds JSON; no text in it can end the element or start another."""
    from markupsafe import Markup

    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")  # HTML: 4.12.1.3, restrictions of scripts
    return Markup(f'<script type="application/json">{text}</script>')  # noqa: S704 - cannot hold a tag
