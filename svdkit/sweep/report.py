"""A results folder as a page that opens by double click: clips in step, table, curves, failures; and plain tables."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from PIL import Image, ImageOps

from svdkit.bench.quality import QUALITY
from svdkit.bench.record import read_records, records_file
from svdkit.bench.stats import median
from svdkit.bench.table import hardware, table, to_csv, to_markdown, varying
from svdkit.clip import picture_sheet
from svdkit.clip.provenance import plain
from svdkit.disk import write_whole
from svdkit.errors import ClipError, SvdkitError
from svdkit.sweep.figures import curves
from svdkit.sweep.player import asset, json_script
from svdkit.units import format_bytes, format_money, format_seconds

if TYPE_CHECKING:
    from svdkit.bench.record import Record

__all__ = ["write_report"]

SHOWN = {  # numbers of quality in the page's table, under short headings; all are in table.csv
    "motion_percent_width_per_second": "motion, % width/s",
    "camera_explained_fraction": "as one camera",
    "sharpness_last_to_first_ratio": "sharpness kept",
    "warp_error_grey_levels": "warp error",
    "chunk_border_ratio": "chunk borders",
    "first_frame_psnr_db": "frame\u00a00, dB",
    "reference_psnr_db": "to reference, dB",
}
_MEANINGS = {
    "time": "seconds of one clip, from the fitted photo to its frames; median of the timed clips",
    "memory": "peak that torch allocated on the GPU; on a CPU the peak of the process",
    "cost": "of one clip by its own seconds, at the hourly price that the sweep was given",
    "flags": "what went wrong: black, grey (nothing to see), frozen or saturated",
}
_SHORT = {"num_inference_steps": "steps", "motion_bucket_id": "bucket", "decode_chunk_size": "chunk"}


class Cell(NamedTuple):
    """A cell of the page's table under its heading; ``value`` is what it is sorted by, "" for nothing."""

    heading: str
    value: Any
    text: str
    kind: str = "number"  # or "words"
    meaning: str = ""
    ratio: bool = False  # whether to show how many times the baseline's it is


@dataclass(frozen=True, kw_only=True)
class Row:
    """A record as the page shows it; ``values`` are the texts of the settings that differ, by short name."""

    record: Record
    settings: dict[str, Any]
    values: dict[str, str]
    label: str
    reason: str
    seconds: float
    memory_bytes: int | None
    clip: str
    poster: str
    cells: list[Cell]
    text: str

    @property
    def title(self) -> str:
        """The label, after the status when the run failed."""
        return self.label if self.record.status == "ok" else f"{self.record.status}: {self.label}"

    @property
    def quality(self) -> dict[str, Any]:
        """The record's."""
        return self.record.quality

    def entry(self) -> dict[str, Any]:
        """Give what the player needs, as plain JSON."""
        settings, notes = self.settings, [] if math.isnan(self.seconds) else [format_seconds(self.seconds)]
        motion = self.record.quality.get("motion_percent_width_per_second")
        notes += [] if motion is None else [f"motion {motion:.3g} % width/s"]
        fps = float(settings.get("playback_fps") or settings.get("fps") or 7)
        about: dict[str, Any] = {
            "id": self.record.id,
            "label": self.label,
            "note": " · ".join(notes),
            "values": self.values,
        }
        about |= {"src": self.clip, "poster": self.poster, "reason": self.reason or "no clip", "fps": fps}
        about |= {"frames": settings.get("num_frames") or 14, "width": settings.get("width")}
        return about | {"height": settings.get("height")}


def _make_rows(folder: Path, records: Sequence[Record], *, order: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Make rows, and name the settings that differ: those of ``order`` first; without any of them, all that differ."""
    settings = [{**record.load, **record.settings, "photo": record.settings["image"]} for record in records]
    differ = [name for name in varying(settings) if name != "image"]
    axes = [name for name in dict.fromkeys((*order, "photo")) if name in differ] or differ
    priced = any(record.cost for record in records)
    return [_row(folder, *pair, axes, priced=priced) for pair in zip(records, settings, strict=True)], axes


def _row(folder: Path, record: Record, settings: dict[str, Any], axes: Sequence[str], *, priced: bool) -> Row:
    values = {short(name): _text_of(settings.get(name)) for name in axes}
    label = " · ".join(f"{name} {text}" for name, text in values.items()) or record.id
    reason = f"{record.status}: {record.error['type']}: {record.error['message']}" if record.error else ""
    seconds, sizes = median(record.timed).value, record.peaks
    memory = sizes["peak_allocated_bytes"] or sizes["process_bytes"]
    cells = [*(_setting(name, settings.get(name)) for name in axes), *_results(record, seconds, memory)]
    cells += [_cost(record)] if priced else []
    found = {name: inside(folder, path) for name, path in record.artifacts.items()}
    links = {name: quote(path.relative_to(folder).as_posix()) for name, path in found.items() if path}
    return Row(
        record=record,
        settings=settings,
        values=values,
        label=label,
        reason=reason,
        seconds=seconds,
        memory_bytes=memory,
        clip=links.get("clip", ""),
        poster=links.get("poster", ""),
        cells=cells,
        text=" ".join([record.id, label, reason, *(cell.text for cell in cells)]).lower(),
    )


def _setting(name: str, value: Any) -> Cell:
    is_number = type(value) in {int, float}
    return Cell(
        short(name), value if is_number else _text_of(value), _text_of(value), "number" if is_number else "words"
    )


def _results(record: Record, seconds: float, memory: int | None) -> list[Cell]:
    timed, mark = not math.isnan(seconds), "≈ " if record.method == "composed" else ""
    time = f"{mark}{format_seconds(seconds)}"
    flags = ", ".join(name[3:] for name in QUALITY if name.startswith("is_") and record.quality.get(name))
    numbers = [(heading, record.quality.get(name), QUALITY[name]) for name, heading in SHOWN.items()]
    return [
        Cell("status", record.status, record.status, "words"),
        Cell("time", seconds if timed else "", time if timed else "–", meaning=_MEANINGS["time"], ratio=True),
        Cell("memory", memory or "", format_bytes(memory or math.nan), meaning=_MEANINGS["memory"], ratio=True),
        *(Cell(name, "" if n is None else n, _text_of(n, digits=3), meaning=text) for name, n, text in numbers),
        Cell("flags", flags, flags or "–", "words", _MEANINGS["flags"]),
    ]


def _cost(record: Record) -> Cell:
    money = record.cost.get("money")
    text = "–" if money is None else format_money(money, record.cost.get("currency", "USD"))
    return Cell("cost", "" if money is None else money, text, meaning=_MEANINGS["cost"], ratio=True)


def inside(folder: Path, name: str | None) -> Path | None:
    """Give the file of an artifact, if it is there and within the folder."""
    path = folder / str(name)
    return path if name and path.is_file() and path.resolve().is_relative_to(folder.resolve()) else None


_HEIGHT, _WIDTH = 117, 208  # of a first frame in the overview


def _small(poster: Path | None) -> Image.Image | None:
    """Read a first frame as small as the overview shows it."""
    if poster is None:
        return None
    with Image.open(poster, formats=("JPEG",)) as image:
        return ImageOps.contain(image.convert("RGB"), (_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)


def short(name: str) -> str:
    """Shorten the name of a setting for headings and labels."""
    return _SHORT.get(name, name)


def _text_of(value: Any, *, digits: int = 6) -> str:
    """Write any plain value for a reader; of a setting with all its digits, else 23.976 and 24 would be one."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text_of(one)}" for name, one in value.items())
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


_NOISE = "Random weights show noise: time and memory are real, pictures and quality say nothing."


def render(
    title: str,
    rows: Sequence[Row],
    axes: Sequence[str],
    *,
    asked: Mapping[str, Any],
    environment: Mapping[str, Any],
    baseline: str,
) -> str:
    """Render the page; everything but our own script, styles and plots is escaped."""
    from jinja2 import Environment
    from markupsafe import Markup

    plots = curves([row for row in rows if row.record.status == "ok"], axes)
    choices = [{"name": short(name), "values": _values(rows, name)} for name in axes]
    script, cells = asset("player.js"), list(zip(*(row.cells for row in rows), strict=True))
    kept = [i for i, column in enumerate(cells) if any(cell.value != "" for cell in column)]
    template = Environment(autoescape=True).from_string(asset("report.html"))
    return template.render(
        title=title,
        policy=_policy(script),
        css=asset("player.css") + asset("report.css"),
        js=script,
        data=json_script(_player(rows, choices)),
        models=sorted({f"{row.record.model['name']}, {row.record.model['weights']} weights" for row in rows}),
        dates=sorted({row.record.started_at[:10] for row in rows}),
        noise=_NOISE if any(row.record.model["weights"] == "random" for row in rows) else "",
        facts=_facts(rows, environment),
        axes=choices,
        statuses=sorted({row.record.status for row in rows}),
        rows=rows,
        columns=kept,
        baseline=baseline,
        composed=any(row.record.method == "composed" for row in rows),
        curves=[curve._replace(svg=Markup(curve.svg)) for curve in plots],  # noqa: S704 - matplotlib escapes its texts
        failed=[row for row in rows if row.record.status != "ok"],
        commands="\n".join(dict.fromkeys(row.record.command for row in rows if row.record.command)),
        environment=[_told(*item) for item in environment.items() if item[1] not in (None, "", {}, [])],
        asked=json.dumps(asked, indent=1, ensure_ascii=False) if asked else "",
        meanings={**_MEANINGS, **QUALITY},
    )


def _policy(script: str) -> str:
    """Allow this one script, and files beside the page, so that even a slip in escaping could run nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    files = ("img-src 'self' file: data:", "media-src 'self' file: data:")
    rules = (f"script-src 'sha256-{digest}'", "style-src 'unsafe-inline'", *files)
    return "; ".join(("default-src 'none'", *rules, "base-uri 'none'", "form-action 'none'"))


def _player(rows: Sequence[Row], axes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Say how the clips are laid out at first: the setting with most values sideways, then down, then as tabs."""
    order = sorted(axes, key=lambda axis: (axis["name"] == "photo", -len(axis["values"])))
    chosen = dict(zip(("x", "y", "tabs"), (axis["name"] for axis in order), strict=False))
    return {"clips": [row.entry() for row in rows], "axes": axes, "chosen": chosen}


def _values(rows: Sequence[Row], name: str) -> list[str]:
    """Give the texts of a setting's values, each once: numbers by size, all else as it comes."""
    found: dict[str, Any] = {_text_of(row.settings.get(name)): row.settings.get(name) for row in rows}
    is_numeric = all(type(value) in {int, float} for value in found.values())
    return sorted(found, key=lambda text: found[text]) if is_numeric else list(found)


def _facts(rows: Sequence[Row], environment: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Give what stands on top: text, what it is, whether it is bad news."""
    failed = sum(row.record.status != "ok" for row in rows)
    seconds = [row.seconds for row in rows if not math.isnan(row.seconds)]
    facts = [(str(len(rows)), "run" if len(rows) == 1 else "runs", False)]
    facts += [(str(failed), "failed", True)] if failed else []
    if seconds:
        ends = dict.fromkeys((format_seconds(min(seconds)), format_seconds(max(seconds))))
        facts.append((" – ".join(ends), "time a clip", False))
    return [*facts, (hardware(environment), "hardware", False)]


def _told(name: str, value: Any) -> tuple[str, str]:
    if name.endswith("_bytes") and type(value) in {int, float}:
        return name.removesuffix("_bytes"), format_bytes(value)
    return name, _text_of(value)


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
    asked = described.get("asked", described)  # what a sweep writes, or what a user wrote by hand
    axes = asked.get("axes") if isinstance(asked, dict) else None
    rows, axes = _make_rows(folder, records, order=list(axes) if isinstance(axes, dict) else [])
    posters = [_small(inside(folder, row.record.artifacts.get("poster"))) for row in rows]
    sheet = picture_sheet(posters, [row.title for row in rows], height=_HEIGHT, width=_WIDTH, columns=6)
    overview = io.BytesIO()
    sheet.quantize(128).save(overview, "PNG", optimize=True)  # a third of the bytes, for an overview
    write_whole(folder / "contact_sheet.png", overview.getvalue())
    write_whole(folder / "table.csv", to_csv(frame).encode("utf-8-sig"))  # Excel takes it for ANSI else
    unread = [f"quality.{name}" for name in QUALITY if name not in SHOWN]
    write_whole(folder / "table.md", to_markdown(frame.drop(columns=unread, errors="ignore")))
    timed = [row.record.id for row in rows if not math.isnan(row.seconds)]
    pinned = next((name for name in timed if name.startswith(baseline or "")), "")
    title = folder.resolve().name.replace("_", " ")
    made = next((record.environment for record in records if record.status == "ok"), {})  # the driver may lack a GPU
    environment = made or _read_json(folder / "environment.json") or records[0].environment
    page = render(title, rows, axes, asked=described, environment=environment, baseline=pinned)
    write_whole(folder / "index.html", page)
    return folder / "index.html"


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of the folder; nothing when it is missing, not one, or nested deeper than any of ours."""
    try:
        values = plain(json.loads(path.read_text(encoding="utf-8")), where=path.name)
    except (OSError, ValueError, RecursionError, ClipError):
        return {}
    return values if isinstance(values, dict) else {}
