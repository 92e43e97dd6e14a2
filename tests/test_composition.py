"""The benchmark of composed grids: its arithmetic, its table, and that it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import composition
from svdkit.bench.record import Record, read_records


def record(method: str, name: str, seconds: float, *, steps: int) -> Record:
    return Record(
        id=name * 16,
        status="ok",
        load={"dtype": "fp32"},
        clip={"num_frames": 14, "height": 72, "width": 128, "num_inference_steps": steps, "decode_chunk_size": 7},
        image={},
        model={"name": "micro", "revision": "abc", "weights": "trained"},
        environment={"cpu": "CPU", "cpu_count": 2, "python": "3.11", "torch": "2.13", "diffusers": "0.42"},
        method=method,
        samples={"timed": {"total": [seconds] * 5}},
        started_at="2026-01-31T12:00:00+00:00",
    )


@pytest.mark.parametrize(
    ("cost", "verdict"), [(20.0, "20%. Bar: at most 25%: met."), (30.0, "30%. Bar: at most 25%: missed.")]
)
def test_the_table_compares_cell_by_cell_and_says_whether_the_bars_are_met(cost: float, verdict: str) -> None:
    composed = [record("composed", "a", 1.02, steps=4), record("composed", "b", 1.8, steps=8)]
    whole = [record("measured", name, seconds, steps=4) for name, seconds in (("a", 0.99), ("a", 1.01), ("b", 2.0))]
    text = composition.table(composed, whole, {"composed": cost, "whole": 100.0}, command="python x.py")
    assert "CPU, 2 cores of which one is used; Python 3.11, torch 2.13, diffusers 0.42; model micro" in text
    assert "model micro (trained weights), 14 frames" in text
    assert "| fp32 | 4 | 7 | 1.0 s | 1.0 s | +2.0% |\n| fp32 | 8 | 7 | 1.8 s | 2.0 s | -10.0% |\n" in text
    assert "median 6.0%, largest 10.0%; one cell measured twice differs by 2.0%" in text
    assert "Bar: a median of at most 5%: missed." in text
    assert text.endswith(f"{verdict}\n")


def test_the_full_grid_has_40_cells() -> None:
    sizes = [len(values) for values in composition.GRID.values()]
    assert sizes == [4, 5, 2]


@pytest.mark.slow
@pytest.mark.model
def test_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    composition.main(["--quick", "--out", str(tmp_path)])
    assert (tmp_path / "table.md").read_text(encoding="utf-8") in capsys.readouterr().out
    records = read_records(tmp_path)
    assert [record.method for record in records] == ["composed"] * 4 + ["measured"] * 5
    assert str(tmp_path) not in (tmp_path / "records.jsonl").read_text(encoding="utf-8")
