"""What makes the clips of a sweep, and the local engine: a child process a model, which may die without harm here."""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import json
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from svdkit.bench.record import now
from svdkit.child import Child, EndedError
from svdkit.disk import write_whole
from svdkit.errors import SvdkitError, SvdkitWarning
from svdkit.settings import ClipSettings, LoadSettings
from svdkit.sweep.points import STAGES
from svdkit.sweep.results import DiskFullError, NotNumbersError, Task, failed, is_disk_full, made, save

if TYPE_CHECKING:
    from svdkit.bench.record import Record
    from svdkit.child import Channel
    from svdkit.clip import Clip
    from svdkit.image import Frame


class Runner:
    """Makes clips with one model. The output of each stage is kept until a run needs another one."""

    def __init__(self) -> None:
        self._pipe: Any = None
        self._frame: Frame | None = None
        self._kept: dict[str, tuple[object, Any, dict[str, int | None]]] = {}  # stage -> key, output, memory
        self._fresh: set[str] = set()
        self._warm: list[dict[str, Any]] = []
        self._open = contextlib.ExitStack()  # what reads memory

    def load(self, task: Task) -> None:
        """Load the model of a task.

        Raises:
            SvdkitError: It cannot be loaded, or is another revision than the one the run ids were made with.
        """
        from svdkit.bench.memory import meter
        from svdkit.generate.loop import execution_device
        from svdkit.generate.stages import describe_model
        from svdkit.pipeline import load

        self._open.close()
        self._pipe = load(settings=LoadSettings.from_dict(task["load"]))
        self._pipe.set_progress_bar_config(disable=True)
        self._peaks, self._reset_peaks = self._open.enter_context(meter(execution_device(self._pipe)))
        found, planned = describe_model(self._pipe), task["model"]
        if found["revision"] != planned["revision"]:
            raise SvdkitError(
                f"this worker has revision {found['revision']} of {found['name']}, the sweep was planned with "
                f"{planned['revision']}: give all machines the same model, or set revision in load"
            )

    def run(self, task: Task, *, folder: Path, photo: bytes | None = None) -> Record:
        """Make a clip, and its files in a new folder; a failure is a record too."""
        started_at = now()
        try:
            record = self._make(task, folder, photo, started_at=started_at)
            write_whole(folder / "record.json", json.dumps(record.to_dict(), indent=1) + "\n")
        except Exception as error:
            if is_disk_full(error):
                raise DiskFullError(str(error)) from error
            self._recover(error)
            return failed(task, error, started_at=started_at)
        return record

    def _make(self, task: Task, folder: Path, photo: bytes | None, *, started_at: str) -> Record:
        settings, frame = ClipSettings.from_dict(task["clip"]), self._read(task, photo)
        self._warm_up(frame, settings)
        self._fresh.clear()
        clip = _at_rate(self._run_stages(frame, settings), settings)
        start = time.perf_counter()
        folder.mkdir()
        save(clip, folder, scale=task["options"]["scale"])
        seconds = {**clip.provenance.stage_seconds, "export": time.perf_counter() - start}  # type: ignore[union-attr]
        memory = {stage: self._kept[stage][2] for stage in STAGES}
        method = "measured" if len(self._fresh) == len(STAGES) else "composed"
        return made(task, clip, seconds=seconds, memory=memory, method=method, started_at=started_at)

    def _run_stages(self, frame: Frame, settings: ClipSettings) -> Clip:
        from svdkit.generate import decode, denoise, encode

        pipe = self._pipe
        encoded = self._stage("encode", frame, settings, lambda: encode(pipe, frame, settings))
        denoised = self._stage("denoise", frame, settings, lambda: denoise(pipe, encoded, settings))
        clip: Clip = self._stage("decode", frame, settings, lambda: _strictly(lambda: decode(pipe, denoised, settings)))
        return clip

    def _stage(self, stage: str, frame: Frame, settings: ClipSettings, make: Callable[[], Any]) -> Any:
        """Give a stage's output: the one kept when it depends on nothing that changed, else a new one."""
        from svdkit.generate.stages import model_identity, stage_key

        key = stage_key(stage, settings, image_sha256=frame.sha256, model=model_identity(self._pipe))
        if stage not in self._kept or self._kept[stage][0] != key:
            self._reset_peaks()
            self._kept[stage] = (key, make(), self._peaks())
            self._fresh.add(stage)
        return self._kept[stage][1]

    def _warm_up(self, frame: Frame, settings: Any) -> None:
        """Make two steps first on a GPU, where the first clip also starts kernels: no run's own time.

        What is compiled is compiled for each size, length and chunk anew, with guidance and without.
        """
        from svdkit.generate.loop import execution_device

        kept, shape = dict(self._kept), {}
        if self._pipe.svdkit.settings.compile:
            names = ("height", "width", "num_frames", "decode_chunk_size")
            shape = {**{name: getattr(settings, name) for name in names}, "guided": settings.max_guidance_scale > 1}
        if shape not in self._warm and execution_device(self._pipe).type != "cpu":
            self._run_stages(frame, settings.replace(num_inference_steps=min(2, settings.num_inference_steps)))
            self._kept = kept
        self._warm.append(shape)

    def _read(self, task: Task, photo: bytes | None) -> Frame:
        from PIL import Image

        from svdkit.image import Frame

        if photo is not None and (self._frame is None or self._frame.sha256 != task["image"]["sha256"]):
            with Image.open(io.BytesIO(photo)) as image:
                self._frame = Frame.from_dict(task["image"], image=image.convert("RGB"))
        if self._frame is None or self._frame.sha256 != task["image"]["sha256"]:
            raise SvdkitError("the photo of this run did not reach the worker; start the sweep again")
        return self._frame

    def _recover(self, error: BaseException) -> None:
        """After a failure keep nothing of it, and give memory back."""
        import torch

        traceback.clear_frames(error.__traceback__)  # it holds the stage's tensors
        self._kept.clear()
        gc.collect()
        torch.cuda.empty_cache()


def _at_rate(clip: Clip, settings: ClipSettings) -> Clip:
    """Give a kept clip the playback rate of this run, which is in no stage's key."""
    if clip.fps == settings.playback_fps or clip.provenance is None or settings.playback_fps is None:
        return clip
    return replace(clip, fps=settings.playback_fps, provenance=replace(clip.provenance, settings=settings.to_dict()))


def _strictly(decode: Callable[[], Clip]) -> Clip:
    """Decode, and refuse a clip whose values are not numbers: black frames in a table would pass for a result."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clip = decode()
    for warning in caught:
        if issubclass(warning.category, SvdkitWarning) and "not numbers" in str(warning.message):
            raise NotNumbersError(str(warning.message))
    return clip


def work(channel: Channel, runner: Runner | None = None) -> None:
    """Answer the calls of a driver until it goes away."""
    runner = runner or Runner()
    while True:
        channel.say(_answer(runner, channel.hear()))


def _answer(runner: Runner, call: dict[str, Any]) -> dict[str, Any]:
    task = call["task"]
    try:
        if call["do"] == "load":
            runner.load(task)
            return {}
        return {"record": runner.run(task, folder=call["folder"], photo=call.get("photo"))}
    except DiskFullError as error:
        return {"full": str(error)}
    except Exception as error:  # noqa: BLE001 - of loading; it becomes the rows of all that needs this model
        return {"record": failed(task, error)}


WORKER = "svdkit.sweep.worker:work"
DEATHS = 2  # of workers over one run, or over one load: the third try would end the same


class Outcome(NamedTuple):
    """How a run ended, and the temporary folder with its files; None when it made none."""

    record: Record
    folder: Path | None


def run_local(
    tasks: Sequence[Task], *, work: Path, photos: Mapping[str, bytes], timeout_seconds: float
) -> Iterator[Outcome]:
    """Run tasks one after the other; every task has exactly one outcome."""
    for _, group in itertools.groupby(tasks, key=lambda task: task["load"]):
        with contextlib.closing(_Worker(work, photos, timeout_seconds)) as worker:
            reason = None
            for task in group:
                reason = reason if reason and worker.is_hopeless else worker.load(task)
                outcome = worker.run(task) if reason is None else Outcome(_row(task, reason), None)
                yield outcome


def _row(task: Task, reason: Record) -> Record:
    """Make a row of what failed for another task: a model that cannot be loaded cannot be for the next one either."""
    error = reason.error or {}
    return failed(task, (error["type"], error["message"]), status=reason.status)


class _Worker:
    """A worker for the runs of one load, which is replaced when it dies, hangs or has lost its GPU."""

    def __init__(self, work: Path, photos: Mapping[str, bytes], timeout_seconds: float) -> None:
        self._work, self._photos, self._timeout = work, photos, timeout_seconds
        self._child: Child | None = None
        self._sent: set[str] = set()  # photos that the child has
        self._failures = DEATHS - 1  # of loads in a row: a model that was never there gets no second try

    @property
    def is_hopeless(self) -> bool:
        """Whether it is no use to load again; once may be, where a dead worker's memory was not free yet."""
        return self._failures >= DEATHS

    def load(self, task: Task) -> Record | None:
        """See to it that there is a worker with the model; give the row of a failure, or None."""
        for _ in range(DEATHS if self._child is None else 0):
            self._child, self._sent = Child(WORKER, log=self._work / "worker.log"), set()
            record = self._call("load", task, None)
            if record is not None:
                self.close()  # it has no model
                self._failures += 1
                return record
            if self._child is not None:
                self._failures = 0
                return None
        if self._child is not None:
            return None
        self._failures += 1
        return self._died(task, "load")

    def run(self, task: Task) -> Outcome:
        """Run a task; one that kills its worker is tried once more."""
        for attempt in range(DEATHS):
            if (reason := self.load(task)) is not None:
                return Outcome(_row(task, reason), None)
            folder = self._work / f"{task['id']}-{attempt}"
            record = self._call("run", task, folder)
            if record is not None:
                if "CUDA error" in (record.error or {}).get("message", ""):
                    self.close()  # after such an error every later call in that process fails
                return Outcome(record, folder if record.status == "ok" else None)
        return Outcome(self._died(task, "run"), None)

    def _call(self, do: str, task: Task, folder: Path | None) -> Record | None:
        """Ask the child; give what it answered or a timeout's row, None for no failure of a load or a death."""
        assert self._child is not None  # noqa: S101 - see to the callers
        call: dict[str, Any] = {"do": do, "task": task, "folder": folder}
        sha256 = task["image"]["sha256"]
        if do == "run" and sha256 not in self._sent:
            call["photo"] = self._photos[sha256]
            self._sent.add(sha256)
        try:
            self._child.say(call)
            answer = self._child.hear(self._timeout)
        except EndedError as error:
            self._child, self._why = None, str(error)
            return None
        except TimeoutError as error:
            self._child = None
            return failed(task, ("Timeout", f"{do}: {error}"), status="timeout")
        if "full" in answer:
            raise DiskFullError(answer["full"])
        record: Record | None = answer.get("record")
        return record

    def _died(self, task: Task, do: str) -> Record:
        return failed(task, ("WorkerDied", f"the worker {self._why}, in each of {DEATHS} tries of this {do}"))

    def close(self) -> None:
        """End the worker, if there is one."""
        if self._child is not None:
            self._child.end()
        self._child = None
