"""What is counted, on the real architecture without storage, and how counts are kept."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

import svdkit
from svdkit.bench.forecast import calibrate, calls, forecast
from svdkit.bench.forecast.call import Call
from svdkit.bench.forecast.calls import counts_for, fingerprint, known_counts
from svdkit.bench.forecast.meter import measure_call
from svdkit.bench.forecast.ship import usual_calls
from svdkit.models import find_model, random_pipeline
from svdkit.pipeline.memory import GIB, shipped_counts
from svdkit.settings import ClipSettings

XT = find_model("svd-xt")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("SVDKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def svd():
    """svd-xt at full size, without storage."""
    return random_pipeline("svd-xt", dtype=torch.float16, device="meta")


@pytest.fixture(scope="module")
def micro():
    return random_pipeline("micro", dtype=torch.float16, device="meta")


@pytest.mark.parametrize(
    ("frames", "height", "width", "tflop"),
    [(25, 576, 1024, 159.9), (14, 576, 1024, 89.6), (25, 320, 512, 38.2)],
)
def test_unet_operations_are_the_known_ones(svd, frames, height, width, tflop):
    """Within 1 % of what was counted independently, with attention: guidance batch of two."""
    count = measure_call(svd, Call("unet", frames, height, width, batch=2))
    assert count.flops / 1e12 == pytest.approx(tflop, rel=0.01)


def test_attention_is_counted(svd):
    """A network without it would miss 31 of 160 TFLOP: linear layers 72.2 and convolutions 56.6 remain."""
    count = measure_call(svd, Call("unet", 25, 576, 1024, batch=2))
    assert count.flops / 1e12 - 72.2 - 56.6 == pytest.approx(31.1, rel=0.01)


def test_the_other_stages_are_the_known_ones(svd):
    decode = measure_call(svd, Call("vae_decode", 5, 576, 1024))
    assert decode.flops / 1e12 == pytest.approx(5 * 6.94, rel=0.01)
    assert measure_call(svd, Call("vae_encode", 1, 576, 1024)).flops / 1e12 == pytest.approx(2.6, rel=0.01)
    assert measure_call(svd, Call("image_encoder", 1, 576, 1024)).flops / 1e12 == pytest.approx(0.33, rel=0.02)


def test_peaks_are_the_known_ones(svd):
    """GiB of activations; weights seen through views are not counted among them."""
    peaks = {batch: measure_call(svd, Call("unet", 25, 576, 1024, batch=batch)).peak_bytes / GIB for batch in (1, 2)}
    assert peaks == {1: pytest.approx(3.7, abs=0.05), 2: pytest.approx(7.7, abs=0.05)}
    decode = measure_call(svd, Call("vae_decode", 2, 576, 1024))
    assert decode.peak_bytes / GIB / 2 == pytest.approx(1.13, abs=0.01)
    assert decode.peak_bytes < decode.peak_workspace_bytes < 1.48 * 2 * GIB


def test_forward_chunking_halves_the_peak(svd):
    """4.4 GiB instead of 7.7, for one frame at a time is wide inside a feed-forward layer."""
    count = measure_call(svd, Call("unet", 25, 576, 1024, batch=2, chunked=True))
    assert count.peak_bytes / GIB == pytest.approx(4.4, abs=0.05)


def test_counting_leaves_the_pipeline_as_it_was(micro):
    plain = Call("unet", 14, 72, 128)
    before = measure_call(micro, plain)
    chunked = measure_call(micro, plain._replace(chunked=True))
    assert measure_call(micro, plain) == before
    assert chunked.flops == before.flops
    assert chunked.peak_bytes <= before.peak_bytes
    assert chunked.kernels > before.kernels


def test_many_frames_with_chunking_are_scaled(micro, monkeypatch):
    """Beyond the limit frames are scaled up, within 3 % of counting them."""
    call = Call("unet", 20, 72, 128, chunked=True)
    counted = measure_call(micro, call)
    monkeypatch.setattr("svdkit.bench.forecast.meter._MOST_CHUNKED_FRAMES", 10)
    scaled = measure_call(micro, call)
    assert scaled.flops == counted.flops
    assert scaled.peak_bytes == pytest.approx(counted.peak_bytes, rel=0.03)
    assert scaled.moved_bytes == pytest.approx(counted.moved_bytes, rel=0.03)


def test_a_tensor_that_is_freed_leaves_the_peak():
    """Three tensors of 4 KiB one after the other, of which at most two are alive: the peak is two."""
    from svdkit.bench.forecast.meter import _meter

    with _meter() as found:
        kept = torch.empty(1024, device="meta")
        for _ in range(2):
            kept = kept + 1
    assert found.peak == 2 * 4096
    assert found.moved == 2 * 2 * 4096


def test_a_photo_on_its_side_costs_the_same(svd):
    flat, tall = Call("unet", 14, 320, 512), Call("unet", 14, 512, 320)
    assert flat.key == tall.key
    assert measure_call(svd, flat)[:2] == measure_call(svd, tall)[:2]


# What is kept


def test_shipped_counts_are_those_of_these_networks():
    """The fingerprints are of today's configurations; after a new micro run svdkit.bench.forecast.ship again."""
    for name in ("svd", "svd-xt", "svd-xt-1.1", "micro"):
        known = known_counts(fingerprint(find_model(name)))
        assert known is not None
        assert {call.key for call in usual_calls(name)} <= known.counts.keys()


def test_shipped_counts_can_be_made_again(svd):
    """One entry of each stage, counted again: the same to the last operation and byte."""
    shipped = shipped_counts()["networks"]["svd"]["counts"]
    for call in (
        Call("unet", 25, 320, 512, batch=2),
        Call("vae_decode", 5, 320, 512),
        Call("image_encoder", 1, 576, 1024),
    ):
        assert list(calls.count_all(svd, [call])[call.key]) == shipped[call.key]


def test_a_new_size_is_counted_once(tmp_path, monkeypatch):
    """The second time it is read from the cache folder; building is refused then."""
    call = Call("vae_decode", 3, 64, 96)
    info = find_model("micro")
    counted = counts_for(info, [call]).counts[call.key]
    assert list((tmp_path / "cache").glob("counts-*.json"))
    monkeypatch.setattr(calls, "build", lambda _: pytest.fail("counted again"))
    assert counts_for(info, [call]).counts[call.key] == counted


@pytest.mark.parametrize("text", ["", "{", "[]", '{"counts": {"unet": [1]}}', '{"counts": 3}'])
def test_a_broken_cache_is_ignored(text):
    info = find_model("micro")
    file = calls._cache_file(fingerprint(info))
    file.parent.mkdir(parents=True)
    file.write_text(text)
    call = Call("vae_decode", 3, 64, 96)
    assert counts_for(info, [call]).counts[call.key].flops > 0
    assert json.loads(file.read_text())["counts"]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SVDKIT_CACHE", str(tmp_path / "file" / "below"))
    call = Call("vae_decode", 3, 64, 96)
    assert counts_for(find_model("micro"), [call]).counts[call.key].flops > 0


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [("linux", "XDG_CACHE_HOME", "svdkit"), ("win32", "LOCALAPPDATA", "svdkit")],
)
def test_the_cache_is_where_the_platform_wants_it(tmp_path, monkeypatch, platform, variable, expected):
    monkeypatch.delenv("SVDKIT_CACHE")
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert calls.cache_folder() == tmp_path / expected


@pytest.mark.parametrize(("height", "width"), [(584, 1024), (16, 16), (24, 40)])
def test_any_multiple_of_eight_can_be_counted(svd, height, width):
    assert all(measure_call(svd, Call(stage, 2, height, width)).flops for stage in ("vae_encode", "unet", "vae_decode"))


def test_frames_a_clip_are_no_other_architecture():
    assert fingerprint(find_model("svd")) == fingerprint(XT) == fingerprint(dataclasses.replace(XT, num_frames=3))


# Calibration


def test_two_steps_and_a_chunk_calibrate_this_machine():
    """On micro: the record is kept, and the next forecast for this machine has seconds from it."""
    made = calibrate(svdkit.load("micro"))
    assert made.method == "composed"
    assert made.clip["num_inference_steps"] == 2
    assert set(made.samples["timed"]) == {"encode", "denoise", "decode"}
    found = forecast("micro", clip=ClipSettings(num_inference_steps=20))
    assert found.source.startswith("own calibration: 1 record of ")
    assert found.stage_seconds["unet"] == pytest.approx(10 * made.samples["timed"]["denoise"][0])
    assert found.stage_seconds["vae_decode"] == pytest.approx(made.samples["timed"]["decode"][0])


def test_a_calibration_need_not_be_kept():
    calibrate(svdkit.load("micro"), save=False)
    assert forecast("micro").seconds is None
