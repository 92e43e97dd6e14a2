"""Records as figures that can be read in black and white: markers, line styles, a unit on every axis.

Those of records are matplotlib's, for notebooks, and say above them what was measured on what; the curves of a report
are SVG in the page's own font and colours, and say in a sentence what they show.
"""

from __future__ import annotations

import contextlib
import html
import io
import itertools
import math
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svdkit.bench.record import BYTES, RECORD_STAGES, Record
from svdkit.bench.stats import chance_of_trend, median
from svdkit.bench.table import COLUMNS, common, hardware, ratio_of, seconds_of, varying
from svdkit.errors import SettingsError
from svdkit.units import format_bytes, format_seconds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GIB = 2**30
# All visible on white and on black.
_COLOURS = ("#3b82d6", "#d9772b", "#2f9e6e", "#b0579f", "#8a7a2a", "#5b6bd0", "#c2453f", "#7f7f7f")
_STYLE = {"axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.6, "axes.axisbelow": True}
_STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10, "legend.frameon": False}
_STYLE |= {"text.parse_math": False, "svg.fonttype": "none"}  # a "$" in a name would begin a formula
_LOOKS = [  # series can be told apart without colour too
    {"color": colour, "linestyle": line, "marker": marker, "markerfacecolor": "white"}
    for colour, marker, line in zip(_COLOURS, "osD^vP*X", 2 * ("-", "--", ":", "-."), strict=True)
]
_TITLE = ("height", "width", "num_frames", "num_inference_steps", "decode_chunk_size", "dtype", "memory")


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Draw in the one style; no state of pyplot is touched."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        yield


def _axes(title: str = "", *, width: float = 7.5, height: float = 4.2) -> Axes:
    from matplotlib.figure import Figure

    axes = Figure(figsize=(width, height), dpi=100, layout="constrained").add_subplot()
    axes.set_title(title, loc="left")
    return axes


def _title(records: Sequence[Record]) -> str:
    """Say what was measured on what."""
    about = (f"{r.model['name']}, {r.model['weights']} weights, {hardware(r.environment)}" for r in records)
    same, methods = common([record.settings for record in records]), {record.method for record in records}
    words = [f"{name} {same[name]}" for name in _TITLE if name in same]
    words += ["partly composed" if len(methods) > 1 else "composed"] if "composed" in methods else []
    lines = ("; ".join(dict.fromkeys(about)), ", ".join(words))
    return "\n".join(wrapped for line in lines for wrapped in textwrap.wrap(line, 80))


def _from_zero(axes: Axes, xlabel: str, ylabel: str, **legend: Any) -> Figure:
    """Finish a figure whose axes begin at 0, with room for the outermost markers."""
    axes.set(xlabel=xlabel, xlim=(0, axes.get_xlim()[1] * 1.06), ylabel=ylabel, ylim=(0, axes.get_ylim()[1] * 1.06))
    axes.legend(**legend)
    return axes.figure


def _series_of(records: Sequence[Record], *, along: str, free: Sequence[str] = ()) -> dict[str, list[Record]]:
    """Group records by model and loading; hold their other clip settings at the most frequent value of each."""
    records = [record for record in records if record.clip.get(along) is not None]
    for name in dict.fromkeys(name for record in records for name in record.clip):
        if name not in (along, "seed", *free):
            kept = Counter(record.clip.get(name) for record in records).most_common(1)[0][0]
            records = [record for record in records if record.clip.get(name) == kept]
    ways = [{**r.load, **r.model, "hardware": hardware(r.environment)} for r in records]
    differ = varying(ways)
    series: dict[str, list[Record]] = {}
    for record, way in zip(records, ways, strict=True):
        series.setdefault("".join(f"{name} {way.get(name)}: " for name in differ), []).append(record)
    return series


@_style()
def stage_waterfall(record: Record) -> Figure:
    """Where a clip's time goes: one bar a stage, each beginning where the one before ends (medians of timed clips)."""
    timed = record.samples.get("timed", {})
    stages = [stage for stage in RECORD_STAGES if stage not in ("load", "total") and timed.get(stage)]
    if not stages:
        raise SettingsError(f"stage_waterfall: record {record.id} has no timed stages; profile and measure give them")
    axes = _axes(_title([record]), height=1.6 + 0.42 * len(stages))
    seconds = np.array([np.median(timed[stage]) for stage in stages])
    starts, whole = np.cumsum(seconds) - seconds, float(seconds.sum())
    bars = axes.barh([stage.replace("_", " ") for stage in stages], seconds, left=starts, color=_COLOURS[0])
    axes.bar_label(bars, [f"{format_seconds(s)}, {s / (whole or 1):.1%}" for s in seconds], padding=5, fontsize=9)
    axes.invert_yaxis()
    axes.set(xlim=(min(0, starts.min()), whole * 1.25 or 1))  # with room for the last bar's text
    axes.set_xlabel(f"time in the clip, s (together {format_seconds(whole)})")
    axes.grid(visible=False, axis="y")
    return axes.figure


@_style()
def time_against_steps(records: Sequence[Record]) -> Figure:
    """Seconds of a clip against denoising steps, with a fitted line for each way of loading: fixed + per step.

    Clip settings other than the steps are held at their most frequent values, which the title names.
    """
    along = "num_inference_steps"
    series = _series_of([r for r in records if r.timed], along=along)
    series = {name: found for name, found in series.items() if len({r.clip[along] for r in found}) > 1}
    if not series:
        raise SettingsError("time_against_steps: give timed records of at least two num_inference_steps")
    axes = _axes(_title([record for found in series.values() for record in found]))
    for look, (name, found) in zip(itertools.cycle(_LOOKS), series.items(), strict=False):
        steps = np.array([record.clip[along] for record in found])
        low, middle, high = np.array([(s.low, s.value, s.high) for s in map(seconds_of, found)]).T
        slope, fixed = np.polyfit(steps, middle, 1)
        ends = np.array([0, steps.max()])
        axes.plot(ends, fixed + slope * ends, **look | {"marker": "None"})
        label = f"{name}{format_seconds(fixed)} + {format_seconds(slope)} a step"
        bars = np.nan_to_num([middle - low, high - middle])  # none where there are too few repeats
        axes.errorbar(steps, middle, bars, label=label, capsize=3, **look | {"linestyle": ""})
    legend = {"title": "fixed + per step", "alignment": "left"}
    return _from_zero(axes, "denoising steps", "clip time, s (median, 95 % interval)", **legend)


@_style()
def vram_against_chunk(records: Sequence[Record], *, limit_bytes: int | None = None) -> Figure:
    """Peak memory against the decode chunk: all kinds of bytes for one way of loading, one kind for several."""
    import pandas as pd

    along = "decode_chunk_size"
    known = [r for r in records if r.status == "ok" and any(r.peaks.values())]
    series = _series_of(known, along=along, free=("num_inference_steps",))
    if not series:
        raise SettingsError("vram_against_chunk: give records that have decode_chunk_size and measured memory")
    shown = [record for found in series.values() for record in found]
    axes = _axes(_title(shown))
    kinds = BYTES if len(series) == 1 else (_kind(shown),)
    for look, (name, kind) in zip(itertools.cycle(_LOOKS), itertools.product(series, kinds), strict=False):
        chunks = [record.clip[along] for record in series[name]]
        sizes = pd.Series([record.peaks[kind] for record in series[name]], chunks, dtype=float) / _GIB
        largest = sizes.dropna().groupby(level=0).max()  # of all steps
        if len(largest):  # else another kind of device, which has no bytes of this kind
            axes.plot(largest.index, largest, label=f"{name}{COLUMNS[kind]}", **look)
    limit = limit_bytes or max((r.environment.get("vram_bytes") or 0 for r in records), default=0)
    if limit:
        axes.axhline(limit / _GIB, color="black", linestyle=(0, (6, 2)), label=f"limit {format_bytes(limit)}")
    if failed := sorted({r.clip[along] for r in records if r.status == "oom" and r.clip.get(along)}):
        top = [limit / _GIB or axes.get_ylim()[1]] * len(failed)
        axes.plot(failed, top, "x", color="black", markersize=9, markeredgewidth=2, label="out of memory")
    return _from_zero(axes, "decode_chunk_size, frames", "memory, GiB")


@_style()
def time_memory_pareto(records: Sequence[Record]) -> Figure:
    """Seconds against peak memory: every run a point, the frontier a line, its runs numbered and named below.

    A run is on the frontier when every thriftier one is slower, by more than chance explains.
    """
    good = [r for r in records if r.timed and any(r.peaks.values())]
    if not good:
        raise SettingsError("time_memory_pareto: give records that have both timed clips and measured memory")
    kind = _kind(good)
    known = [((record.peaks[kind] or 0) / _GIB, median(record.timed).value, record) for record in good]
    points = sorted((point for point in known if point[0]), key=lambda point: point[:2])
    frontier = points[:1]
    for point in points[1:]:
        change = ratio_of(point[2], frontier[-1][2])
        if change.value < 1 and not change.high >= 1:
            frontier.append(point)
    axes = _axes(_title([record for *_, record in points]), height=4.2 + 0.17 * len(frontier))
    axes.plot(*list(zip(*points, strict=True))[:2], "o", color="#777", markerfacecolor="white", label="run")
    axes.step(*list(zip(*frontier, strict=True))[:2], "s-", where="post", color=_COLOURS[0], label="frontier")
    rows = [record.settings | record.model | {"method": record.method} for *_, record in [*frontier, *points]]
    differ, names = varying(rows) or ["name"], []
    for number, (point, row) in enumerate(zip(frontier, rows, strict=False), start=1):
        axes.annotate(str(number), point[:2], xytext=(5, 5), textcoords="offset points", fontweight="bold")
        names.append(f"{number}  {', '.join(f'{name} {row.get(name)}' for name in differ)}")
    axes.figure.supxlabel("\n".join(names), x=0.02, ha="left", fontsize=9)
    return _from_zero(axes, f"memory ({COLUMNS[kind]}), GiB", "clip time, s (median)")


@_style()
def run_order_drift(record: Record) -> Figure:
    """Seconds of each timed clip in the order in which they ran, one process after the other, with the straight trend.

    A trend beyond chance says that the machine changed on the way (heat, other programs): the intervals are too narrow.
    """
    seconds = np.array([value for process in record.timed for value in process])
    if len(seconds) < 3:
        count = f"{len(seconds)} timed clips; at least 3 are needed"
        raise SettingsError(f"run_order_drift: record {record.id} has {count}")
    order = np.array(record.order if len(record.order) == len(seconds) else range(len(seconds)))
    order = order + np.repeat(range(len(record.timed)), [*map(len, record.timed)]) * (order.max() + 1)
    slope, start = np.polyfit(order, seconds, 1)
    middle, ends = float(np.median(seconds)), np.array([order.min(), order.max()])
    word = "beyond chance" if chance_of_trend(order, seconds) < 0.05 else "within chance"
    trend = f"trend {slope * np.ptp(ends) / middle:+.1%} from first to last, {word}"
    axes = _axes(_title([record]))
    axes.plot(order, seconds, "o", color=_COLOURS[0], markerfacecolor="white", label="clip")
    axes.axhline(middle, color="black", linewidth=1, linestyle="--", label=f"median {format_seconds(middle)}")
    axes.plot(ends, start + slope * ends, color=_COLOURS[1], label=trend)
    axes.set(xlabel="position in the run", ylabel="clip time, s")
    axes.locator_params(axis="x", integer=True)
    axes.margins(y=0.25)
    axes.legend()
    return axes.figure


def _kind(records: Sequence[Record]) -> str:
    """The kind of bytes that most records have; of equals the one that tells which card is needed."""
    return max((BYTES[1], BYTES[2], BYTES[0]), key=lambda kind: sum(bool(r.peaks[kind]) for r in records))


_MOTION = "quality.motion_percent_width_per_second"
_WARP = "quality.warp_error_grey_levels"  # the only one of these of which less is better
_QUALITIES = (
    "quality.reference_psnr_db",
    "quality.first_frame_psnr_db",
    "quality.sharpness_last_to_first_ratio",
    _WARP,
)


@_style()
def curves(frame: pd.DataFrame, axes: Sequence[str]) -> list[dict[str, str]]:
    """Draw what a report's runs can show, each with its title, SVG element and text, from their table.

    A plot needs a setting that differs and a number that was measured; the table has a ``memory`` and a ``label`` too.
    """
    from pandas.api.types import is_any_real_numeric_dtype as is_numeric

    numeric = [name for name in axes if name != "seed" and is_numeric(frame[name])]
    quality = next((name for name in _QUALITIES if name in frame and frame[name].notna().any()), _WARP)
    frame = frame.reindex(columns=dict.fromkeys([*frame, _MOTION, quality])).assign(gib=frame["memory"] / _GIB)
    wanted = (
        ("Motion", _MOTION, COLUMNS[_MOTION], ["motion_bucket_id", *numeric]),
        ("Quality", quality, COLUMNS[quality], ["num_inference_steps"]),
        ("Time", "seconds", "seconds a clip", ["num_inference_steps", *numeric]),
        ("Memory", "gib", "peak memory, GiB", ["decode_chunk_size", "num_frames", *numeric]),
    )
    drawn = []
    for title, y, label, settings in wanted:
        x = next((name for name in settings if name in numeric), None)
        if x and len((known := frame.dropna(subset=[x, y])).drop_duplicates(x)) > 1:
            drawn.append(_curve(known, title, x, y, label))
    known = frame.dropna(subset=["seconds", quality])
    return [*drawn, _pareto(known, quality)] if len(known.drop_duplicates(["seconds", quality])) > 1 else drawn


def _curve(frame: pd.DataFrame, what: str, x: str, y: str, label: str) -> dict[str, str]:
    """Draw one number against a setting: a dot a run, a line through the medians, a band from lowest to highest."""
    axes = _axes(width=4.8, height=3.1)
    is_split = "image" in frame and 1 < frame["image"].nunique() <= len(_COLOURS)
    for look, (photo, runs) in zip(_LOOKS, frame.groupby("image") if is_split else [("", frame)], strict=False):
        band = runs.groupby(x)[y].agg(["min", "median", "max"])
        axes.fill_between(band.index, band["min"], band["max"], color=look["color"], alpha=0.15, linewidth=0)
        # matplotlib hides a label that begins with "_", as cameras name files: a space without width goes before.
        axes.plot(band.index, band["median"], markersize=4, label=f"\u200b{photo}", **look)
        axes.plot(runs[x], runs[y], ".", color=look["color"], alpha=0.5)
    middle, name = frame.groupby(x)[y].median(), x.replace("_", " ")
    axes.set(xlabel=name, ylabel=label)
    if len(middle) < 9:
        axes.set_xticks(middle.index, [f"{place:g}" for place in middle.index])
    if is_split:
        axes.legend(fontsize=8)
    ends = [f"{middle[place]:.3g} at {place:g}" for place in (middle.index[0], middle.index[-1])]
    text = f"{label}: median {', '.join(ends)}."
    more = f"{text} A dot is a run, the band runs from lowest to highest."
    return {"title": f"{what} against {name}", "svg": _svg(axes, f"{what} against {x}. {text}"), "text": more}


def _pareto(frame: pd.DataFrame, quality: str) -> dict[str, str]:
    """Draw quality against time, with a line through the runs that no other beats in both."""
    frame = frame.assign(good=frame[quality] * (-1 if quality == _WARP else 1))
    frame = frame.sort_values(["seconds", "good"], ascending=[True, False])
    best = frame[frame["good"] > frame["good"].cummax().shift(fill_value=-math.inf)]
    axes = _axes(width=4.8, height=3.1)
    axes.plot(frame["seconds"], frame[quality], "o", color=_COLOURS[0], markersize=4, alpha=0.5)
    axes.step(best["seconds"], best[quality], "-o", where="post", color=_COLOURS[1], markersize=5)
    axes.set(xlabel="seconds a clip", ylabel=COLUMNS[quality])
    names = f"{'; '.join(best['label'][:4])}{'; …' if len(best) > 4 else '.'}"
    text = f"On the line is what no other run beats in both: {names}"
    return {"title": "Quality against time (Pareto)", "svg": _svg(axes, text), "text": text}


def _svg(axes: Axes, text: str) -> str:
    """Give an SVG element in the page's font and colours, described by a text."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": text}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that matplotlib's font lacks; the page's has it
        axes.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = buffer.getvalue().replace("#000000", "var(--text)").replace("#dddddd", "var(--line)")
    drawing = drawing.replace("#ffffff", "var(--back)")
    return f'<svg role="img" aria-label="{html.escape(text)}" {drawing.partition("<svg ")[2]}'
