"""The worker: what it shares between runs, that sharing changes no bit, and how a run that fails becomes a row."""

from __future__ import annotations

import errno
import importlib
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from svdkit.child import Child, EndedError
from svdkit.clip import Clip
from svdkit.clip.formats import encode_file
from svdkit.errors import ClipError, SvdkitError
from svdkit.generate import generate
from svdkit.pipeline import load
from svdkit.sweep import plan_sweep
from svdkit.sweep import worker as worker_module
from svdkit.sweep.results import is_disk_full
from svdkit.sweep.worker import Outcome, Queue, Runner, answer
from tests.sweeps import jobs_of
from tests.toy import toy_pipeline, write_hub_folder

if TYPE_CHECKING:
    from svdkit.sweep import Job, Plan

SMALL = {"height": 64, "width": 64, "num_frames": 4, "num_inference_steps": 2}
STAGES = ("encode", "denoise", "decode")
generating = importlib.import_module("svdkit.generate")  # "import … as" would give the function of that name


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub_folder(tmp_path_factory.mktemp("models") / "toy-svd")


def plan_of(toy: Path, **what: Any) -> Plan:
    return plan_sweep("rocket", load={"model": str(toy), "device": "cpu"}, clip=SMALL, forecast=False, **what)


def outcomes(plan: Plan, **options: Any) -> list[Outcome]:
    runner, jobs = Runner(), jobs_of(plan, **options)
    assert answer(runner, "load", jobs[0]) is None
    return [answer(runner, "run", job) for job in jobs]


def read(outcome: Outcome, folder: Path) -> Clip:
    (folder / "clip.mp4").write_bytes(outcome.files["clip.mp4"])
    return Clip.read(folder / "clip.mp4")


def alone(job: Job) -> Clip:
    """Make a run's clip with a pipeline of its own."""
    return generate(load(settings=job.load), job.frame, job.clip, progress=False)


def test_a_stage_runs_once_for_all_that_share_it_and_no_bit_changes(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames as the worker has them before they are compressed, against each run made alone."""
    keep = Mock(wraps=worker_module._files)
    monkeypatch.setattr(worker_module, "_files", keep)
    counters = {stage: Mock(wraps=getattr(generating, stage)) for stage in STAGES}
    axes = {"motion_bucket_id": [30, 200], "seed": [1, 2], "decode_chunk_size": [2, 4], "playback_fps": [5, 10]}
    plan = plan_of(toy, axes=axes)
    with monkeypatch.context() as patch:
        for stage, counter in counters.items():
            patch.setattr(generating, stage, counter)
        made = outcomes(plan)
    assert [counter.call_count for counter in counters.values()] == [2, 4, 8]
    assert [plan.distinct[stage] for stage in STAGES] == [2, 4, 8]
    records = [outcome.record for outcome in made]
    assert [record.method for record in records].count("measured") == 2
    # A row is of the settings it names: nothing steps down in a sweep.
    assert [record.clip for record in records] == [job.clip.to_dict() for job in plan.jobs]
    assert [read(outcome, tmp_path).fps for outcome in made] == [job.clip.playback_fps for job in plan.jobs]
    clips = [call.args[0].frames for call in keep.call_args_list]
    assert len({frames.tobytes() for frames in clips}) > 4
    for frames, job in zip(clips, plan.jobs, strict=True):
        if job.clip.playback_fps == 5:
            assert np.array_equal(frames, alone(job).frames)


def test_a_run_leaves_its_files_and_an_honest_record(toy: Path, tmp_path: Path) -> None:
    outcome = outcomes(plan_of(toy), quality=True, hourly_price=3600.0)[0]
    record = outcome.record
    assert set(outcome.files) == {"clip.mp4", "poster.jpg"}
    seconds = {stage: value[0] for stage, value in record.samples["timed"].items()}
    assert set(seconds) == {"encode", "denoise", "decode", "export", "total"}
    assert seconds.pop("total") == pytest.approx(sum(seconds.values()))
    assert record.cost["money"] == pytest.approx(sum(seconds.values()))
    assert record.artifacts == {"clip": f"runs/{record.id}/clip.mp4", "poster": f"runs/{record.id}/poster.jpg"}
    assert record.quality["is_black"] is False
    assert (record.peaks["process_bytes"] or 0) > 2**20
    assert (record.load["model"], record.load["device"], record.load["dtype"]) == ("toy-svd", "cpu", "fp32")
    assert str(toy.parent) not in json.dumps(record.to_dict())
    clip = read(outcome, tmp_path)
    assert clip.provenance is not None
    assert clip.provenance.settings == record.clip


@pytest.mark.filterwarnings("ignore::svdkit.errors.SvdkitWarning")
def test_values_that_are_not_numbers_are_an_error(tmp_path: Path) -> None:
    pipe = toy_pipeline()
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(float("nan"))
    record, files = outcomes(plan_of(write_hub_folder(tmp_path / "nan", pipe=pipe)))[0]
    assert record.error is not None
    assert (record.status, record.error["type"]) == ("error", "NotNumbersError")
    assert record.error["message"].startswith("some values are not numbers")
    assert files == {}


def test_out_of_memory_is_a_row_and_the_next_run_goes_on(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = generating.denoise

    def denoise(pipe: Any, encoded: Any, settings: Any) -> Any:
        if settings.motion_bucket_id == 30:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return usual(pipe, encoded, settings)

    monkeypatch.setattr(generating, "denoise", denoise)
    records = [outcome.record for outcome in outcomes(plan_of(toy, axes={"motion_bucket_id": [20, 30, 40]}))]
    assert [record.status for record in records] == ["ok", "oom", "ok"]
    assert records[1].error is not None
    assert records[1].error["message"].startswith("CUDA out of memory")
    assert records[1].clip["motion_bucket_id"] == 30


def test_an_error_that_recovering_raises_again_is_a_row_with_its_reason(toy: Path) -> None:
    """As after an illegal memory access, when nothing works any more on the GPU."""

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    (job,) = jobs_of(plan_of(toy))
    runner: Any = SimpleNamespace(load=fail, run=fail, recover=fail)
    assert answer(runner, "load", job)["error"]["message"].startswith("CUDA error")
    assert answer(runner, "run", job).record.error["message"].startswith("CUDA error")


@pytest.mark.parametrize(
    ("loads", "runs", "starts"),
    [
        ([None, "dies", "dies"], ["dies"], 3),  # a GPU that is lost: not two more loads for each run that is left
        ([None, TimeoutError(), TimeoutError()], ["dies"], 3),
        ([TimeoutError()], [], 1),  # a model that never was there
        (["dies", "dies"], [], 2),
        ([{"status": "error", "error": {"type": "ModelError", "message": "no such folder"}}], [], 1),
    ],
)
def test_loads_that_fail_are_not_repeated_for_every_run(toy: Path, loads: Any, runs: Any, starts: int) -> None:
    begun: list[Any] = []
    answers = {"load": [*loads], "run": [*runs]}

    class Worker:
        def __init__(self) -> None:
            begun.append(self)

        def ask(self, message: tuple[str, Any], _seconds: float) -> Any:
            found = answers[message[0]].pop(0)
            if found == "dies":
                raise EndedError("ended with exit code 1")
            if isinstance(found, Exception):
                raise found
            return found

        def end(self) -> None:
            pass

    jobs = jobs_of(plan_of(toy, axes={"seed": [1, 2, 3, 4, 5]}))
    found = [*Queue(jobs, Worker, timeout_seconds=1).serve()]
    assert [outcome.record.status != "ok" for outcome in found] == [True] * 5
    assert len(begun) == starts


def test_a_full_disk_is_no_row(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every later run would fail too: the sweep has to stop."""
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    found = outcomes(plan_of(toy))[0]
    assert isinstance(found, OSError)
    assert "the disk is full; free some space" in str(found)
    assert is_disk_full(found)
    assert not is_disk_full(OSError(errno.EACCES, ""))


def test_ffmpeg_says_that_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its log alone: the sweep has to stop for it as well."""
    done = SimpleNamespace(returncode=1, stderr=b"av_interleaved_write_frame(): No space left on device", stdout=b"")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(ClipError, match="the disk is full; free some space") as caught:
        encode_file(np.zeros((2, 8, 8, 3), np.uint8), suffix=".mp4", fps=7)
    assert is_disk_full(caught.value)


def test_another_model_is_another_run_and_its_revision_is_refused(toy: Path, tmp_path: Path) -> None:
    """Run ids tell models apart by revision, which for a folder is a hash of its weights."""
    other = write_hub_folder(tmp_path / "toy-svd", pipe=toy_pipeline(seed=5))
    jobs = [jobs_of(plan_of(folder))[0] for folder in (toy, other)]
    assert jobs[0].id != jobs[1].id
    told = r"this worker has revision .* of toy-svd, the sweep was planned with .*: give all machines the same"
    with pytest.raises(SvdkitError, match=told):
        Runner().load(replace(jobs[0], model=jobs[1].model))


def test_the_process_answers_and_ends_with_its_driver(toy: Path) -> None:
    job = jobs_of(plan_of(toy))[0]
    child = Child(worker_module.WORKER)
    answers = [child.ask((do, job), 60) for do in ("load", "run")]
    assert child.end(10) == 0
    assert answers[0] is None
    assert answers[1].record.status == "ok"
