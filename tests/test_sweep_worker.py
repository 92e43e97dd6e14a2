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

import numpy as np
import pytest
import torch

from svdkit.child import Child
from svdkit.clip import Clip
from svdkit.clip.formats import encode_file
from svdkit.errors import ClipError, SvdkitError
from svdkit.generate import generate
from svdkit.pipeline import load
from svdkit.sweep import plan_sweep
from svdkit.sweep import results as results_module
from svdkit.sweep import worker as worker_module
from svdkit.sweep.results import DiskFullError, is_disk_full
from svdkit.sweep.run import _png
from svdkit.sweep.worker import Runner
from tests.sweeps import tasks_of
from tests.toy import toy_pipeline, write_hub_folder

if TYPE_CHECKING:
    from svdkit.sweep import Job, Plan

SMALL = {"height": 64, "width": 64, "num_frames": 4, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub_folder(tmp_path_factory.mktemp("models") / "toy-svd")


def plan_of(toy: Path, **what: Any) -> Plan:
    return plan_sweep("rocket", load={"model": str(toy), "device": "cpu"}, clip=SMALL, forecast=False, **what)


class Counting:
    """Counts how often each stage really runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        home = importlib.import_module("svdkit.generate")  # "import … as" would give the function of that name
        self.counts = dict.fromkeys(("encode", "denoise", "decode"), 0)
        for stage in self.counts:
            monkeypatch.setattr(home, stage, self.counted(stage, getattr(home, stage)))

    def counted(self, stage: str, function: Any) -> Any:
        def call(*positions: Any, **names: Any) -> Any:
            self.counts[stage] += 1
            return function(*positions, **names)

        return call


def run_all(plan: Plan, folder: Path, **options: Any) -> list[Any]:
    runner, tasks = Runner(), tasks_of(plan, **options)
    runner.load(tasks[0])
    return [
        runner.run(task, folder=folder / task["id"], photo=_png(job.frame))
        for task, job in zip(tasks, plan.jobs, strict=True)
    ]


def alone(job: Job) -> Clip:
    """Make a run's clip with a pipeline of its own."""
    return generate(load(settings=job.load), job.frame, job.clip, progress=False)


def test_sharing_changes_no_bit(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames as the worker has them before they are compressed, against each run made alone."""
    made: list[np.ndarray[Any, Any]] = []

    def keep(clip: Clip, folder: Path, *, scale: float | None) -> None:
        made.append(clip.frames)
        results_module.save(clip, folder, scale=scale)

    monkeypatch.setattr(worker_module, "save", keep)
    plan = plan_of(toy, axes={"motion_bucket_id": [30, 200], "seed": [1, 2], "decode_chunk_size": [2, 4]})
    records = run_all(plan, tmp_path)
    assert [record.error for record in records] == [None] * 8
    assert len({frames.tobytes() for frames in made}) > 4
    for frames, job in zip(made, plan.jobs, strict=True):
        assert np.array_equal(frames, alone(job).frames)


def test_each_stage_runs_once_for_all_that_share_it(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(monkeypatch)
    axes = {"motion_bucket_id": [30, 200], "decode_chunk_size": [2, 4], "playback_fps": [5, 10], "seed": [1, 2]}
    plan = plan_of(toy, axes=axes)
    records = run_all(plan, tmp_path)
    assert counting.counts == {"encode": 2, "denoise": 4, "decode": 8}
    assert {stage: plan.distinct[stage] for stage in counting.counts} == counting.counts
    assert [record.method for record in records].count("measured") == 2


def test_a_run_leaves_its_files_and_an_honest_record(toy: Path, tmp_path: Path) -> None:
    record = run_all(plan_of(toy), tmp_path, quality=True, hourly_price=3600.0)[0]
    folder = tmp_path / record.id
    assert {path.name for path in folder.iterdir()} == {"clip.mp4", "poster.jpg", "record.json"}
    assert json.loads((folder / "record.json").read_text(encoding="utf-8")) == record.to_dict()
    seconds = {stage: value[0] for stage, value in record.samples["timed"].items()}
    assert set(seconds) == {"encode", "denoise", "decode", "export", "total"}
    assert seconds.pop("total") == pytest.approx(sum(seconds.values()))
    assert record.cost["money"] == pytest.approx(sum(seconds.values()))
    assert record.artifacts == {"clip": f"runs/{record.id}/clip.mp4", "poster": f"runs/{record.id}/poster.jpg"}
    assert record.quality["is_black"] is False
    assert record.memory["total"]["process_bytes"] > 2**20
    assert (record.load["model"], record.load["device"], record.load["dtype"]) == ("toy-svd", "cpu", "fp32")
    assert str(toy.parent) not in json.dumps(record.to_dict())
    clip = Clip.read(folder / "clip.mp4")
    assert clip.provenance is not None
    assert clip.provenance.settings == record.clip


def test_playback_is_each_runs_own(toy: Path, tmp_path: Path) -> None:
    records = run_all(plan_of(toy, axes={"playback_fps": [5, 10]}), tmp_path)
    assert [Clip.read(tmp_path / record.id / "clip.mp4").fps for record in records] == [5, 10]
    assert [record.clip["playback_fps"] for record in records] == [5, 10]


def test_values_that_are_not_numbers_are_an_error(tmp_path: Path) -> None:
    pipe = toy_pipeline()
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(float("nan"))
    record = run_all(plan_of(write_hub_folder(tmp_path / "nan", pipe=pipe)), tmp_path)[0]
    assert (record.status, record.error["type"]) == ("error", "NotNumbersError")
    assert record.error["message"].startswith("some values are not numbers")
    assert not (tmp_path / record.id).exists()


def test_a_black_clip_is_flagged(tmp_path: Path) -> None:
    pipe = toy_pipeline()
    with torch.no_grad():
        pipe.vae.decoder.time_conv_out.weight.zero_()
        pipe.vae.decoder.time_conv_out.bias.fill_(-2)
    record = run_all(plan_of(write_hub_folder(tmp_path / "black", pipe=pipe)), tmp_path, quality=True)[0]
    assert record.status == "ok"
    assert record.quality["is_black"] is True


def test_out_of_memory_is_a_row_and_the_next_run_goes_on(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = importlib.import_module("svdkit.generate")
    usual = home.denoise

    def denoise(pipe: Any, encoded: Any, settings: Any) -> Any:
        if settings.motion_bucket_id == 30:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return usual(pipe, encoded, settings)

    monkeypatch.setattr(home, "denoise", denoise)
    records = run_all(plan_of(toy, axes={"motion_bucket_id": [20, 30, 40]}), tmp_path)
    assert [record.status for record in records] == ["ok", "oom", "ok"]
    assert records[1].error["message"].startswith("CUDA out of memory")
    assert records[1].clip["motion_bucket_id"] == 30


def test_a_full_disk_is_no_row(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every later run would fail too: the sweep has to stop."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError, match="the disk is full; free some space"):
            run_all(plan_of(toy), tmp_path)


def test_what_a_full_disk_is() -> None:
    assert is_disk_full(OSError(errno.ENOSPC, ""))
    assert not is_disk_full(OSError(errno.EACCES, ""))
    assert not is_disk_full(None)


def test_ffmpeg_says_that_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its log alone: the sweep has to stop for it as well."""
    done = SimpleNamespace(returncode=1, stderr=b"av_interleaved_write_frame(): No space left on device", stdout=b"")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(ClipError, match="the disk is full; free some space") as caught:
        encode_file(np.zeros((2, 8, 8, 3), np.uint8), suffix=".mp4", fps=7)
    assert is_disk_full(caught.value)


def test_another_revision_is_refused(toy: Path) -> None:
    task = tasks_of(plan_of(toy))[0]
    task["model"] = {**task["model"], "revision": "abc"}
    with pytest.raises(
        SvdkitError, match=r"this worker has revision .* of toy-svd, the sweep was planned with abc: give"
    ):
        Runner().load(task)


def test_another_model_is_another_output(toy: Path, tmp_path: Path) -> None:
    """Run ids tell models apart by revision, which for a folder is a hash of its weights."""
    other = write_hub_folder(tmp_path / "toy-svd", pipe=toy_pipeline(seed=5))
    ids = [tasks_of(plan_of(folder))[0]["id"] for folder in (toy, other)]
    assert len(set(ids)) == 2


def test_the_process_answers_and_ends_with_its_driver(toy: Path, tmp_path: Path) -> None:
    plan = plan_of(toy)
    task = tasks_of(plan)[0]
    photo = _png(plan.jobs[0].frame)
    calls = [{"do": "load", "task": task}, {"do": "run", "task": task, "folder": tmp_path / "a", "photo": photo}]
    child = Child(worker_module.WORKER)
    answers = []
    for call in calls:
        child.say(call)
        answers.append(child.hear(60))
    assert child.end(10) == 0
    assert answers[0] == {}
    assert answers[1]["record"].status == "ok"


def test_settings_stay_as_asked(toy: Path, tmp_path: Path) -> None:
    """A row is of the settings it names: nothing steps down in a sweep."""
    plan = plan_of(toy, axes={"decode_chunk_size": [1, 4]})
    records = run_all(plan, tmp_path)
    assert [record.clip for record in records] == [job.clip.to_dict() for job in plan.jobs]
    assert replace(records[0], id="0" * 16).clip["decode_chunk_size"] == 1
