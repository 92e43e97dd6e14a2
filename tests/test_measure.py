"""Seconds by stage: right within 5 %, next to nothing unattributed, and no trace left in the pipeline."""

from __future__ import annotations

import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from svdkit.bench import measure as module
from svdkit.bench.measure import TIMED_STAGES, Measurement, measure, watch
from svdkit.bench.memory import measure_memory
from svdkit.clip import Clip
from svdkit.errors import PipelineError
from svdkit.generate import generate
from svdkit.image import fit
from svdkit.pipeline import active_techniques, apply_technique, undo_technique
from svdkit.settings import ClipSettings
from tests.clips import micro_clip
from tests.toy import toy_pipeline

CLIP = ClipSettings(seed=1, num_inference_steps=3, decode_chunk_size=2)
CALL = {"height": 64, "width": 64, "num_frames": 4, "num_inference_steps": 3, "decode_chunk_size": 2}


@pytest.fixture
def pipe() -> Any:
    """Give a toy of its own: these tests change its parts."""
    return toy_pipeline()


@pytest.fixture
def frame() -> Any:
    return fit("rocket", height=64, width=64)


def call(pipe: Any, frame: Any) -> Any:
    return pipe(frame.image, generator=torch.Generator("cpu").manual_seed(1), output_type="np", **CALL).frames


def make(pipe: Any, frame: Any) -> Any:
    return generate(pipe, frame, CLIP, progress=False).frames


def unet_calls(m: Measurement) -> int:
    return sum(stage == "unet" for stage, _ in m.calls)


def slow(monkeypatch: Any, owner: Any, name: str, seconds: float, spent: list[float]) -> None:
    """Make a method slower, and note how long it really took: a busy machine sleeps longer."""
    inner = getattr(owner, name)

    def slowed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        time.sleep(seconds)
        try:
            return inner(*args, **kwargs)
        finally:
            spent.append(time.perf_counter() - start)

    monkeypatch.setattr(owner, name, slowed)


@pytest.mark.parametrize("way", [call, make])
def test_each_stage_is_right_within_5_percent_and_less_than_2_percent_is_unattributed(
    way: Any, pipe: Any, frame: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    way(pipe, frame)
    clip = micro_clip()
    spent: dict[str, list[float]] = {stage: [] for stage in TIMED_STAGES}
    slow(monkeypatch, pipe.image_encoder, "forward", 0.4, spent["image_encoder"])
    slow(monkeypatch, pipe.vae, "encode", 0.4, spent["vae_encode"])
    slow(monkeypatch, pipe.unet, "forward", 0.15, spent["unet"])
    slow(monkeypatch, pipe.scheduler, "step", 0.1, spent["scheduler"])
    slow(monkeypatch, pipe.vae, "decode", 0.15, spent["vae_decode"])
    slow(monkeypatch, pipe.video_processor, "postprocess_video", 0.2, spent["postprocess"])
    slow(monkeypatch, Clip, "save", 0.2, spent["export"])
    ratios, unattributed = [], []
    for _ in range(3):  # the median of three: a busy machine may take a core away for a while
        with measure(pipe) as m:
            way(pipe, frame)
            clip.save(tmp_path / "clip.png")
        assert list(m.seconds) == [*TIMED_STAGES, "unattributed", "total"]
        assert sum(m.seconds.values()) == pytest.approx(2 * m.total)
        ratios.append([m.seconds[stage] / sum(spent[stage]) for stage in TIMED_STAGES])
        unattributed.append(m.unattributed / m.total)
        for each in spent.values():
            each.clear()
    assert np.median(ratios, axis=0) == pytest.approx(np.ones(len(TIMED_STAGES)), rel=0.05)
    assert 0 <= np.median(unattributed) < 0.02


@pytest.mark.parametrize("way", [call, make])
def test_results_are_the_same_to_the_bit_and_the_pipeline_is_as_before(way: Any, pipe: Any, frame: Any) -> None:
    parts = (pipe, pipe.unet, pipe.vae, pipe.scheduler, pipe.video_processor)
    before = way(pipe, frame)
    attributes, save = [set(vars(part)) for part in parts], Clip.save
    with measure(pipe):
        inside = way(pipe, frame)
        assert Clip.save is not save
    assert np.array_equal(before, inside)
    assert [set(vars(part)) for part in parts] == attributes
    assert Clip.save is save
    assert np.array_equal(before, way(pipe, frame))


def test_every_step_and_chunk_is_listed(pipe: Any, frame: Any) -> None:
    with measure(pipe) as m:
        make(pipe, frame)
    assert [stage for stage, _ in m.calls] == [
        *("image_encoder", "vae_encode"),
        *("unet", "scheduler") * 3,
        *("vae_decode", "postprocess") * 2,
    ]
    assert 0 < sum(seconds for stage, seconds in m.calls if stage == "unet") <= m.seconds["unet"]


def test_after_an_error_the_pipeline_is_as_before_and_what_ran_is_told(pipe: Any, frame: Any) -> None:
    def stop(step: int, _latents: Any) -> None:
        raise KeyboardInterrupt(step)

    with pytest.raises(KeyboardInterrupt), measure(pipe) as m:
        generate(pipe, frame, CLIP, progress=False, on_step=stop)
    assert unet_calls(m) == 1
    assert m.total > m.seconds["unet"] > 0
    assert "decode_latents" not in vars(pipe)


@pytest.mark.parametrize("again", [measure, measure_memory])
def test_two_measurements_of_one_pipeline_at_a_time_are_refused(pipe: Any, frame: Any, again: Any) -> None:
    with measure(pipe) as m:
        with pytest.raises(PipelineError, match=r"being measured already, .* the block around this one"), again(pipe):
            pass
        make(pipe, frame)
    assert unet_calls(m) == 3


def test_a_technique_may_come_and_go_inside_the_block(pipe: Any, frame: Any) -> None:
    """As when generate steps down: guidance in two passes calls the UNet twice a step."""
    with measure(pipe) as m:
        apply_technique(pipe, "two-pass-guidance")
        make(pipe, frame)
    assert unet_calls(m) == 6
    assert active_techniques(pipe) == ("two-pass-guidance",)
    undo_technique(pipe, "two-pass-guidance")
    with measure(pipe) as m:
        make(pipe, frame)
    assert unet_calls(m) == 3


def test_what_was_replaced_or_compiled_before_is_called_and_put_back(pipe: Any, frame: Any) -> None:
    """The compiler must not see our function: a graph break would be an error with fullgraph."""
    pipe.vae.decode = mine = partial(pipe.vae.decode)
    expected = make(pipe, frame)
    pipe.unet.compile(fullgraph=True, backend="eager")  # traced as ever, and run as it is
    compiled = pipe.unet._compiled_call_impl
    with measure(pipe) as m:
        assert np.array_equal(make(pipe, frame), expected)
    assert vars(pipe.vae)["decode"] is mine
    assert pipe.unet._compiled_call_impl is compiled
    assert (unet_calls(m), m.seconds["vae_decode"] > 0) == (3, True)


def test_time_between_calls_belongs_to_the_stage_it_prepares_or_finishes(pipe: Any, frame: Any) -> None:
    """Guidance runs between UNet and scheduler; freeing an offloaded network belongs to that network."""
    told: list[str | None] = []
    with watch(pipe, told.append):
        make(pipe, frame)
    after_unet = {after for stage, after in pairwise(told) if stage == "unet"}
    assert after_unet == {"scheduler", None}  # None: when maybe_free_model_hooks has ended
    assert told[-1] is None


def test_on_cuda_events_are_read_after_one_synchronisation(pipe: Any, frame: Any, monkeypatch: Any) -> None:
    """A stand-in for CUDA's events: torch here has no GPU."""
    waits: list[int] = []
    made: list[Any] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing
            made.append(self)

        def record(self, stream: str) -> None:
            assert stream == "stream of cuda"
            self.at = len(made)

        def elapsed_time(self, other: Any) -> float:
            assert len(waits) == 2, "read before the end"
            return float(other.at - self.at)  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device.type}")
    monkeypatch.setattr(module, "execution_device", lambda _pipe: SimpleNamespace(type="cuda"))
    monkeypatch.setattr(module, "synchronize", lambda _device: waits.append(len(made)))
    with measure(pipe) as m:
        make(pipe, frame)
    assert waits == [0, len(made)]
    assert m.total == pytest.approx((len(made) - 1) / 1000)
    assert m.seconds["vae_decode"] == pytest.approx(3 / 1000)  # two chunks, and freeing the device


def test_on_apples_gpu_every_mark_waits_for_it(pipe: Any, frame: Any, monkeypatch: Any) -> None:
    waits: list[str] = []
    monkeypatch.setattr(module, "execution_device", lambda _pipe: SimpleNamespace(type="mps"))
    monkeypatch.setattr(module, "synchronize", lambda device: waits.append(device.type))
    with measure(pipe) as m:
        make(pipe, frame)
    assert len(waits) > 2 * len(m.calls)


def test_the_table_of_a_measurement() -> None:
    seconds = {"unet": 1.5, "scheduler": 0.4, "unattributed": 0.1, "total": 2.0}
    m = Measurement(seconds, [("unet", 0.5), ("unet", 1.0), ("scheduler", 0.4)])
    assert str(m).splitlines() == [
        "unet                 1.5 s   75.0%  2 calls",
        "scheduler           400 ms   20.0%  1 call",
        "unattributed        100 ms    5.0%",
        "total                2.0 s  100.0%",
    ]
    assert str(Measurement()) == ""
