"""The protocol: cold apart, warm until two runs agree, repeats in turn until narrow or late, and failures as rows."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from svdkit.bench import protocol as module
from svdkit.bench.measure import Measurement
from svdkit.bench.protocol import Protocol, Trial, _compile_cost, describe_run, interleave, record_of, trials_of
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

    def trial(name: str, *seconds: float) -> Trial:
        left = iter(seconds)
        last = seconds[-1]

        def run() -> None:
            ran.append(name)
            taken.append(next(left, last))

        return Trial(run)

    monkeypatch.setattr(module, "measure", scripted)
    monkeypatch.setattr(module, "execution_device", lambda _pipe: CPU)
    return SimpleNamespace(trial=trial, ran=ran)


def quietly(*trials: Trial, **how: Any) -> None:
    interleave(None, trials, Protocol(memory=False, **how), lambda _text: None)


RESTLESS = (1.0, 2.0) * 20


@pytest.mark.parametrize(
    ("seconds", "how", "warm_up", "timed"),
    [
        ((9.0, 3.0, 2.0, 1.99, 1.0), {}, [3.0, 2.0, 1.99], [1.0] * 5),  # until two differ by less than 2 %
        (RESTLESS, {"max_warm_ups": 4, "max_repeats": 3, "min_repeats": 1}, [2.0, 1.0] * 2, [2.0, 1.0, 2.0]),
        (RESTLESS, {"max_warm_ups": 0, "min_repeats": 3, "budget_seconds": 0}, [], [2.0, 1.0, 2.0]),  # time is up
        # The two outliers leave the median's interval after enough repeats, not after five.
        ((1.0, 1.0, 1.0, 1.5, 1.4, 1.0), {"max_repeats": 40}, [1.0], [1.0, 1.5, 1.4, *[1.0] * 8]),
    ],
)
def test_once_cold_then_warm_ups_until_two_agree_then_repeats_until_narrow_or_late(
    script: Any, seconds: tuple[float, ...], how: dict[str, Any], warm_up: list[float], timed: list[float]
) -> None:
    trial = script.trial("a", *seconds)
    quietly(trial, **how)
    assert {phase: [run.total for run in runs] for phase, runs in trial.runs.items()} == {
        "cold": [seconds[0]],
        "warm_up": warm_up,
        "timed": timed,
    }


def test_cells_take_turns_and_each_round_begins_with_another(script: Any) -> None:
    trials = [script.trial(name, 1.0) for name in "abc"]
    quietly(*trials, max_repeats=5)
    cold_and_warm, timed = script.ran[:6], script.ran[6:]
    assert ("".join(cold_and_warm), "".join(timed)) == ("abcabc", "abcbcacababcbca")
    assert [trial.order for trial in trials] == [[0, 5, 7, 9, 14], [1, 3, 8, 10, 12], [2, 4, 6, 11, 13]]


def test_an_error_ends_one_cell_and_not_the_others(script: Any) -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    good, bad = script.trial("a", 1.0), Trial(fail)
    quietly(bad, good)
    assert len(good.runs["timed"]) == 5
    assert (str(bad.error), bad.runs["timed"]) == ("broken", [])


def test_an_interrupt_leaves_what_was_measured_and_no_half_of_the_memory(pipe: Any) -> None:
    """The peak of a part of a clip would look like that of all of it."""

    def run() -> None:
        pipe.scheduler.set_timesteps(1)
        if len(trial.runs["timed"]) == 3:
            raise KeyboardInterrupt

    trial = Trial(run)
    with pytest.raises(KeyboardInterrupt):
        interleave(pipe, [trial], dataclasses.replace(QUICK, max_repeats=3, min_repeats=3), lambda _text: None)
    assert (len(trial.runs["timed"]), trial.memory) == (3, {})
    trial = Trial(run)
    with pytest.raises(KeyboardInterrupt):
        interleave(pipe, [trial], dataclasses.replace(QUICK, max_repeats=5, min_repeats=5), lambda _text: None)
    assert len(trial.runs["timed"]) == 3


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
    interleave(None, [trial], Protocol(), lambda _text: None)
    record = record_of([trial], header(), load_seconds=0.5)
    assert record.cost == {"energy_joules": 10.0, "throttled_fraction": [0.25] * 5, "sm_clock_mhz": 1410}
    assert remarks(record) == ["5 clips throttled by power or heat"]


def test_what_never_became_warm_is_marked(script: Any) -> None:
    restless, steady = script.trial("a", *(1.0, 2.0) * 20), script.trial("b", 1.0)
    quietly(restless, steady, max_warm_ups=2)
    assert (restless.cost, steady.cost) == ({"never_warm": True}, {})
    assert remarks(record_of([restless], header(), load_seconds=0.5))[0] == "never became warm"


@pytest.mark.parametrize(("seconds", "marks"), [(0.1, {}), (2.0, {"never_warm": True})])
def test_a_stage_that_weighs_little_marks_no_composed_clip(seconds: float, marks: dict[str, Any]) -> None:
    def trial(total: float, **cost: Any) -> Trial:
        return Trial(lambda: None, runs={"timed": [Measurement({"total": total})] * 2}, cost=cost)

    trials = [trial(seconds, never_warm=True), trial(5.0), trial(1.0)]
    assert record_of(trials, header(), load_seconds=0.5).cost == marks


def test_processes_share_repeats_and_time() -> None:
    share = Protocol(min_repeats=5, max_repeats=30, budget_seconds=300).share
    assert (share.processes, share.min_repeats, share.max_repeats, share.budget_seconds) == (1, 2, 10, 100)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"processes": 0}, "processes=0 measures nothing; give 1 or more"),
        ({"min_repeats": 0}, "min_repeats=0, max_repeats=30 allow no repeat; give 1 or more"),
        ({"min_repeats": 9, "max_repeats": 8}, "the second not below the first"),
    ],
)
def test_a_protocol_that_measures_nothing_is_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Protocol(**wrong)  # type: ignore[arg-type]


def header() -> dict[str, Any]:
    return {
        "id": "0" * 16,
        "load": {},
        "clip": {"num_inference_steps": 1},
        "image": {},
        "model": {"name": "toy", "weights": "random"},
    }


def test_compiling_is_told_apart(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of the compiler, and where it had to give up and go on; it is not imported for that."""
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
    monkeypatch.delitem(sys.modules, "torch._dynamo")
    assert _compile_cost() == {}


def run_cells(pipe: Any, frame: Any, clips: list[ClipSettings], tell: Any = lambda _text: None) -> list[Record]:
    headers = [describe_run(pipe, frame, clip) for clip in clips]
    parts = trials_of(pipe, frame, [(header, "measured") for header in headers])
    interleave(pipe, [trial for (trial,) in parts], QUICK, tell)
    return [record_of(trials, header, load_seconds=0.5) for trials, header in zip(parts, headers, strict=True)]


def test_whole_cells_are_records_and_the_first_is_measured_twice(pipe: Any) -> None:
    frame = fit("rocket", height=64, width=64)
    clips = [ClipSettings(seed=1, num_inference_steps=n, decode_chunk_size=2) for n in (1, 2)]
    told: list[str] = []
    first, second, again = run_cells(pipe, frame, [*clips, clips[0]], told.append)
    assert first.id == again.id != second.id
    assert [record.status for record in (first, second, again)] == ["ok"] * 3
    assert sorted([*first.order, *second.order, *again.order]) == [0, 1, 2, 3, 4, 5]
    assert first.samples["cold"]["load"] == [0.5]
    assert [len(first.samples[phase]["total"]) for phase in ("cold", "warm_up", "timed")] == [1, 1, 2]
    stages = ["image_encoder", "vae_encode", "unet", "scheduler", "vae_decode", "postprocess", "unattributed", "total"]
    assert list(first.samples["timed"]) == stages
    assert list(first.memory) == [stage for stage in stages if stage != "unattributed"]
    assert first.clip["num_frames"] == 4
    assert first.model == {"name": "toy", "revision": "seed 0", "weights": "random"}
    assert first.image["source"] == "rocket"
    assert {"cold run 1 of 3", "warm-up 1", "repeat 1, 2 to 30", "memory"} <= set(told)
    assert Record.from_dict(first.to_dict()) == first


def test_a_pipeline_of_unknown_origin_is_refused() -> None:
    frame = fit("rocket", height=64, width=64)
    with pytest.raises(SettingsError, match=r"does not say what it was loaded from; make it with svdkit.load\(...\)"):
        describe_run(toy_pipeline(), frame, ClipSettings(seed=1))


def test_a_whole_clip_does_not_step_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip that fitted only with a smaller chunk would be the record of another cell."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "generate", lambda *_, **how: asked.append(how))
    (trial,) = trials_of(None, fit("rocket", height=64, width=64), [(header(), "measured")])[0]
    trial.run()
    assert asked == [{"progress": False, "step_down": False}]
