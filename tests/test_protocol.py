"""The protocol: cold apart, warm until two runs agree, repeats in turn until narrow or late, and failures as rows."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from svdkit.bench import protocol as module
from svdkit.bench.measure import Measurement
from svdkit.bench.protocol import (
    Protocol,
    _compile_cost,
    _interleave,
    _record_of,
    _samples_of,
    _Trial,
    _whole_clip,
    describe_run,
)
from svdkit.bench.record import Record
from svdkit.bench.table import remarks
from svdkit.errors import SettingsError
from svdkit.image import fit
from svdkit.models import ModelInfo
from svdkit.pipeline import LoadReport
from svdkit.settings import ClipSettings, LoadSettings
from tests.toy import toy_pipeline

CPU = SimpleNamespace(type="cpu")
QUICK = Protocol(min_repeats=2, budget_seconds=0, max_warm_ups=1)


def loaded_toy() -> Any:
    """Give a toy that says what it is, as a pipeline from ``load`` does."""
    pipe = toy_pipeline()
    pipe.svdkit = LoadReport(
        settings=LoadSettings(model="toy", weights="random", dtype="fp32", memory="resident", device="cpu"),
        model=ModelInfo(name="toy", title="toy", num_frames=4, height=64, width=64),
        revision="seed 0",
        weights="random",
        reasons=(),
        load_seconds=0.5,
    )
    return pipe


@pytest.fixture(scope="module")
def pipe() -> Any:
    return loaded_toy()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace the clock: a trial's run returns the seconds that it is said to have taken; keep the order of runs."""
    ran: list[str] = []
    taken: list[float] = []

    @contextmanager
    def scripted(_pipe: Any) -> Iterator[Measurement]:
        taken.clear()
        m = Measurement()
        yield m
        m.seconds = {"unet": taken[0], "total": taken[0]}

    def trial(name: str, *seconds: float) -> _Trial:
        left = iter(seconds)
        last = seconds[-1]

        def run() -> None:
            ran.append(name)
            taken.append(next(left, last))

        return _Trial(run)

    monkeypatch.setattr(module, "measure", scripted)
    monkeypatch.setattr(module, "execution_device", lambda _pipe: CPU)
    return SimpleNamespace(trial=trial, ran=ran)


def quietly(*trials: _Trial, **how: Any) -> None:
    _interleave(None, trials, Protocol(memory=False, **how), lambda _text: None)


def totals(runs: list[Measurement]) -> list[float]:
    return [run.total for run in runs]


def test_the_cold_run_is_apart_and_warm_up_ends_when_two_runs_differ_by_less_than_2_percent(script: Any) -> None:
    trial = script.trial("a", 9.0, 3.0, 2.0, 1.99, 1.0)
    quietly(trial)
    assert totals(trial.cold) == [9.0]
    assert totals(trial.warm_up) == [3.0, 2.0, 1.99]
    assert totals(trial.timed) == [1.0] * 5


def test_what_never_settles_is_warmed_up_a_bounded_number_of_times(script: Any) -> None:
    trial = script.trial("a", *(1.0, 2.0) * 20)
    quietly(trial, max_warm_ups=4, max_repeats=6)
    assert len(trial.warm_up) == 4
    assert len(trial.timed) == 6


def test_repeats_end_when_the_interval_is_narrow(script: Any) -> None:
    """The two outliers leave the median's interval after enough repeats, not after five."""
    trial = script.trial("a", 1.0, 1.0, 1.0, 1.5, 1.4, *[1.0] * 40)
    quietly(trial, max_repeats=40)
    assert 5 < len(trial.timed) < 30
    assert trial.is_narrow(0.01)


def test_repeats_end_when_time_is_up_but_not_below_the_minimum(script: Any) -> None:
    trial = script.trial("a", *(1.0, 2.0) * 20)
    quietly(trial, min_repeats=3, budget_seconds=0)
    assert len(trial.timed) == 3


def test_cells_take_turns_and_each_round_begins_with_another(script: Any) -> None:
    trials = [script.trial(name, 1.0) for name in "abc"]
    quietly(*trials, max_repeats=5)
    cold_and_warm, timed = script.ran[:6], script.ran[6:]
    assert "".join(cold_and_warm) == "abcabc"
    assert "".join(timed) == "abcbcacababcbca"
    assert [trial.order for trial in trials] == [[0, 5, 7, 9, 14], [1, 3, 8, 10, 12], [2, 4, 6, 11, 13]]


def test_an_error_ends_one_cell_and_not_the_others(script: Any) -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    good, bad = script.trial("a", 1.0), _Trial(fail)
    quietly(bad, good)
    assert len(good.timed) == 5
    assert (str(bad.error), bad.timed) == ("broken", [])


def test_an_interrupt_leaves_what_was_measured(script: Any) -> None:
    trial = script.trial("a", 1.0)
    inner = trial.run

    def run() -> None:
        if len(trial.timed) == 3:
            raise KeyboardInterrupt
        inner()

    trial.run = run
    with pytest.raises(KeyboardInterrupt):
        quietly(trial)
    assert len(trial.timed) == 3


def test_an_interrupt_in_the_memory_pass_leaves_no_half_of_it(pipe: Any) -> None:
    """The peak of a part of a clip would look like that of all of it."""

    def run() -> None:
        pipe.scheduler.set_timesteps(1)
        if trial.timed:
            raise KeyboardInterrupt

    trial = _Trial(run)
    with pytest.raises(KeyboardInterrupt):
        _interleave(pipe, [trial], dataclasses.replace(QUICK, max_repeats=2), lambda _text: None)
    assert trial.memory == {}


def test_energy_and_throttling_are_of_the_clip_that_they_belong_to(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted before and after it; clocks and heat while it runs, in the pass for memory."""
    count = iter(range(1000))

    def counters() -> dict[str, float]:
        now = next(count)
        return {"energy_joules": 10.0 * now, "throttled_seconds": 0.5 * now}

    watched = nullcontext({"sm_clock_mhz": 1410})
    monkeypatch.setattr(module, "open_nvml", lambda _: SimpleNamespace(counters=counters, watch=lambda: watched))
    monkeypatch.setattr(module, "measure_memory", lambda _: nullcontext({}))
    trial = script.trial("a", 2.0)
    _interleave(None, [trial], Protocol(), lambda _text: None)
    record = module._record_of(trial, header(), load_seconds=0.5)
    assert record.cost == {"energy_joules": 10.0, "throttled_fraction": [0.25] * 5, "sm_clock_mhz": 1410}
    assert remarks(record) == ["5 clips throttled by power or heat"]


def test_what_never_became_warm_is_marked(script: Any) -> None:
    restless, steady = script.trial("a", *(1.0, 2.0) * 20), script.trial("b", 1.0)
    quietly(restless, steady, max_warm_ups=2)
    assert (restless.cost, steady.cost) == ({"never_warm": True}, {})
    assert remarks(module._record_of(restless, header(), load_seconds=0.5))[0] == "never became warm"


@pytest.mark.parametrize(("seconds", "marks"), [(0.1, {}), (2.0, {"never_warm": True})])
def test_a_stage_that_weighs_little_marks_no_composed_clip(seconds: float, marks: dict[str, Any]) -> None:
    def trial(total: float, **cost: Any) -> _Trial:
        return _Trial(lambda: None, timed=[Measurement({"total": total})] * 2, cost=cost)

    trials = [trial(seconds, never_warm=True), trial(5.0), trial(1.0)]
    assert module._StageTrials._marks(None, trials) == marks  # type: ignore[arg-type]


def test_processes_share_repeats_and_time() -> None:
    share = Protocol(min_repeats=5, max_repeats=30, budget_seconds=300).share
    assert (share.processes, share.min_repeats, share.max_repeats, share.budget_seconds) == (1, 2, 10, 100)
    with pytest.raises(SettingsError, match="processes=0 measures nothing; give 1 or more"):
        Protocol(processes=0)


def header() -> dict[str, Any]:
    return {"id": "0" * 16, "load": {}, "clip": {}, "image": {}, "model": {"name": "toy", "weights": "random"}}


def test_compiling_is_told_apart(script: Any) -> None:
    """Seconds of the compiler, and where it had to give up and go on."""
    import torch._dynamo

    def broken(x: torch.Tensor) -> torch.Tensor:
        x = x + 1
        torch._dynamo.graph_break()
        return x * 2

    compiled = torch.compile(broken, backend="eager")
    trial = script.trial("a", 1.0)
    inner = trial.run
    trial.run = lambda: (inner(), compiled(torch.ones(2)))
    quietly(trial)
    assert trial.cost["graph_breaks"] == 1
    assert 0 < trial.cost["compile_seconds"] < 60


def test_where_nothing_was_compiled_the_compiler_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    assert _compile_cost() == {"compile_seconds": 0.0, "graph_breaks": 0}


def test_a_protocol_without_repeats_is_refused() -> None:
    with pytest.raises(SettingsError, match="min_repeats=0, max_repeats=30 allow no repeat; give 1 or more"):
        Protocol(min_repeats=0)
    with pytest.raises(SettingsError, match="the second not below the first"):
        Protocol(min_repeats=9, max_repeats=8)


def test_samples_are_one_list_a_stage() -> None:
    assert _samples_of([{"unet": 1.0, "total": 2.0}, {"unet": 3.0, "total": 4.0}]) == {
        "unet": [1.0, 3.0],
        "total": [2.0, 4.0],
    }
    assert _samples_of([]) == {}


def run_cells(pipe: Any, frame: Any, clips: list[ClipSettings], tell: Any = lambda _text: None) -> list[Record]:
    headers = [describe_run(pipe, frame, clip) for clip in clips]
    trials = [_whole_clip(pipe, frame, ClipSettings.from_dict(header["clip"])) for header in headers]
    _interleave(pipe, trials, QUICK, tell)
    return [_record_of(trial, header, load_seconds=0.5) for trial, header in zip(trials, headers, strict=True)]


def test_whole_cells_are_records_and_the_first_is_measured_twice(pipe: Any) -> None:
    frame = fit("rocket", height=64, width=64)
    clips = [ClipSettings(seed=1, num_inference_steps=n, decode_chunk_size=2) for n in (1, 2)]
    told: list[str] = []
    first, second, again = run_cells(pipe, frame, [*clips, clips[0]], told.append)
    assert first.id == again.id != second.id
    assert [record.status for record in (first, second, again)] == ["ok"] * 3
    assert sorted([*first.order, *second.order, *again.order]) == [0, 1, 2, 3, 4, 5]
    assert first.samples["cold"]["load"] == [0.5]
    assert {phase: len(first.samples[phase]["total"]) for phase in first.samples} == {
        "cold": 1,
        "warm_up": 1,
        "timed": 2,
    }
    stages = ["image_encoder", "vae_encode", "unet", "scheduler", "vae_decode", "postprocess", "unattributed", "total"]
    assert list(first.samples["timed"]) == stages
    assert list(first.memory) == [stage for stage in stages if stage != "unattributed"]
    assert first.clip["num_frames"] == 4
    assert first.model == {"name": "toy", "revision": "seed 0", "weights": "random"}
    assert first.image["source"] == "rocket"
    assert {"cold run 1 of 3", "warm-up 1", "repeat 1, 2 to 30", "memory"} <= set(told)
    assert Record.from_dict(first.to_dict()) == first


@pytest.mark.parametrize(
    ("error", "status"), [(torch.OutOfMemoryError("CUDA out of memory"), "oom"), (ValueError("odd"), "error")]
)
def test_out_of_memory_and_errors_are_rows(error: Exception, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = loaded_toy()

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(pipe.vae, "decode", fail)
    clip = ClipSettings(seed=1, num_inference_steps=1)
    (record,) = run_cells(pipe, fit("rocket", height=64, width=64), [clip])
    assert record.status == status
    assert record.error is not None
    assert ("ran out of memory" if status == "oom" else "odd") in record.error["message"]
    assert record.samples["timed"] == {}


def test_a_pipeline_of_unknown_origin_is_refused() -> None:
    frame = fit("rocket", height=64, width=64)
    with pytest.raises(SettingsError, match=r"does not say what it was loaded from; make it with svdkit.load\(...\)"):
        describe_run(toy_pipeline(), frame, ClipSettings(seed=1))


def test_a_whole_clip_does_not_step_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip that fitted only with a smaller chunk would be the record of another cell."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "generate", lambda *_, **how: asked.append(how))
    _whole_clip(None, fit("rocket", height=64, width=64), ClipSettings()).run()
    assert asked == [{"progress": False, "step_down": False}]
