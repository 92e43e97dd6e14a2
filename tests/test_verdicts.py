"""The benchmark of verdicts: what it simulates is what it says, and it fails where verdicts are too sure."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import verdicts
from svdkit.bench import compare


def test_what_is_simulated_is_what_the_row_says() -> None:
    draw, time = np.random.default_rng(0), np.linspace(0, 1, 4000).reshape(2, 2000)
    assert np.ptp(verdicts.with_process(0.02)(draw, np.zeros((500, 200))).mean(axis=1)) > 0.05
    noise = verdicts.following(draw, time)[0] - 1
    assert np.corrcoef(noise[1:], noise[:-1])[0, 1] == pytest.approx(0.8, abs=0.05)
    assert noise.std() == pytest.approx(0.02, rel=0.1)
    drift = verdicts.drifting(0.0)(draw, time)
    assert (drift[0, 0], drift[-1, -1]) == pytest.approx((1.0, 1.02))
    modes = np.round(verdicts.two_modes(draw, np.zeros((40, 9000))).mean(axis=1), 2)
    assert set(modes) == {1.0, 1.03}


def test_verdicts_meet_their_bars_on_few_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdicts.main(["--trials", "60", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert text.count("| met |") == len(verdicts.NOTHING_CHANGED) + 2


def test_without_a_noise_floor_drift_is_called_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar can be missed."""
    monkeypatch.setattr(compare, "_DRIFT", 0.0)
    monkeypatch.setattr(compare, "spread", lambda _samples: math.nan)
    assert verdicts.main(["--trials", "60", "--out", str(tmp_path)]) == 1
    missed = [line for line in (tmp_path / "table.md").read_text(encoding="utf-8").splitlines() if "missed" in line]
    assert any(line.startswith("| drift of 2 %") for line in missed)
