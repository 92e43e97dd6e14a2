"""What all figures of records share: a title that says what was measured on what, and series told apart in black."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from svdkit.bench.table import hardware, varying

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from svdkit.bench.record import Record

HATCHES = ("//", "\\\\", "xx", "--", "++", "||", "////", "")  # dots and circles make heavy SVG files
MARKERS, LINES = "osD^vP*X", ("-", "--", ":", "-.")
COLOURS = ("#0b6fa4", "#c2571a", "#3b7d3c", "#7a4a9e", "#8a6d00", "#b03060", "#444444", "#00807a")
FILLS = ("#9ecae1", "#fdd0a2", "#c7e9c0", "#dadaeb", "#fff2ae", "#fbb4c9", "#d9d9d9", "#b2e2e2")


def empty_figure(records: Sequence[Record], *, height: float = 4.2, hidden: Sequence[str] = ()) -> tuple[Figure, Axes]:
    """Make an empty figure whose title says what was measured on what; no global state of pyplot is touched."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, height), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#ddd", linewidth=0.6)
    axes.set_axisbelow(True)
    about = dict.fromkeys(
        f"{r.model['name']}, {r.model['weights']} weights, {hardware(r.environment)}" for r in records
    )
    lines = ["; ".join(about), _settings_line(records, hidden)]
    text = "\n".join(wrapped for line in lines if line for wrapped in textwrap.wrap(line, 88))
    axes.set_title(text.replace("$", r"\$"), loc="left", fontsize=10)  # "$" would begin a formula
    return figure, axes


def _settings_line(records: Sequence[Record], hidden: Sequence[str]) -> str:
    rows = [record.settings for record in records]
    differ = {*varying(rows), *hidden}
    same = {name: value for name, value in rows[0].items() if name not in differ and value is not None}
    words = {"num_frames": "{} frames", "height": "height {}", "width": "width {}", "num_inference_steps": "{} steps"}
    words |= {"decode_chunk_size": "decode chunk {}", "dtype": "{}", "memory": "{}"}
    methods = {record.method for record in records}
    composed = [f"{'partly ' if len(methods) > 1 else ''}composed"] if "composed" in methods else []
    return ", ".join([*(text.format(same[name]) for name, text in words.items() if name in same), *composed])


def series_of(records: Sequence[Record], *, along: str, free: Sequence[str] = ()) -> dict[str, list[Record]]:
    """Group records by model and loading; hold their other clip settings at the most frequent value of each."""
    records = [record for record in records if not math.isnan(setting_of(record, along))]
    names = dict.fromkeys(name for record in records for name in record.clip)
    for name in (name for name in names if name not in (along, "seed", *free)):
        kept = Counter(record.clip.get(name) for record in records).most_common(1)[0][0]
        records = [record for record in records if record.clip.get(name) == kept]
    ways = [{**r.load, **r.model, "hardware": hardware(r.environment)} for r in records]
    differ = varying(ways)
    series: dict[str, list[Record]] = {}
    for record, way in zip(records, ways, strict=True):
        name = ", ".join(
            str(way.get(part)) if part in ("model", "dtype", "hardware") else f"{part} {way.get(part)}"
            for part in differ
        )
        series.setdefault(name, []).append(record)
    return series


def setting_of(record: Record, name: str) -> float:
    """A clip setting as a number for an axis; NaN when it is not known."""
    value = record.clip.get(name)
    return math.nan if value is None else float(value)
