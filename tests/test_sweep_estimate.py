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


def test_shared_stages_are_paid_once_and_each_run_knows_its_own_forecast() -> None:
    """Two encodes, six denoises, six decodes of each chunk size: from the forecasts of single clips."""
    plan = plan_sweep("rocket", load={"model": "svd-xt"}, axes=AXES, gpu="RTX 4090", hourly_price=0.36)
    clips = [forecast("svd-xt", gpu="RTX 4090", clip=job.clip, load=job.load) for job in plan.jobs]
    first = clips[0].stage_seconds
    encode = sum(first.get(part, 0) for part in ("image_encoder", "vae_encode", "encode"))
    denoise = sum(first.get(part, 0) for part in ("unet", "scheduler", "denoise"))
    rest = [sum(clip.stage_seconds.values()) - encode - denoise for clip in clips]
    assert plan.estimate is not None
    assert plan.estimate.seconds == pytest.approx(2 * encode + 6 * denoise + sum(rest))
    assert plan.estimate.alone_seconds == pytest.approx(sum(clip.seconds or 0 for clip in clips))
    assert plan.estimate.cost == pytest.approx((plan.estimate.seconds or 0) / 3600 * 0.36)
    assert "forecast: about" in str(plan)
    assert [job.forecast for job in plan.jobs] == [clip.brief() for clip in clips]


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


@pytest.mark.parametrize(
    ("load", "axes", "gpu", "told"),
    [
        (
            {"memory": "resident"},
            {"seed": [1, 2]},
            "RTX 3060",
            "memory='resident'.* needs .*, more than RTX 3060 .* has free; .*memory='auto' would take .*or exclude it",
        ),
        ({"compile": True}, {"dtype": ["fp16", "fp8"]}, "RTX 4090", "compile=True"),
        ({}, AXES, "Voodoo 3", "Voodoo 3"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_loads(
    load: dict[str, Any], axes: dict[str, Any], gpu: str, told: str
) -> None:
    """And named once, however many runs it is of."""
    with pytest.raises(SettingsError, match=told) as caught:
        plan_sweep("cat", load={"model": "svd-xt", **load}, axes=axes, gpu=gpu)
    assert len(caught.value.problems) == 1


def test_the_estimate_in_words() -> None:
    values: dict[str, Any] = {"currency": "USD", "gpu": "H100", "source": "published timings"}
    found = Estimate(seconds=90.0, alone_seconds=600.0, cost=0.075, **values)
    assert str(found) == "forecast: about 1 min 30 s, $0.075 on one H100 (one by one about 10 min); published timings"
