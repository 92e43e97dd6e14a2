"""Figures: they show the records' own numbers, are readable without colour, say what was measured, and are light."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from svdkit.bench.plot import (
    run_order_drift,
    stage_waterfall,
    time_against_steps,
    time_memory_pareto,
    vram_against_chunk,
)
from svdkit.errors import SettingsError
from tests.bench_records import CPU, STAGES, VERSIONS, out_of_memory, record

if TYPE_CHECKING:
    from svdkit.bench.record import Record

TITLE = "svd-xt, random weights, NVIDIA H200\nheight 576, width 1024, num_frames 25"
PROCESS = {"total": {"peak_allocated_bytes": None, "peak_reserved_bytes": None, "process_bytes": 2**30}}


def grid(**changes: Any) -> list[Record]:
    """Return 3 steps × 3 chunks × 2 dtypes; fp32 takes twice as long."""
    return [
        record(steps=steps, chunk=chunk, dtype=dtype, factor=factor, **changes)
        for steps in (4, 10, 25)
        for chunk in (1, 5, 25)
        for dtype, factor in (("fp16", 1.0), ("fp32", 2.0))
    ]


FIGURES: dict[str, Callable[[], Any]] = {
    "waterfall": lambda: stage_waterfall(record()),
    "steps": lambda: time_against_steps(grid()),
    "chunk": lambda: vram_against_chunk(grid(), limit_bytes=48 * 2**30),
    "pareto": lambda: time_memory_pareto(grid()),
    "drift": lambda: run_order_drift(record()),
}


def axes_of(figure: Any) -> Any:
    (axes,) = figure.axes
    return axes


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in axes_of(figure).get_legend().get_texts()]


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_light_whole_and_say_what_was_measured(name: str) -> None:
    figure = FIGURES[name]()
    for kind in ("png", "svg"):
        file = io.BytesIO()
        figure.savefig(file, format=kind)
        assert 5_000 < len(file.getvalue()) < 100_000
    axes, box = axes_of(figure), figure.get_tightbbox()
    assert axes.get_title(loc="left").startswith(TITLE)
    assert any(unit in axes.get_xlabel() for unit in (", s", ", GiB", ", frames", "steps", "position"))
    assert name == "waterfall" or any(unit in axes.get_ylabel() for unit in (", s", ", GiB"))
    assert min(box.x0, box.y0, figure.get_figwidth() - box.x1, figure.get_figheight() - box.y1) >= -0.05


def test_the_waterfall_begins_each_stage_where_the_last_ended() -> None:
    made = record(repeats=5)
    bars = axes_of(stage_waterfall(made)).patches
    widths = [float(np.median(made.samples["timed"][stage])) for stage in (*STAGES, "unattributed")]
    assert [bar.get_width() for bar in bars] == pytest.approx(widths)
    assert [bar.get_x() for bar in bars] == pytest.approx([0, *np.cumsum(widths)[:-1]])


def test_the_waterfall_names_stages_and_their_share() -> None:
    samples = {"timed": {"encode": [1.0] * 5, "denoise": [7.0] * 5, "decode": [2.0] * 5, "load": [9.0] * 5}}
    axes = axes_of(stage_waterfall(record(samples=samples)))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["encode", "denoise", "decode"]
    assert [text.get_text() for text in axes.texts] == ["1.0 s, 10.0%", "7.0 s, 70.0%", "2.0 s, 20.0%"]
    assert axes.get_xlabel() == "time in the clip, s (together 10 s)"


def test_the_fitted_line_finds_what_the_seconds_were_made_from() -> None:
    """0.2 s a step and 0.004 s of the scheduler, 0.37 s besides, and twice as much for fp32."""
    figure = time_against_steps(grid(spread=0.0))
    assert legend(figure) == ["dtype fp16: 371 ms + 204 ms a step", "dtype fp32: 741 ms + 409 ms a step"]
    assert "decode_chunk_size 1" in axes_of(figure).get_title(loc="left")


def test_series_can_be_told_apart_without_colour() -> None:
    for figure in (time_against_steps(grid()), vram_against_chunk(grid(), limit_bytes=2**36)):
        lines = [line for line in axes_of(figure).lines if len(line.get_xdata()) > 1]
        assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) >= 3
    markers = {line.get_marker() for line in axes_of(time_against_steps(grid())).lines} - {"None", "|", "_"}
    assert markers == {"o", "s"}


def test_memory_is_the_largest_of_all_steps_at_a_chunk_whatever_their_order() -> None:
    rows = grid()
    (fp16, fp32, limit) = axes_of(vram_against_chunk(rows, limit_bytes=48 * 2**30)).lines
    half = [r for r in rows if r.load["dtype"] == "fp16"]
    largest = [
        max(r.peaks["peak_reserved_bytes"] or 0 for r in half if r.clip["decode_chunk_size"] == c) for c in (1, 5, 25)
    ]
    assert list(fp16.get_xdata()) == [1, 5, 25]
    assert list(fp16.get_ydata()) == pytest.approx([size / 2**30 for size in largest])
    assert fp32.get_label() == "dtype fp32: peak reserved"
    assert list(limit.get_ydata()) == [48, 48]
    for order in ((9, 7), (7, 9)):
        made = [record(steps=size, memory={"total": {"peak_reserved_bytes": size * 2**30}}) for size in order]
        assert list(axes_of(vram_against_chunk(made)).lines[0].get_ydata()) == [9]


def test_one_way_of_loading_shows_all_kinds_of_bytes() -> None:
    figure = vram_against_chunk([row for row in grid() if row.load["dtype"] == "fp16"])
    assert legend(figure) == ["peak allocated", "peak reserved", "process", "limit 139.7 GiB"]


def test_a_cpu_has_no_limit_and_a_device_without_such_bytes_no_line() -> None:
    rows = [record(chunk=chunk, dtype="fp32", environment=CPU | VERSIONS, memory=PROCESS) for chunk in (1, 2)]
    figure = vram_against_chunk(rows)
    assert (len(axes_of(figure).lines), legend(figure)) == (1, ["process"])
    assert axes_of(figure).get_title(loc="left").startswith("svd-xt, random weights, AMD EPYC, 2 cores")
    both = axes_of(vram_against_chunk([*rows, record(chunk=1), record(chunk=2)]))
    assert all(min(line.get_ydata()) > 0 for line in both.lines)  # rather than drawn at zero


def test_out_of_memory_is_a_cross_at_the_limit() -> None:
    figure = vram_against_chunk([*grid(), out_of_memory(chunk=14)], limit_bytes=24 * 2**30)
    cross = axes_of(figure).lines[-1]
    assert (list(cross.get_xdata()), list(cross.get_ydata()), cross.get_marker()) == ([14], [24], "x")
    assert legend(figure)[-1] == "out of memory"


def trade(gib: float, factor: float, **changes: Any) -> Record:
    return record(factor=factor, memory={"total": {"peak_reserved_bytes": int(gib * 2**30)}}, **changes)


def test_the_frontier_holds_what_is_worth_choosing() -> None:
    """The run of 9 GiB is beaten by the one of 8; the one of 12 is as fast as that of 10 but for chance."""
    rows = [trade(10, 1.0, chunk=4), trade(8, 2.0, chunk=1), trade(12, 0.999, chunk=4, dtype="bf16"), trade(9, 2.5)]
    figure = time_memory_pareto(rows)
    assert list(axes_of(figure).lines[-1].get_xdata()) == [8, 10]
    assert [text.get_text() for text in axes_of(figure).texts] == ["1", "2"]
    assert "1  dtype fp16, decode_chunk_size 1\n2  dtype fp16, decode_chunk_size 4" in figure.get_supxlabel()
    assert time_memory_pareto([record()]).get_supxlabel() == "1  name svd-xt"


@pytest.mark.parametrize(
    ("seconds", "trend"),
    [
        ([1.0, 1.02, 0.99, 1.01, 1.0, 1.01, 0.99], "trend -0.9% from first to last, within chance"),
        ([1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06], "trend +5.8% from first to last, beyond chance"),
    ],
)
def test_drift_is_told_from_chance(seconds: list[float], trend: str) -> None:
    assert legend(run_order_drift(record(samples={"timed": {"total": seconds}}))) == ["clip", "median 1.0 s", trend]


def test_drift_is_drawn_against_the_order_of_the_whole_run() -> None:
    """Cells were interleaved: this one's clips ran at positions 2, 5 and 8."""
    figure = run_order_drift(record(samples={"timed": {"total": [1.0, 1.1, 1.2]}}, order=[2, 5, 8]))
    assert list(axes_of(figure).lines[0].get_xdata()) == [2, 5, 8]


def test_composed_numbers_are_called_so() -> None:
    mixed = [record(steps=4), record(steps=10, method="composed")]
    assert axes_of(time_against_steps(mixed)).get_title(loc="left").endswith("partly composed")
    assert "composed" in axes_of(stage_waterfall(mixed[1])).get_title(loc="left")


def test_names_are_never_read_as_formulas() -> None:
    figure = stage_waterfall(record(model={"name": "a $x$ model_$", "weights": "trained"}))
    figure.savefig(io.BytesIO(), format="png")
    assert axes_of(figure)._left_title.get_parse_math() is False


@pytest.mark.parametrize(
    ("draw", "given", "message"),
    [
        (stage_waterfall, out_of_memory(), r"record \w{16} has no timed stages; profile and measure give them"),
        (time_against_steps, [record()], "give timed records of at least two num_inference_steps"),
        (time_against_steps, [], "give timed records of at least two num_inference_steps"),
        (vram_against_chunk, [out_of_memory()], "give records that have decode_chunk_size and measured memory"),
        (time_memory_pareto, [out_of_memory()], "give records that have both timed clips and measured memory"),
        (run_order_drift, record(repeats=2), r"record \w{16} has 2 timed clips; at least 3 are needed"),
    ],
)
def test_what_cannot_be_drawn_says_what_to_give(draw: Callable[[Any], Any], given: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=f"{draw.__name__}: {message}"):
        draw(given)


def test_pyplot_is_left_alone() -> None:
    """A notebook's own figures, backend and settings stay as they are."""
    code = (
        "import sys; from tests.bench_records import record; from svdkit.bench.plot import stage_waterfall\n"
        "stage_waterfall(record()); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True)
