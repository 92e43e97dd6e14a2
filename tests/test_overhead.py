"""The benchmark of generate()'s overhead: its arithmetic, its table, and that it runs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import overhead


def test_overhead_is_the_median_of_the_rounds_with_an_interval() -> None:
    """The machine slows down fourfold on the way; compared round by round that does not matter."""
    bare = [1.0, 2.0, 4.0]
    assert overhead.overhead([1.1, 2.2, 4.4], bare) == pytest.approx((0.1, 0.1, 0.1))
    assert overhead.overhead(bare, bare) == (0.0, 0.0, 0.0)
    seconds = (1 + np.random.default_rng(1).normal(0.01, 0.02, size=12)).tolist()
    median, low, high = overhead.overhead(seconds, [1.0] * 12)
    assert low < median < high < low + 0.05
    assert overhead.overhead(seconds, [1.0] * 12) == (median, low, high)


def record(svdkit: tuple[float, float, float]) -> dict[str, Any]:
    noise = (0.0, -0.01, 0.01)
    versions = {"python": "3.11", "torch": "2.13", "diffusers": "0.42"}
    overheads = {"svdkit": svdkit, "bare again": noise}
    return {
        "command": "python benchmarks/overhead.py --model micro",
        "date": "2026-11-23T07:00:00+00:00",
        "model": "micro",
        "settings": {"num_frames": 14, "height": 72, "width": 128, "num_inference_steps": 25, "decode_chunk_size": 7},
        "environment": {"gpu": None, "cpu": "CPU", "cpu_count": 2, **versions},
        "threads": 2,
        "samples_seconds": {"wall": {way: [8.0, 9.0, 10.0] for way in overhead.WAYS}},
        "overhead": {"wall": overheads, "processor": overheads},
    }


@pytest.mark.parametrize(
    ("svdkit", "verdict"),
    [
        ((0.004, -0.002, 0.011), "met."),
        ((0.004, -0.002, 0.031), "met by the median only."),
        ((0.031, 0.022, 0.041), "missed."),
    ],
)
def test_the_table_says_what_was_measured_on_what(svdkit: tuple[float, float, float], verdict: str) -> None:
    text = overhead.table(record(svdkit))
    assert text.endswith(f"Bar: at most 2%: {verdict}\n")
    assert "CPU, 2 cores, 2 torch threads; Python 3.11, torch 2.13, diffusers 0.42; model micro, 14 frames" in text
    assert "| bare | 9.0 s | – | – | – | – | 3 |\n" in text
    assert f"| svdkit | 9.0 s | {svdkit[0]:+.2%} | " in text


@pytest.mark.model
def test_it_runs_on_a_toy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "overhead"
    overhead.main(["--model", "toy", "--repeats", "3", "--steps", "1", "--out", str(out)])
    printed = capsys.readouterr().out
    written = json.loads((out / "records.json").read_text(encoding="utf-8"))
    assert {way: len(seconds) for way, seconds in written["samples_seconds"]["wall"].items()} == dict.fromkeys(
        ("bare", "svdkit", "bare again"), 3
    )
    assert (out / "table.md").read_text(encoding="utf-8") in printed
    assert str(tmp_path) not in json.dumps(written)


def test_ways_with_different_frames_are_not_compared() -> None:
    ways = {way: partial(np.asarray, [way == "svdkit"]) for way in overhead.WAYS}
    with pytest.raises(SystemExit, match="the ways gave different frames"):
        overhead.measure({**ways}, repeats=1, device=None)
