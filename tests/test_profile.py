"""A profile: few runs for many cells, failures as rows, and going on after anything that ended it."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from svdkit.bench import profile as profile_module
from svdkit.bench import protocol
from svdkit.bench.measure import Measurement
from svdkit.bench.profile import agreement, profile
from svdkit.bench.protocol import Protocol, _steps, header_of, make_record, stretch
from svdkit.bench.record import Record, failure_of, read_records, write_record
from svdkit.errors import Cancelled, ModelError, SettingsError
from svdkit.image import fit
from svdkit.settings import ClipSettings, LoadSettings
from tests.test_protocol import loaded_toy

QUICK = Protocol(min_repeats=2, budget_seconds=0, max_warm_ups=1, memory=False, processes=2)
GRID: dict[str, Any] = {"num_inference_steps": [2, 3, 6], "decode_chunk_size": [1, 2, 4]}
ENDED = "the process that measured this cell ended by"
SMALL = ClipSettings(num_frames=4, height=64, width=64)


@pytest.fixture
def pipe() -> Any:
    return loaded_toy()


def run(pipe: Any, **how: Any) -> list[Record]:
    return profile(pipe, **{"protocol": QUICK, "progress": False, "check": 1, **GRID, **how})


def cells(records: list[Record], *, method: str) -> list[tuple[int, int]]:
    chosen = [record.clip for record in records if record.method == method]
    return [(clip["num_inference_steps"], clip["decode_chunk_size"]) for clip in chosen]


def denoised(*calls: float, each: int = 1, freeing: float = 0.0) -> Measurement:
    """Put together what is measured when denoising: UNet calls, a hundredth of a second of the scheduler after each."""
    steps = len(calls) // each
    listed = [("unet", seconds) for seconds in calls] + [("scheduler", 0.01)] * steps
    seconds = {"unet": sum(calls) + freeing, "scheduler": 0.01 * steps, "unattributed": 0.001 * steps}
    return Measurement({**seconds, "total": sum(seconds.values())}, listed)


@pytest.mark.parametrize(
    ("measured", "found", "unet"),
    [
        # The first step fetches the weights and the end frees them: once, however many steps there are.
        (denoised(5.0, 1.0, 1.2, freeing=0.5), (3, 1.1), {10: 5.0 + 9 * 1.1 + 0.5, 3: 7.7, 1: 5.5}),
        # Guidance in two passes has two calls a step.
        (denoised(2.0, 3.0, 1.0, 1.5, 1.0, 1.5, each=2), (3, 2.5), {4: 5.0 + 3 * 2.5}),
        (denoised(2.0), (1, 2.0), {1: 2.0}),
    ],
)
def test_a_denoising_is_stretched_to_other_steps(
    measured: Measurement, found: tuple[int, float], unet: dict[int, float]
) -> None:
    assert _steps(measured) == pytest.approx(found)
    for steps, seconds in unet.items():
        longer = stretch(measured, steps)
        assert (longer["unet"], longer["scheduler"]) == pytest.approx((seconds, 0.01 * steps))
        assert longer["unattributed"] == measured.seconds["unattributed"]
        assert longer["total"] == pytest.approx(seconds + 0.01 * steps + longer["unattributed"])


def test_a_grid_is_composed_of_few_runs_and_a_cell_is_measured_whole(pipe: Any, monkeypatch: Any) -> None:
    spies = {name: Mock(wraps=getattr(protocol, name)) for name in ("encode", "denoise", "decode")}
    for name, spy in spies.items():
        monkeypatch.setattr(protocol, name, spy)
    records = run(pipe)
    assert cells(records, method="composed") == [(n, c) for n in GRID["num_inference_steps"] for c in (1, 2, 4)]
    assert len(cells(records, method="measured")) == 1
    assert len({record.id for record in records}) == 9
    assert all(spy.call_count <= most for spy, most in zip(spies.values(), (4, 4, 3 * 4), strict=True))
    for record in records:
        timed = record.samples["timed"]
        assert len(timed["total"]) == len(record.order) == 2
        parts = [seconds for stage, seconds in timed.items() if stage != "total"]
        assert [sum(each) for each in zip(*parts, strict=True)] == pytest.approx(timed["total"])
        assert record.samples["cold"]["load"] == [0.5]
    steps = {record.clip["num_inference_steps"]: record.samples["timed"]["unet"][0] for record in records[:9]}
    assert steps[2] < steps[3] < steps[6]


def test_without_composing_every_cell_is_measured_whole(pipe: Any) -> None:
    records = run(pipe, composed=False, num_inference_steps=[1, 2], decode_chunk_size=[2])
    assert cells(records, method="measured") == [(1, 2), (2, 2)]
    assert not cells(records, method="composed")


def test_running_again_does_nothing_more_and_a_longer_list_only_what_is_missing(pipe: Any, tmp_path: Path) -> None:
    first = run(pipe, results=tmp_path)
    told: list[str] = []
    assert run(pipe, results=tmp_path, progress=told.append) == first
    assert not [text for text in told if "repeat" in text]
    more = run(pipe, results=tmp_path, decode_chunk_size=[1, 2, 3, 4], check=0)
    assert len(read_records(tmp_path)) == len(first) + 3
    assert [record for record in more if record in first and record.method == "composed"] == first[:9]


def test_a_chunk_that_does_not_fit_is_a_row_and_the_others_go_on(
    pipe: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    decode = pipe.vae.decode

    def limited(latents: Any, *args: Any, **how: Any) -> Any:
        if len(latents) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40.00 GiB")
        return decode(latents, *args, **how)

    monkeypatch.setattr(pipe.vae, "decode", limited)
    records = run(pipe, results=tmp_path, check=0)
    by_chunk = Counter((record.clip["decode_chunk_size"], record.status) for record in records)
    assert by_chunk == {(1, "ok"): 3, (2, "ok"): 3, (4, "oom"): 3}
    failed = next(record for record in records if record.status == "oom")
    assert failed.error == {"type": "OutOfMemoryError", "message": "CUDA out of memory. Tried to allocate 40.00 GiB"}
    monkeypatch.setattr(pipe.vae, "decode", decode)
    again = run(pipe, results=tmp_path, check=0)  # the other program has gone: what failed is tried again
    assert {record.status for record in again} == {"ok"}


def test_an_error_while_encoding_is_the_reason_of_every_cell(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "encode", Mock(side_effect=ValueError("odd photo")))
    records = run(pipe, check=0)
    assert {(record.status, (record.error or {})["message"]) for record in records} == {("error", "odd photo")}


def test_ctrl_c_keeps_what_is_done_and_the_next_call_goes_on(
    pipe: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop_at(text: str, line: str) -> None:
        if text in line:
            raise KeyboardInterrupt

    with pytest.raises(Cancelled, match="what was complete is kept, and the same call with the same results") as early:
        run(pipe, results=tmp_path, progress=partial(stop_at, "repeat 2"))
    assert early.value.finished == []
    more = replace(QUICK, min_repeats=2, budget_seconds=60.0, max_repeats=4)
    with pytest.raises(Cancelled) as late:
        run(pipe, results=tmp_path, protocol=more, progress=partial(stop_at, "repeat 4"))
    finished = late.value.finished
    assert isinstance(finished, list)
    assert [len(record.order) for record in finished] == [3] * 10
    assert run(pipe, results=tmp_path) == finished


def other_worker(channel: Any) -> None:
    """Do what a test says in place of measuring."""
    job = channel.hear()
    channel.say("loading")
    exec(Path(os.environ["SVDKIT_TEST_WORKER"]).read_text(encoding="utf-8"), {"channel": channel, "job": job})


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Put another process in place of the one that measures."""

    def use(then: str) -> None:
        script = tmp_path / "worker.py"
        script.write_text(then, encoding="utf-8")
        monkeypatch.setenv("SVDKIT_TEST_WORKER", str(script))
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        monkeypatch.setattr(profile_module, "_WORKER", "tests.test_profile:other_worker")

    return use


@pytest.mark.parametrize(
    ("then", "status", "kind", "message"),
    [
        (
            "import os; os.kill(os.getpid(), 9)",
            "error",
            "Ended",
            f"{ENDED} signal 9 (SIGKILL); Linux ends processes by",
        ),
        ("raise SystemExit(3)", "error", "Ended", f"{ENDED} exit code 3"),
        (
            "channel.say({'status': 'oom', 'error': {'type': 'MemoryError', 'message': 'no room'}})",
            "oom",
            "MemoryError",
            "no room",
        ),
    ],
)
def test_a_process_that_fails_leaves_a_row_a_cell(
    worker: Any, then: str, status: str, kind: str, message: str, tmp_path: Path
) -> None:
    worker(then)
    how: dict[str, Any] = {"clip": SMALL, "results": tmp_path, "progress": False, "protocol": QUICK}
    records = profile("micro", num_inference_steps=[1, 2], dtype=["fp32", "bf16"], **how)
    cells = [(record.load["dtype"], record.clip["num_inference_steps"]) for record in records]
    assert cells == [(dtype, steps) for dtype in ("fp32", "bf16") for steps in (1, 2)]
    for record in records:
        assert record.error is not None
        assert (record.status, record.error["type"], record.image["source"]) == (status, kind, "rocket")
        assert record.error["message"].startswith(message)
    assert str(tmp_path) not in (tmp_path / "records.jsonl").read_text(encoding="utf-8")


def test_a_later_process_that_fails_leaves_no_row_and_the_cells_that_are_known(worker: Any, tmp_path: Path) -> None:
    """Before the model was loaded a cell has another name, under which its good row would not be found."""
    worker("raise SystemExit(3)")
    load, frame, known = LoadSettings(model="micro"), fit("rocket", height=64, width=64), [{"id": "resolved"}]
    cells = [(SMALL, "composed")]
    group = profile_module.Group(load, frame, cells, tmp_path, QUICK, str, turn=1, headers=known)
    group.in_child()
    assert (group.headers, [*tmp_path.glob("*.jsonl")]) == (known, [])


def test_ctrl_c_reaches_the_process_that_measures(worker: Any, tmp_path: Path) -> None:
    """Its input is closed, and its output is read to the end."""
    worker(
        "try:\n    channel.say('ready')\n    channel.hear()\nexcept KeyboardInterrupt:\n"
        "    channel.say('stopping')\n    open(job.results / 'told', 'w').close()"
    )
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        if text == "ready":
            raise KeyboardInterrupt

    with pytest.raises(Cancelled):
        profile("micro", clip=SMALL, results=tmp_path, progress=tell)
    assert told == ["loading", "ready", "stopping"]
    assert (tmp_path / "told").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_micro_in_processes_of_its_own(tmp_path: Path) -> None:
    """Real loads: a precision that works, and a device that is not here; then the same again."""
    how: dict[str, Any] = {"clip": SMALL, "num_inference_steps": [1, 2], "decode_chunk_size": [2], "progress": False}
    how |= {"protocol": QUICK, "results": tmp_path, "check": 1, "dtype": ["fp32"]}
    records = profile("micro", **how)
    assert [(record.method, record.status) for record in records] == [("composed", "ok")] * 2 + [("measured", "ok")]
    assert [len(record.timed) for record in records] == [2] * 3  # processes
    assert records[0].model["weights"] == "trained"
    assert records[0].samples["cold"]["load"][0] > 0
    assert profile("micro", **how) == records
    slow = how | {"protocol": replace(QUICK, max_load_seconds=0.0), "results": tmp_path / "slow", "check": 0}
    found = profile("micro", **slow)
    assert [[len(process) for process in record.timed] for record in found] == [[QUICK.min_repeats]] * 2
    assert profile("micro", **slow) == found
    if not torch.cuda.is_available():
        failed = profile("micro", load=LoadSettings(device="cuda"), **how)
        assert {(record.error or {})["type"] for record in failed} == {"PipelineError"}


def test_values_that_are_not_allowed_are_refused_before_anything_is_loaded(pipe: Any) -> None:
    pipeline_given = {"model": pipe, "photo": "rocket"}
    for given, message in (
        ({"decode_chunk_size": 5}, r"decode_chunk_size=5 is not a list of values; write decode_chunk_size=\[…\]"),
        ({"num_inference_steps": []}, r"num_inference_steps=\[\] is not a list"),
        ({"dtype": ["fp32"]}, "leave out dtype, memory and load, or give the model's name"),
        ({"check": -1}, "check=-1 is not a whole number from 0"),
        ({"model": "micro", "decode_chunk_size": [7, 15]}, "decode_chunk_size=15 with num_frames=14"),
        ({"model": "micro", "dtype": ["fp12"]}, "dtype"),
        (
            {"model": "micro", "photo": fit("rocket", height=64, width=64), "clip": ClipSettings(height=72)},
            "height=72, but the photo was fitted to 64; give one",
        ),
    ):
        with pytest.raises(SettingsError, match=message):
            profile(**(pipeline_given | given))
    with pytest.raises(ModelError, match="did you mean 'micro'"):
        profile(load=LoadSettings(model="micra"))


def test_what_has_no_memory_yet_is_measured_again(pipe: Any, tmp_path: Path) -> None:
    """The results may be one file; composed memory is the largest of the parts."""
    file = tmp_path / "mine.jsonl"
    how: dict[str, Any] = {"num_inference_steps": [1], "decode_chunk_size": [2], "results": file}
    seconds_only = run(pipe, **how)
    assert run(pipe, **how) == seconds_only
    both = run(pipe, protocol=replace(QUICK, memory=True), **how)
    assert [record.id for record in both] == [record.id for record in seconds_only]
    for record in both:
        assert {"image_encoder", "unet", "vae_decode", "total"} <= set(record.memory)
        sizes = [each["process_bytes"] or 0 for each in record.memory.values()]
        assert record.memory["total"]["process_bytes"] == max(sizes)


def test_fewer_repeats_than_asked_are_measured_up(pipe: Any, tmp_path: Path) -> None:
    """With more in the same folder; the rows are then of the new ones, and asking for fewer again measures nothing."""

    def repeats(count: int) -> tuple[list[int], int]:
        protocol = replace(QUICK, min_repeats=count)
        records = run(pipe, num_inference_steps=[2], decode_chunk_size=[1, 2], results=tmp_path, protocol=protocol)
        return [len(record.order) for record in records], len(read_records(tmp_path))

    assert [repeats(count) for count in (2, 3, 3, 2)] == [([2] * 3, 3), *[([3] * 3, 6)] * 3]


def test_agreement_compares_composed_with_measured_cells_and_tells_the_noise(pipe: Any) -> None:
    (record,) = run(pipe, num_inference_steps=[1], decode_chunk_size=[2], check=0)

    def of(method: str, *seconds: float) -> Record:
        names = [str(number) for number in range(len(seconds))]
        return replace(record, method=method, samples={"timed": {"total": [*seconds]}}, processes=names)

    found = agreement([of("composed", 1.02, 1.02), of("measured", 1.0, 1.01)])
    off = 1.02 / math.sqrt(1.01) - 1
    assert found == pytest.approx({"cells": 1, "median": off, "worst": off, "bias": off, "noise": 0.01})
    assert agreement([of("composed", 0.5), of("measured", 1.0)])["bias"] == -0.5
    nothing = agreement([of("composed", 1.0)])
    assert nothing["cells"] == 0
    assert math.isnan(nothing["median"])


def test_groups_take_turns_and_a_cell_that_failed_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What slows the machine for a while falls on all precisions; each turn adds a process to what went well."""
    ran: list[tuple[int, str]] = []

    def measure(group: profile_module.Group) -> None:
        ran.append((group.turn, group.load.dtype))
        model = {"name": "micro", "revision": None, "weights": "trained"}
        group.headers = [header_of(group.load, clip, model, group.frame) for clip, _ in group.cells]
        for header, method in group.wanted():
            values: dict[str, Any] = {"samples": {"timed": {"total": [1.0 + group.turn]}}, "order": [0]}
            values |= {"method": method, "processes": [f"{group.turn}"]}
            values |= failure_of(ValueError("odd")) if header["clip"]["num_inference_steps"] == 2 else {}
            write_record(group.results, make_record(header, **values))

    monkeypatch.setattr(profile_module.Group, "in_child", measure)
    protocol = Protocol(min_repeats=3, memory=False)
    how: dict[str, Any] = {"clip": SMALL, "protocol": protocol, "check": 0, "progress": False}
    records = profile("micro", dtype=["fp32", "bf16"], num_inference_steps=[1, 2], **how)
    assert ran == [(turn, dtype) for turn in range(3) for dtype in ("fp32", "bf16")]
    assert [(record.status, record.timed) for record in records] == [("ok", [[1.0], [2.0], [3.0]]), ("error", [])] * 2
