"""The report's pictures: curves and the Pareto plot as inline SVG."""

from __future__ import annotations

import html
import io
import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _FAINT = "#010203", "#040506"  # stand for the page's own colours, which differ in light and dark
_COLOURS = ("#3b82d6", "#d9772b", "#2f9e6e", "#b0579f", "#8a7a2a", "#5b6bd0")  # all visible on white and on black
_QUALITIES = {  # what a plot of quality shows, the first that the runs have: name -> axis label, whether high is good
    "reference_psnr_db": ("likeness to the reference, dB", True),
    "first_frame_psnr_db": ("likeness of frame 0 to the photo, dB", True),
    "sharpness_last_to_first_ratio": ("sharpness kept, last frame over first", True),
    "warp_error_grey_levels": ("warp error, grey levels", False),
}
# A row of the report that ended well: its settings, quality, seconds, memory_bytes and label.
_Row: TypeAlias = Any

_MOTION = "motion_percent_width_per_second"


class _Curve(NamedTuple):
    """A plot: a title, an SVG element, and in a sentence what it shows."""

    title: str
    svg: str
    text: str


def curves(runs: Sequence[_Row], axes: Sequence[str]) -> list[_Curve]:
    """Draw what the runs can show: each plot needs a setting that differs and a number that was measured."""
    numeric = [name for name in axes if _numeric(runs, name)]

    def prefer(*names: str) -> str | None:
        return next((name for name in (*names, *numeric) if name in numeric), None)

    name, label, _ = _quality(runs)
    steps = "num_inference_steps" if "num_inference_steps" in numeric else None
    wanted: list[tuple[str, str | None, str, Callable[[_Row], Any]]] = [
        (
            "Motion",
            prefer("motion_bucket_id"),
            "motion, % of the width per second",
            lambda run: run.quality.get(_MOTION),
        ),
        ("Quality", steps, label, lambda run: run.quality.get(name)),
        ("Time", prefer("num_inference_steps"), "seconds a clip", lambda run: run.seconds),
        ("Memory", prefer("decode_chunk_size", "num_frames"), "peak memory, GiB", lambda run: _gib(run.memory_bytes)),
    ]
    drawn = [_curve(runs, what, x, label, number) for what, x, label, number in wanted if x]
    return [curve for curve in [*drawn, _pareto(runs)] if curve]


def _numeric(runs: Sequence[_Row], name: str) -> bool:
    values = {run.settings.get(name) for run in runs}
    return name != "seed" and len(values) > 1 and all(type(value) in {int, float} for value in values)


def _quality(runs: Sequence[_Row]) -> tuple[str, str, bool]:
    for name, (label, high) in _QUALITIES.items():
        if any(run.quality.get(name) is not None for run in runs):
            return name, label, high
    return "", "", True


def _gib(count: int | None) -> float | None:
    return None if count is None else count / 2**30


def _points(runs: Sequence[_Row], number: Callable[[_Row], Any]) -> list[tuple[_Row, float]]:
    pairs = ((run, number(run)) for run in runs)
    return [(run, float(value)) for run, value in pairs if value is not None and math.isfinite(value)]


def _curve(runs: Sequence[_Row], what: str, x: str, label: str, number: Callable[[_Row], Any]) -> _Curve | None:
    """Draw one number against a setting: a dot a run, a line through the medians, a band from lowest to highest."""
    points = [(run.settings[x], value, str(run.settings.get("image"))) for run, value in _points(runs, number)]
    at, photos = sorted({place for place, _, _ in points}), sorted({photo for _, _, photo in points})
    if len(at) < 2:
        return None
    is_split = 1 < len(photos) <= len(_COLOURS)

    def draw(axes: Axes) -> None:
        for colour, photo in zip(_COLOURS, photos if is_split else [""], strict=False):
            mine = [(place, value) for place, value, other in points if other == photo or not is_split]
            groups = {place: [value for other, value in mine if other == place] for place, _ in sorted(mine)}
            low, middle, high = ([f(group) for group in groups.values()] for f in (min, np.median, max))
            axes.fill_between(list(groups), low, high, color=colour, alpha=0.15, lw=0)
            # matplotlib hides a label that begins with "_", as cameras name files: a space without width goes before.
            axes.plot(list(groups), middle, "-o", color=colour, ms=4, label=f"\u200b{photo}" if photo else None)
            axes.scatter(*zip(*mine, strict=True), color=colour, s=9, alpha=0.5)
        axes.set(xlabel=x.replace("_", " "), ylabel=label)
        if len(at) < 9:
            axes.set_xticks(at, [f"{place:g}" for place in at])
        if is_split:
            axes.legend(frameon=False, fontsize=8)

    first, last = (np.median([value for place, value, _ in points if place == end]) for end in (at[0], at[-1]))
    text = f"{label}: median {first:.3g} at {at[0]:g}, {last:.3g} at {at[-1]:g}."
    more = f"{text} A dot is a run, the band runs from lowest to highest."
    return _Curve(f"{what} against {x.replace('_', ' ')}", _svg(draw, f"{what} against {x}. {text}"), more)


def _pareto(runs: Sequence[_Row]) -> _Curve | None:
    """Draw quality against time, with a line through the runs that no other beats in both."""
    name, label, high = _quality(runs)
    points = [(run.seconds, value, run) for run, value in _points(runs, lambda run: run.quality.get(name))]
    points = [point for point in points if math.isfinite(point[0])]
    if len({(seconds, value) for seconds, value, _ in points}) < 2:
        return None
    best: list[tuple[float, float, _Row]] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1] if high else point[1])):
        if not best or (point[1] > best[-1][1] if high else point[1] < best[-1][1]):
            best.append(point)

    def draw(axes: Axes) -> None:
        axes.scatter(*list(zip(*points, strict=True))[:2], color=_COLOURS[0], s=16, alpha=0.5)
        axes.step(*list(zip(*best, strict=True))[:2], "-o", where="post", color=_COLOURS[1], ms=5)
        axes.set(xlabel="seconds a clip", ylabel=label)

    names = "; ".join(point[2].label for point in best[:4]) + ("; …" if len(best) > 4 else ".")
    text = f"On the line is what no other run beats in both: {names}"
    return _Curve("Quality against time (Pareto)", _svg(draw, text), text)


def _svg(draw: Callable[[Axes], None], text: str) -> str:
    """Draw on matplotlib's axes and give an SVG element in the page's font and colours, described by a text."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    quiet = {"svg.fonttype": "none", "svg.hashsalt": text, "text.parse_math": False, "font.family": "sans-serif"}
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), _INK)
    colours |= {"xtick.color": _FAINT, "ytick.color": _FAINT, "axes.edgecolor": _FAINT, "grid.color": _FAINT}
    with mpl.rc_context(quiet | colours | {"font.size": 9.5, "grid.alpha": 0.5, "grid.linewidth": 0.5}):
        figure = Figure(figsize=(4.8, 3.1), layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=True)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        buffer = io.StringIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a letter that matplotlib's font lacks; the page's has it
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = buffer.getvalue().replace(_INK, "var(--text)").replace(_FAINT, "var(--line)")
    head = f'<svg role="img" aria-label="{html.escape(text)}" '
    return head + drawing[drawing.index("<svg ") + len("<svg ") :]
