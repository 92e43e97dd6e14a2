"""Records as figures that can be read in black and white: hatches, markers, line styles, a unit on every axis."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from svdkit.bench.record import BYTES, RECORD_STAGES, Record
from svdkit.bench.stats import chance_of_trend, median
from svdkit.bench.table import hardware, ratio_of, seconds_of, varying
from svdkit.errors import SettingsError
from svdkit.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_HATCHES = ("//", "\\\\", "xx", "--", "++", "||", "////", "")  # dots and circles make heavy SVG files
_MARKERS, LINES = "osD^vP*X", ("-", "--", ":", "-.")
_COLOURS = ("#0b6fa4", "#c2571a", "#3b7d3c", "#7a4a9e", "#8a6d00", "#b03060", "#444444", "#00807a")
_FILLS = ("#9ecae1", "#fdd0a2", "#c7e9c0", "#dadaeb", "#fff2ae", "#fbb4c9", "#d9d9d9", "#b2e2e2")


def _empty_figure(records: Sequence[Record], *, height: float = 4.2, hidden: Sequence[str] = ()) -> tuple[Figure, Axes]:
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


def _series_of(records: Sequence[Record], *, along: str, free: Sequence[str] = ()) -> dict[str, list[Record]]:
    """Group records by model and loading; hold their other clip settings at the most frequent value of each."""
    records = [record for record in records if not math.isnan(_setting_of(record, along))]
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


def _setting_of(record: Record, name: str) -> float:
    """A clip setting as a number for an axis; NaN when it is not known."""
    value = record.clip.get(name)
    return math.nan if value is None else float(value)


_GIB = 2**30
_WORDS = dict(zip(BYTES, ("allocated", "reserved", "of the process", "of the device"), strict=True))


def stage_waterfall(record: Record) -> Figure:
    """Where a clip's time goes: one bar a stage, each beginning where the one before ends (medians of timed clips)."""
    timed = record.samples.get("timed", {})
    stages = [stage for stage in RECORD_STAGES if stage not in ("load", "total") and timed.get(stage)]
    if not stages:
        raise SettingsError(f"stage_waterfall: record {record.id} has no timed stages; profile and measure give them")
    figure, axes = _empty_figure([record], height=1.6 + 0.42 * len(stages))
    seconds = np.array([median([timed[stage]]).value for stage in stages])
    ends = np.cumsum(seconds)
    starts, whole = ends - seconds, float(ends[-1])
    for row, (start, length) in enumerate(zip(starts, seconds, strict=True)):
        look = {"color": _FILLS[row % 8], "hatch": _HATCHES[row % 8], "edgecolor": "#222", "linewidth": 0.8}
        axes.barh(row, length, left=start, height=0.7, **look)
        is_late = start + length / 2 > whole / 2  # its text goes where there is room
        side, place = ("right", (start, row)) if is_late else ("left", (start + length, row))
        text, offset = f"{format_seconds(length)}, {length / whole:.1%}", (-5 if is_late else 5, 0)
        axes.annotate(text, place, xytext=offset, textcoords="offset points", va="center", ha=side, fontsize=9)
    axes.set_yticks(range(len(stages)), [stage.replace("_", " ") for stage in stages])
    axes.invert_yaxis()
    axes.set(
        xlim=(min(0, starts.min()), whole * 1.02), xlabel=f"time in the clip, s (together {format_seconds(whole)})"
    )
    axes.grid(visible=False, axis="y")
    return figure


def time_against_steps(records: Sequence[Record]) -> Figure:
    """Seconds of a clip against denoising steps, with a fitted line for each way of loading: fixed + per step.

    Clip settings other than the steps are held at their most frequent values, which the title names.
    """
    along = "num_inference_steps"
    series = _series_of([r for r in records if r.timed], along=along)
    series = {name: found for name, found in series.items() if len({_setting_of(r, along) for r in found}) > 1}
    if not series:
        raise SettingsError("time_against_steps: give timed records of at least two num_inference_steps")
    figure, axes = _empty_figure([record for found in series.values() for record in found])
    for index, (name, found) in enumerate(series.items()):
        steps = np.array([_setting_of(record, along) for record in found])
        low, middle, high = np.array([(s.low, s.value, s.high) for s in map(seconds_of, found)]).T
        slope, fixed = np.polyfit(steps, middle, 1)
        colour, ends = _COLOURS[index % 8], np.array([0, steps.max()])
        axes.plot(ends, fixed + slope * ends, LINES[index % 4], color=colour, linewidth=1.2)
        label = f"{name + ': ' if name else ''}{format_seconds(fixed)} + {format_seconds(slope)} a step"
        look = {"fmt": _MARKERS[index % 8], "color": colour, "markersize": 7, "markerfacecolor": "white", "capsize": 3}
        bars = np.nan_to_num([middle - low, high - middle])  # none where there are too few repeats
        axes.errorbar(steps, middle, bars, label=label, **look)
    axes.set(xlabel="denoising steps", ylabel="clip time, s (median, 95 % interval)")
    axes.set(xlim=(0, None), ylim=(0, axes.get_ylim()[1] * 1.06))  # else the topmost marker is cut
    axes.legend(frameon=False, title="fixed + per step", alignment="left")
    return figure


def vram_against_chunk(records: Sequence[Record], *, limit_bytes: int | None = None) -> Figure:
    """Peak memory against the decode chunk: all kinds of bytes for one way of loading, one kind for several."""
    along, free = "decode_chunk_size", ("num_inference_steps",)
    series = _series_of([r for r in records if r.status == "ok" and any(r.peaks.values())], along=along, free=free)
    if not series:
        raise SettingsError("vram_against_chunk: give records that have decode_chunk_size and measured memory")
    shown = [record for found in series.values() for record in found]
    figure, axes = _empty_figure(shown, hidden=free)
    kinds = [kind for kind in BYTES if any(r.peaks[kind] for r in shown)] if len(series) == 1 else [_kind(shown)]
    for index, (name, kind) in enumerate((name, kind) for name in series for kind in kinds):
        peaks: dict[float, float] = {}
        for record in series[name]:
            if size := record.peaks[kind]:
                chunk = _setting_of(record, along)
                peaks[chunk] = max(peaks.get(chunk, 0), size / _GIB)
        if not peaks:  # another kind of device, which has no bytes of this kind
            continue
        look = {"marker": _MARKERS[index % 8], "linestyle": LINES[index % 4], "color": _COLOURS[index % 8]}
        label = name or _WORDS[kind]
        axes.plot(*zip(*sorted(peaks.items()), strict=True), label=label, markerfacecolor="white", **look)
    limit = limit_bytes or max((r.environment.get("vram_bytes") or 0 for r in records), default=0)
    if limit:
        axes.axhline(limit / _GIB, color="black", linewidth=1.5, linestyle=(0, (6, 2)))
        place = {"xycoords": ("axes fraction", "data"), "xytext": (0, 4), "textcoords": "offset points"}
        axes.annotate(f"limit {format_bytes(limit)}", (0.01, limit / _GIB), fontsize=9, **place)
    failed = sorted({int(r.clip[along]) for r in records if r.status == "oom" and r.clip.get(along)})
    if failed:
        top = [limit / _GIB or axes.get_ylim()[1]] * len(failed)
        axes.plot(failed, top, "x", color="black", markersize=9, markeredgewidth=2, label="out of memory")
    kind = f" {_WORDS[kinds[0]]}" if len(kinds) == 1 else ""
    axes.set(xlabel="decode_chunk_size, frames", ylabel=f"peak memory{kind}, GiB", ylim=(0, axes.get_ylim()[1] * 1.06))
    axes.legend(frameon=False)
    return figure


def time_memory_pareto(records: Sequence[Record]) -> Figure:
    """Seconds against peak memory: every run a point, the frontier a line, its runs numbered and named below.

    A run is on the frontier when every thriftier one is slower, by more than chance explains.
    """
    good = [r for r in records if r.timed and any(r.peaks.values())]
    if not good:
        raise SettingsError("time_memory_pareto: give records that have both timed clips and measured memory")
    kind = _kind(good)
    good = [record for record in good if record.peaks[kind]]
    points = [((r.peaks[kind] or 0) / _GIB, median(r.timed).value) for r in good]
    frontier = _frontier(good, points)
    figure, axes = _empty_figure(good, height=4.2 + 0.17 * len(frontier))
    axes.plot(*zip(*points, strict=True), "o", color="#777", markerfacecolor="white", label="run")
    line = list(zip(*(points[index] for index in frontier), strict=True))
    axes.step(*line, where="post", color=_COLOURS[0], linewidth=1.2)
    axes.plot(*line, "s", color=_COLOURS[0], markersize=7, label="frontier")
    rows = [record.settings | record.model | {"method": record.method} for record in good]
    names, differ = [], varying(rows)
    for number, index in enumerate(frontier, start=1):
        axes.annotate(str(number), points[index], xytext=(5, 5), textcoords="offset points", fontweight="bold")
        names.append(
            f"{number}  {', '.join(f'{name} {rows[index].get(name)}' for name in differ) or rows[index]['name']}"
        )
    axes.set(xlabel=f"peak memory {_WORDS[kind]}, GiB", ylabel="clip time, s (median)")
    axes.set(xlim=(0, axes.get_xlim()[1] * 1.06), ylim=(0, axes.get_ylim()[1] * 1.06))  # as above
    axes.legend(frameon=False)
    figure.supxlabel("\n".join(names).replace("$", r"\$"), x=0.02, ha="left", fontsize=9)
    return figure


def run_order_drift(record: Record) -> Figure:
    """Seconds of each timed clip in the order in which they ran, one process after the other, with the straight trend.

    A trend beyond chance says that the machine changed on the way (heat, other programs): the intervals are too narrow.
    """
    seconds = np.array([value for process in record.timed for value in process])
    if len(seconds) < 3:
        raise SettingsError(
            f"run_order_drift: record {record.id} has {len(seconds)} timed clips; at least 3 are needed"
        )
    order = np.array(record.order if len(record.order) == len(seconds) else range(len(seconds)))
    order = order + np.repeat(range(len(record.timed)), [*map(len, record.timed)]) * (order.max() + 1)
    slope, start = np.polyfit(order, seconds, 1)
    middle, ends = float(np.median(seconds)), np.array([order.min(), order.max()])
    word = "beyond chance" if chance_of_trend(order, seconds) < 0.05 else "within chance"
    trend = f"trend {slope * np.ptp(ends) / middle:+.1%} from first to last, {word}"
    figure, axes = _empty_figure([record])
    axes.plot(order, seconds, "o", color=_COLOURS[0], markerfacecolor="white", markersize=7, label="clip")
    axes.axhline(middle, color="black", linewidth=1, linestyle="--", label=f"median {format_seconds(middle)}")
    axes.plot(ends, start + slope * ends, "-", color=_COLOURS[1], label=trend)
    axes.set(xlabel="position in the run", ylabel="clip time, s")
    axes.locator_params(axis="x", integer=True)
    axes.margins(y=0.25)
    axes.legend(frameon=False)
    return figure


def _kind(records: Sequence[Record]) -> str:
    """The kind of bytes that most records have; of equals the one that tells which card is needed."""
    return max((BYTES[1], BYTES[2], BYTES[0]), key=lambda kind: sum(bool(r.peaks[kind]) for r in records))


def _frontier(records: Sequence[Record], points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the runs worth choosing, thriftiest first; a gain in time that may be chance does not count."""
    kept: list[int] = []
    for index in sorted(range(len(points)), key=points.__getitem__):
        change = ratio_of(records[index], records[kept[-1]]) if kept else None
        if change is None or (change.value < 1 and not change.low <= 1 <= change.high):
            kept.append(index)
    return kept
