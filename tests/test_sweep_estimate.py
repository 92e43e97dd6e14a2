"""What a sweep will take: stages counted once each, money, and combinations that cannot work or do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from svdkit.errors import SettingsError
from svdkit.forecast import forecast
from svdkit.sweep import plan_sweep
from svdkit.sweep.plan import Estimate
from tests.toy import write_hub_folder

AXES = {"seed": [1, 2], "motion_bucket_id": [30, 127, 220], "decode_chunk_size": [2, 5]}


def test_shared_stages_are_paid_once() -> None:
    """Two encodes, six denoises, six decodes of each chunk size: from the forecasts of single clips."""
    plan = plan_sweep("rocket", load={"model": "svd-xt"}, axes=AXES, gpu="RTX 4090", hourly_price=0.36)
    assert plan.estimate is not None
    assert plan.estimate.seconds is not None
    clips = [
        forecast("svd-xt", gpu="RTX 4090", clip=job.clip, load=job.load).stage_seconds
        for job in plan.jobs
        if job.clip.seed == 1 and job.clip.motion_bucket_id == 30
    ]
    first = clips[0]
    encode = sum(first.get(part, 0) for part in ("image_encoder", "vae_encode", "encode"))
    denoise = sum(first.get(part, 0) for part in ("unet", "scheduler", "denoise"))
    rest = [sum(clip.values()) - encode - denoise for clip in clips]
    assert plan.estimate.seconds == pytest.approx(2 * encode + 6 * denoise + 6 * sum(rest))
    assert plan.estimate.alone_seconds == pytest.approx(6 * sum(sum(clip.values()) for clip in clips))
    assert plan.estimate.cost == pytest.approx(plan.estimate.seconds / 3600 * 0.36)
    assert "forecast: about" in str(plan)


def test_networks_without_a_forecast_are_swept_all_the_same(tmp_path: Path) -> None:
    """Alone, and beside micro, when no total is told that leaves them out."""
    own = str(write_hub_folder(tmp_path / "own"))
    clip = {"height": 64, "width": 64, "num_inference_steps": 1}
    alone = plan_sweep("cat", load={"model": own}, clip=clip, axes={"seed": [1, 2]}, hourly_price=1.0)
    why = "networks that are neither SVD's nor micro's have no forecast"
    assert f"forecast: no time for this machine: {why}" in str(alone)
    assert [job.forecast for job in alone.jobs] == [{}, {}]
    both = plan_sweep("cat", clip=clip, axes={"model": [own, "svd"]}, gpu="H100", hourly_price=1.0)
    assert both.estimate is not None
    assert (both.estimate.seconds, both.estimate.cost) == (None, None)
    assert sorted(bool(job.forecast) for job in both.jobs) == [False, True]


def test_each_run_knows_its_own_forecast() -> None:
    """In the order of the runs, as its record keeps it."""
    plan = plan_sweep("rocket", load={"model": "svd-xt"}, axes=AXES, gpu="RTX 4090")
    for job in plan.jobs:
        found = job.forecast
        alone = forecast("svd-xt", gpu="RTX 4090", clip=job.clip, load=job.load)
        assert found["seconds"] == alone.seconds
        assert found["seconds_low"] < found["seconds"] < found["seconds_high"]
        assert found["memory_bytes"] == alone.memory_bytes
        assert (found["gpu"], found["source"]) == ("RTX 4090", alone.source)


def test_what_does_not_fit_is_refused_before_anything_loads() -> None:
    with pytest.raises(SettingsError) as caught:
        plan_sweep("cat", load={"model": "svd-xt", "memory": "resident"}, axes={"seed": [1, 2]}, gpu="RTX 3060")
    assert len(caught.value.problems) == 1
    assert "memory='resident'" in caught.value.problems[0]
    assert "more than RTX 3060" in caught.value.problems[0]
    assert "memory='auto' would take" in caught.value.problems[0]


def test_a_combination_that_cannot_work_is_refused() -> None:
    with pytest.raises(SettingsError, match="compile=True"):
        plan_sweep("cat", load={"model": "svd-xt", "compile": True}, axes={"dtype": ["fp16", "fp8"]}, gpu="RTX 4090")


def test_an_unknown_gpu_is_named_once() -> None:
    with pytest.raises(SettingsError) as caught:
        plan_sweep("cat", load={"model": "svd-xt"}, axes=AXES, gpu="Voodoo 3")
    assert len(caught.value.problems) == 1
    assert "Voodoo 3" in caught.value.problems[0]


def test_without_a_calibration_it_says_so() -> None:
    values = {"alone_seconds": None, "cost": None, "currency": "USD", "gpu": "a CPU"}
    found = Estimate(seconds=None, source="nothing to calibrate from", **values)  # type: ignore[arg-type]
    assert str(found) == "forecast: no time for a CPU: nothing to calibrate from"


def test_the_estimate_in_words() -> None:
    values: dict[str, Any] = {"currency": "USD", "gpu": "H100", "source": "published timings"}
    found = Estimate(seconds=90.0, alone_seconds=600.0, cost=0.075, **values)
    assert str(found) == "forecast: about 1 min 30 s, $0.075 on one H100 (one by one about 10 min); published timings"
