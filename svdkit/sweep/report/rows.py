"""What the page needs of each record: the settings that differ, texts and sort values, links to its files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from svdkit.bench.quality import QUALITY
from svdkit.bench.stats import median
from svdkit.bench.table import varying
from svdkit.units import format_bytes, format_money, format_seconds

if TYPE_CHECKING:
    from svdkit.bench.record import Record

SHOWN = {  # numbers of quality in the page's table, under short headings; all are in table.csv
    "motion_percent_width_per_second": "motion, % width/s",
    "camera_explained_fraction": "as one camera",
    "sharpness_last_to_first_ratio": "sharpness kept",
    "warp_error_grey_levels": "warp error",
    "chunk_border_ratio": "chunk borders",
    "first_frame_psnr_db": "frame\u00a00, dB",
    "reference_psnr_db": "to reference, dB",
}
MEANINGS = {
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


def make_rows(folder: Path, records: Sequence[Record], *, order: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Make rows, and name the settings that differ: those of ``order`` first; without any of them, all that differ."""
    settings = [{**record.load, **record.settings, "photo": record.settings["image"]} for record in records]
    differ = [name for name in varying(settings) if name != "image"]
    axes = [name for name in dict.fromkeys((*order, "photo")) if name in differ] or differ
    priced = any(record.cost for record in records)
    return [_row(folder, *pair, axes, priced=priced) for pair in zip(records, settings, strict=True)], axes


def _row(folder: Path, record: Record, settings: dict[str, Any], axes: Sequence[str], *, priced: bool) -> Row:
    values = {short(name): text_of(settings.get(name)) for name in axes}
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
    return Cell(short(name), value if is_number else text_of(value), text_of(value), "number" if is_number else "words")


def _results(record: Record, seconds: float, memory: int | None) -> list[Cell]:
    timed, mark = not math.isnan(seconds), "≈ " if record.method == "composed" else ""
    time = f"{mark}{format_seconds(seconds)}"
    flags = ", ".join(name[3:] for name in QUALITY if name.startswith("is_") and record.quality.get(name))
    numbers = [(heading, record.quality.get(name), QUALITY[name]) for name, heading in SHOWN.items()]
    return [
        Cell("status", record.status, record.status, "words"),
        Cell("time", seconds if timed else "", time if timed else "–", meaning=MEANINGS["time"], ratio=True),
        Cell("memory", memory or "", format_bytes(memory or math.nan), meaning=MEANINGS["memory"], ratio=True),
        *(Cell(name, "" if n is None else n, text_of(n, digits=3), meaning=text) for name, n, text in numbers),
        Cell("flags", flags, flags or "–", "words", MEANINGS["flags"]),
    ]


def _cost(record: Record) -> Cell:
    money = record.cost.get("money")
    text = "–" if money is None else format_money(money, record.cost.get("currency", "USD"))
    return Cell("cost", "" if money is None else money, text, meaning=MEANINGS["cost"], ratio=True)


def inside(folder: Path, name: str | None) -> Path | None:
    """Give the file of an artifact, if it is there and within the folder."""
    path = folder / str(name)
    return path if name and path.is_file() and path.resolve().is_relative_to(folder.resolve()) else None


def short(name: str) -> str:
    """Shorten the name of a setting for headings and labels."""
    return _SHORT.get(name, name)


def text_of(value: Any, *, digits: int = 6) -> str:
    """Write any plain value for a reader; of a setting with all its digits, else 23.976 and 24 would be one."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, dict):
        return ", ".join(f"{name} {text_of(one)}" for name, one in value.items())
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
