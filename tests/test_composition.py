"""The benchmark of composed grids: its arithmetic, its table, and that it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import composition
from svdkit.bench.record import Record, read_records


def pair(composed: list[float], whole: list[float], *, steps: int) -> composition.Pair:
    """Make both records of a cell, from a clip's seconds in each process."""

    def record(method: str, seconds: list[float]) -> Record:
        return Record(
            id="a" * 16,
            status="ok",
            load={"dtype": "fp32"},
            clip={"num_frames": 14, "height": 72, "width": 128, "num_inference_steps": steps, "decode_chunk_size": 7},
            image={},
            model={"name": "micro", "revision": "abc", "weights": "trained"},
            environment={"cpu": "CPU", "cpu_count": 2, "python": "3.11", "torch": "2.13", "diffusers": "0.42"},
            method=method,
            samples={"timed": {"total": seconds}},
            order=list(range(len(seconds))),
            processes=[str(number) for number in range(len(seconds))],
            started_at="2026-01-31T12:00:00+00:00",
        )

    return record("composed", composed), record("measured", whole)


@pytest.mark.parametrize(("cost", "bar"), [(20.0, "20% | 25% | met"), (30.0, "30% | 25% | missed")])
def test_the_table_compares_cell_by_cell_and_says_whether_the_bars_are_met(cost: float, bar: str) -> None:
    pairs = [pair([1.02, 1.02], [1.0, 1.0], steps=4), pair([1.96, 2.0], [2.0, 2.0], steps=8)]
    text, met = composition.table(pairs, {"composed": cost, "whole": 100.0}, command="python x.py")
    assert "CPU, 2 cores of which one is used; Python 3.11, torch 2.13, diffusers 0.42; model micro" in text
    assert "model micro (trained weights), 14 frames of 72×128 (height×width); 2 repeats a cell in 2 processes" in text
    assert "| fp32 | 4 | 7 | 1.0 s | 1.0 s | +2.0% |\n| fp32 | 8 | 7 | 2.0 s | 2.0 s | -1.0% |\n" in text
    assert "| fp32: mean difference (processes: +0.0% to +1.0%) | +0.5% | ±2 % | met |" in text
    assert "| fp32: cells with the same sign | 1 of 2 | 2 | met |" in text
    assert f"| {bar} |" in text
    assert met == (cost == 20)


@pytest.mark.parametrize("factor", [1.03, 0.97])
def test_a_bias_is_missed_in_both_directions(factor: float) -> None:
    text, met = composition.table(
        [pair([factor] * 2, [1.0] * 2, steps=4)] * 20, {"composed": 1, "whole": 9}, command=""
    )
    assert f"| {factor - 1:+.1%} | ±2 % | missed |" in text
    assert "| 20 of 20 | 15 | missed |" in text
    assert not met


def test_the_full_grid_has_40_cells() -> None:
    sizes = [len(values) for values in composition.GRID.values()]
    assert sizes == [4, 5, 2]


@pytest.mark.slow
@pytest.mark.model
def test_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    composition.main(["--quick", "--out", str(tmp_path)])
    assert (tmp_path / "table.md").read_text(encoding="utf-8") in capsys.readouterr().out
    records = read_records(tmp_path)
    assert sorted(record.method for record in records) == ["composed"] * 4 + ["measured"] * 4
    assert str(tmp_path) not in (tmp_path / "records.jsonl").read_text(encoding="utf-8")
