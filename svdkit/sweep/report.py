"""A results folder as a page that opens by double click: clips in step, table, curves, failures; and plain tables."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from PIL import Image, ImageOps

from svdkit.bench.plot import curves
from svdkit.bench.quality import QUALITY
from svdkit.bench.record import BYTES, Record, read_records, records_file
from svdkit.bench.table import COLUMNS, days, hardware, layout, shown_text, table, text_of, to_csv, to_markdown
from svdkit.clip import picture_sheet
from svdkit.clip.provenance import plain
from svdkit.disk import write_whole
from svdkit.errors import ClipError, SvdkitError
from svdkit.sweep.player import asset, json_script
from svdkit.units import format_seconds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_report"]

_SHORT = {"num_inference_steps": "steps", "motion_bucket_id": "bucket", "decode_chunk_size": "chunk", "image": "photo"}
_SHORT |= {"seconds": "time"}
_MEANINGS = {
    "seconds": "seconds of one clip, from the fitted photo to its frames; median of the timed clips",
    "peak_allocated_bytes": "peak that torch allocated on the GPU",
    "peak_reserved_bytes": "peak that torch took of the GPU, what it keeps for later included",
    "process_bytes": "peak of the process",
    "device_bytes": "peak of all processes on the GPU",
    "money": "cost of one clip by its own seconds, at the hourly price that the sweep was given",
    "flags": "what went wrong: black, grey (nothing to see), frozen or saturated",
    **QUALITY,
}
_RATIOS = ("seconds", *BYTES, "money")  # shown with how many times the baseline's they are
_QUALITY = [f"quality.{name}" for name in QUALITY if f"quality.{name}" in COLUMNS]  # all are in table.csv
_HEIGHT, _WIDTH = 117, 208  # of a first frame in the overview


def _heading(name: str) -> str:
    return _SHORT.get(name, COLUMNS.get(name, name))


def _axes(frame: pd.DataFrame, asked: Any) -> list[str]:
    """Name the settings that differ: those that the sweep asked for and the photo, or else all."""
    differ = [*(name for name in ("model", "weights") if len(set(frame[name])) > 1), *frame.attrs["settings"]]
    order = asked.get("axes") if isinstance(asked, dict) else None
    names = ["image" if name == "photo" else name for name in (order if isinstance(order, dict) else ())]
    return [name for name in dict.fromkeys((*names, "image")) if name in differ] or differ


def _run(folder: Path, record: Record, row: Mapping[str, Any], axes: Sequence[str]) -> dict[str, Any]:
    """Give what the page and its player show of a run beside the numbers of its row, as plain JSON."""
    values = {_heading(name): text_of(row[name]) for name in axes}
    motion = record.quality.get("motion_percent_width_per_second")
    notes = [shown_text("seconds", row)] if record.timed else []
    notes += [] if motion is None else [f"motion {motion:.3g} % width/s"]
    links = {name: quote(path) for name, path in record.artifacts.items() if _inside(folder, path)}
    return {
        "id": record.id,
        "status": record.status,
        "reason": f"{record.status}: {row['reason']}" if row["reason"] else "",
        "label": " · ".join(f"{name} {text}" for name, text in values.items()) or record.id,
        "note": " · ".join(notes),
        "values": values,
        "flags": ", ".join(name[3:] for name in QUALITY if name.startswith("is_") and record.quality.get(name)),
        "src": links.get("clip", ""),
        "poster": links.get("poster", ""),
        "fps": record.clip.get("playback_fps") or record.clip.get("fps") or 7,
        "frames": record.clip.get("num_frames") or 14,
        "width": record.clip.get("width"),
        "height": record.clip.get("height"),
    }


def _inside(folder: Path, name: str | None) -> Path | None:
    """Give the file of an artifact, if it is there and within the folder."""
    path = folder / str(name)
    return path if name and path.is_file() and path.resolve().is_relative_to(folder.resolve()) else None


def _small(poster: Path | None) -> Image.Image | None:
    """Read a first frame as small as the overview shows it."""
    if poster is None:
        return None
    with Image.open(poster, formats=("JPEG",)) as image:
        return ImageOps.contain(image.convert("RGB"), (_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)


def _render(
    records: Sequence[Record], frame: pd.DataFrame, runs: list[dict[str, Any]], axes: Sequence[str], **known: Any
) -> str:
    """Render the page; everything but our own script, styles and plots is escaped."""
    from jinja2 import Environment
    from markupsafe import Markup
    from pandas.api.types import is_any_real_numeric_dtype as is_numeric

    frame = frame.assign(best="", **{name: [run[name] for run in runs] for name in ("label", "flags")})
    frame["memory"] = frame[BYTES[0]].fillna(frame["process_bytes"])
    names, texts = layout(frame, [*axes, "status", "seconds", *BYTES, *_QUALITY, "flags", "money"])
    plots = curves(frame[frame["status"] == "ok"], axes)
    choices = [
        {"name": _heading(name), "values": _values(frame[name], is_sorted=is_numeric(frame[name]))} for name in axes
    ]
    order = sorted(choices, key=lambda axis: (axis["name"] == "photo", -len(axis["values"])))
    chosen = dict(zip(("x", "y", "tabs"), (axis["name"] for axis in order), strict=False))
    environment = next((record.environment for record in records if record.status == "ok"), records[0].environment)
    told = {name: shown_text(name, environment) for name in environment}
    script = asset("player.js")
    return (
        Environment(autoescape=True)
        .from_string(asset("report.html"))
        .render(
            **known,
            policy=_policy(script),
            css=asset("player.css") + asset("report.css"),
            js=script,
            data=json_script({"clips": runs, "axes": choices, "chosen": chosen}),
            models=dict.fromkeys(f"{record.model['name']}, {record.model['weights']} weights" for record in records),
            days=days(records),
            times=dict.fromkeys(map(format_seconds, frame["seconds"].dropna().agg(["min", "max"]))),
            hardware=hardware(environment),
            axes=choices,
            rows=list(zip(runs, frame.to_dict("records"), texts, strict=True)),
            columns={name: "number" if is_numeric(frame[name]) else "words" for name in names},
            heading=_heading,
            ratios=_RATIOS,
            curves=[{**curve, "svg": Markup(curve["svg"])} for curve in plots],  # noqa: S704 - matplotlib escapes its texts
            environment={name: text for name, text in told.items() if text != "–"},
            meanings=_MEANINGS,
        )
    )


def _policy(script: str) -> str:
    """Allow this one script, and files beside the page, so that even a slip in escaping could run nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    files = ("img-src 'self' file: data:", "media-src 'self' file: data:")
    rules = (f"script-src 'sha256-{digest}'", "style-src 'unsafe-inline'", *files)
    return "; ".join(("default-src 'none'", *rules, "base-uri 'none'", "form-action 'none'"))


def _values(column: pd.Series[Any], *, is_sorted: bool) -> list[str]:
    """Give the texts of a setting's values, each once: numbers by size, all else as it comes."""
    return [*map(text_of, (column.sort_values() if is_sorted else column).drop_duplicates())]


def write_report(folder: str | Path, *, baseline: str | None = None) -> Path:
    """Write ``index.html``, ``table.md``, ``table.csv`` and ``contact_sheet.png`` into a results folder.

    The page needs no network and no server; it links to the clips in ``runs/`` and shows them in step, and it says
    what failed and why. It can be written again at any time, during a sweep too.

    Args:
        folder: A results folder, with ``records.jsonl`` in it.
        baseline: The beginning of the id of the run that the others are compared with; the first that was timed when
            left out. A reader can choose another.

    Returns:
        The path of ``index.html``.

    Raises:
        SvdkitError: There are no records, or they cannot be read, or no timed record has that id.

    Example:
        >>> write_report("bench_results/mine").name
        'index.html'
    """
    records = list({record.id: record for record in read_records(folder)}.values())  # of a run made again the last
    folder = records_file(folder).parent
    if not records:
        raise SvdkitError(f"{folder} has no runs yet; start the sweep first, then write the report")
    frame, described = table(records, baseline=baseline), _read_json(folder / "sweep.json")
    axes = _axes(frame, described.get("asked", described))  # what a sweep writes, or what a user wrote by hand
    runs = [_run(folder, *pair, axes) for pair in zip(records, frame.to_dict("records"), strict=True)]
    posters = [_small(_inside(folder, record.artifacts.get("poster"))) for record in records]
    titles = [run["label"] if run["status"] == "ok" else f"{run['status']}: {run['label']}" for run in runs]
    overview = io.BytesIO()
    sheet = picture_sheet(posters, titles, height=_HEIGHT, width=_WIDTH, columns=6)
    sheet.quantize(128).save(overview, "PNG", optimize=True)  # a third of the bytes, for an overview
    write_whole(folder / "contact_sheet.png", overview.getvalue())
    write_whole(folder / "table.csv", to_csv(frame).encode("utf-8-sig"))  # Excel takes it for ANSI else
    unread = frame.filter(like="quality.").columns.difference(_QUALITY)
    write_whole(folder / "table.md", to_markdown(frame.drop(columns=unread)))
    timed = frame.loc[frame["seconds"].notna(), "id"]
    pinned = next((name for name in timed if name.startswith(baseline or "")), "")
    asked = json.dumps(described, indent=1, ensure_ascii=False) if described else ""
    title, command = folder.resolve().name.replace("_", " "), dict(frame.attrs["about"]).get("Command")
    page = _render(records, frame, runs, axes, title=title, baseline=pinned, asked=asked, command=command)
    write_whole(folder / "index.html", page)
    return folder / "index.html"


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of the folder; nothing when it is missing, not one, or nested deeper than any of ours."""
    try:
        values = plain(json.loads(path.read_text(encoding="utf-8")), where=path.name)
    except (OSError, ValueError, RecursionError, ClipError):
        return {}
    return values if isinstance(values, dict) else {}
