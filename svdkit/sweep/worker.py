"""What makes the clips of a sweep, and what hands the runs out to workers, which may die without harm here."""

from __future__ import annotations

import contextlib
import errno
import gc
import math
import tempfile
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from svdkit.bench.protocol import process_name
from svdkit.bench.record import failure_of, now
from svdkit.child import Child, EndedError
from svdkit.errors import SvdkitError
from svdkit.sweep.points import STAGES, Job
from svdkit.sweep.results import is_disk_full

if TYPE_CHECKING:
    from svdkit.bench.record import Record
    from svdkit.child import Channel
    from svdkit.clip import Clip


class NotNumbersError(SvdkitError):
    """The clip has values that are not numbers."""


class Outcome(NamedTuple):
    """How a run ended, and its files by name; none of a run that failed."""

    record: Record
    files: dict[str, bytes]


class Runner:
    """Makes clips with one model. The output of each stage is kept until a run needs another one."""

    def __init__(self) -> None:
        self._pipe: Any = None
        self._kept: dict[str, tuple[object, Any, dict[str, int | None]]] = {}  # stage -> key, output, memory
        self._warm: set[object] = set()

    def load(self, job: Job) -> None:
        """Load the model of a job.

        Raises:
            SvdkitError: It cannot be loaded, or is another revision than the one the run ids were made with.
        """
        from svdkit.bench.memory import meter
        from svdkit.generate.loop import execution_device
        from svdkit.generate.stages import describe_model
        from svdkit.pipeline import load

        self._pipe = load(settings=job.load)
        self._pipe.set_progress_bar_config(disable=True)
        self._open = contextlib.ExitStack()  # what reads memory
        self._peaks, self._reset_peaks = self._open.enter_context(meter(execution_device(self._pipe)))
        found, planned = describe_model(self._pipe), job.model
        if found["revision"] != planned["revision"]:
            raise SvdkitError(
                f"this worker has revision {found['revision']} of {found['name']}, the sweep was planned with "
                f"{planned['revision']}: give all machines the same model, or set revision in load"
            )

    def run(self, job: Job) -> Outcome:
        """Make a clip, its files, and its row.

        Seconds of a stage that several runs share stand in the row of each: they are what this clip would cost alone.
        """
        started_at, settings = now(), job.clip
        self._warm_up(job)
        before = {stage: key for stage, (key, _, _) in self._kept.items()}
        clip: Any = self._make(job)
        # A kept clip has another run's playback rate, which is in no stage's key.
        made = replace(clip.provenance, settings=settings.to_dict())
        for note in made.notes:
            if "not numbers" in note:  # black frames in a table would pass for a result
                raise NotNumbersError(note)
        clip = replace(clip, fps=settings.playback_fps, provenance=made)
        start = time.perf_counter()
        files = _files(clip, scale=job.options["scale"])
        seconds = {**made.stage_seconds, "export": time.perf_counter() - start}
        seconds["total"] = sum(seconds.values())
        price, cost = job.options["hourly_price"], {}
        if price is not None:
            money = seconds["total"] / 3600 * price
            cost = {"hourly_price": price, "money": money, "currency": job.options["currency"]}
        record = job.record(
            status="ok",
            started_at=started_at,
            load=made.load,
            method="composed" if any(before.get(stage) == job.keys[stage] for stage in STAGES) else "measured",
            samples={"timed": {stage: [value] for stage, value in seconds.items()}},
            order=[job.position],
            processes=[process_name()],
            memory={stage: self._kept[stage][2] for stage in STAGES},
            quality=_quality(clip, settings.decode_chunk_size) if job.options["quality"] else {},
            cost=cost,
            artifacts={Path(name).stem: f"runs/{job.id}/{name}" for name in files},
        )
        return Outcome(record, files)

    def recover(self, error: BaseException) -> None:
        """After a failure keep nothing of it, and give memory back."""
        import torch

        traceback.clear_frames(error.__traceback__)  # it holds the stage's tensors
        self._kept.clear()
        gc.collect()
        torch.cuda.empty_cache()

    def _make(self, job: Job) -> Clip:
        """Go through the stages; of each the output is kept when it depends on nothing that changed."""
        from svdkit.generate import decode, denoise, encode

        output: Any = job.frame
        for stage, make in zip(STAGES, (encode, denoise, decode), strict=True):
            if stage not in self._kept or self._kept[stage][0] != job.keys[stage]:
                self._reset_peaks()
                made = make(self._pipe, output, job.clip)  # type: ignore[operator]  # each takes what the last gave
                self._kept[stage] = (job.keys[stage], made, self._peaks())
            output = self._kept[stage][1]
        clip: Clip = output
        return clip

    def _warm_up(self, job: Job) -> None:
        """Make two steps first on a GPU, where the first clip also starts kernels: no run's own time.

        What is compiled is compiled for each size, length and chunk anew, with guidance and without.
        """
        from svdkit.generate.loop import execution_device

        kept, clip = dict(self._kept), cast("Any", job.clip)
        shape: object = (clip.height, clip.width, clip.num_frames, clip.decode_chunk_size, clip.max_guidance_scale > 1)
        shape = shape if self._pipe.svdkit.settings.compile else None
        if shape not in self._warm and execution_device(self._pipe).type != "cpu":
            self._make(replace(job, clip=clip.replace(num_inference_steps=min(2, clip.num_inference_steps))))
            self._kept = kept
        self._warm.add(shape)


def _files(clip: Clip, *, scale: float | None) -> dict[str, bytes]:
    """Give a run's files: the video, which carries its provenance, and its first frame."""
    from PIL import Image

    with tempfile.TemporaryDirectory(prefix="svdkit-") as folder:
        video, poster = Path(folder, "clip.mp4"), Path(folder, "poster.jpg")
        clip.save(video, keep_photo=False, keep_frames=False, scale=scale)
        Image.fromarray(clip.frames[0]).save(poster, quality=85)
        return {file.name: file.read_bytes() for file in (video, poster)}


def _quality(clip: Clip, decode_chunk_size: int | None) -> dict[str, Any]:
    from svdkit.bench.quality import measure_quality

    found = measure_quality(clip.frames, fps=clip.fps, photo=clip.photo, decode_chunk_size=decode_chunk_size)
    return {name: value if value is None or math.isfinite(value) else None for name, value in found.items()}


def answer(runner: Runner, do: str, job: Job) -> Any:
    """Do "load" or "run": give an ``Outcome``; of loading None, or how it failed; or the OSError of a full disk."""
    started_at = now()
    try:
        return runner.load(job) if do == "load" else runner.run(job)
    except Exception as error:  # noqa: BLE001 - it becomes a row
        if is_disk_full(error):
            return OSError(errno.ENOSPC, str(error))
        reason = failure_of(error)
        with contextlib.suppress(Exception):  # after a CUDA error this raises too; without torch it cannot be imported
            runner.recover(error)
        return reason if do == "load" else Outcome(job.record(**reason, started_at=started_at), {})


def work(channel: Channel, runner: Runner | None = None) -> None:
    """Answer the calls of a driver until it goes away."""
    runner = runner or Runner()
    while True:
        channel.say(answer(runner, *channel.hear()))


WORKER = "svdkit.sweep.worker:work"
DEATHS = 2  # of workers over one run, or over one load that never was: the third try would end the same


class Queue:
    """The runs that are left, for one worker after the other.

    A worker has ``ask(message, seconds)``, which gives what ``answer`` does or raises an EndedError or TimeoutError,
    and ``end()``.
    """

    def __init__(self, jobs: Sequence[Job], start: Callable[[], Any], *, timeout_seconds: float) -> None:
        self._start, self._timeout = start, timeout_seconds
        # What shares a denoise goes to one worker.
        self._batches = deque(deque(batch) for _, batch in groupby(jobs, key=lambda job: job.keys["denoise"]))
        self._loaded: set[object] = set()
        self._lost: Counter[object] = Counter()
        self._hopeless: dict[object, dict[str, Any]] = {}  # run or load -> why it is not tried again

    def serve(self) -> Iterator[Outcome]:
        """Run what is left, with one worker after the other: one that died, hung or has lost its GPU is replaced."""
        worker, load, is_lost, batch = None, None, False, deque[Job]()
        try:
            while batch := batch or self._take(load):
                job = batch[0]
                if why := self._hopeless.get(job.id) or self._hopeless.get(job.load):
                    yield Outcome(batch.popleft().record(**why), {})
                    continue
                if worker and (is_lost or load != job.load):
                    worker.end()
                    worker = None
                do = "run" if worker else "load"
                worker, load = worker or self._start(), job.load
                found = self._ask(worker, do, job)
                is_lost = isinstance(found, dict)
                if is_lost:
                    self._put_back(batch, do, found)
                    batch = deque()
                elif found is None:
                    self._loaded.add(load)
                    self._lost[load] = 0
                else:
                    batch.popleft()
                    # After such an error every later call in that process fails.
                    is_lost = "CUDA error" in (found.record.error or {}).get("message", "")
                    yield found
        finally:
            if worker:
                worker.end()

    def _take(self, load: object) -> deque[Job]:
        """Take runs that share a denoise, if possible with the model that a worker has."""
        fitting = (batch for batch in self._batches if batch[0].load == load)
        batch = next(fitting, self._batches[0] if self._batches else deque())
        if batch:
            self._batches.remove(batch)
        return batch

    def _put_back(self, batch: deque[Job], do: str, why: dict[str, Any]) -> None:
        """Put what a lost worker leaves to the front, and give up what has failed often enough."""
        job = batch[0]
        what = job.load if do == "load" else job.id
        self._lost[what] += 1
        is_final = why["status"] == "timeout"
        if do == "load":  # a model that was never there gets a second try only where its worker died
            is_final = job.load not in self._loaded and why["error"]["type"] != "WorkerDied"
        if is_final or self._lost[what] >= DEATHS:
            self._hopeless[what] = why
        self._batches.appendleft(batch)

    def _ask(self, worker: Any, do: str, job: Job) -> Any:
        """Ask as ``answer`` is asked; where the worker is lost, give how it was."""
        try:
            found = worker.ask((do, job), self._timeout)
        except EndedError as error:
            text = f"the worker {error}, in each of {DEATHS} tries of this {do}"
            return {"status": "error", "error": {"type": "WorkerDied", "message": text}}
        except TimeoutError as error:
            return {"status": "timeout", "error": {"type": "Timeout", "message": f"{do}: {error}"}}
        if isinstance(found, OSError):
            raise found
        return found


def run_local(jobs: Sequence[Job], *, log: Path, timeout_seconds: float) -> Iterator[Outcome]:
    """Run jobs in a child process, one after the other; each has exactly one outcome."""
    return Queue(jobs, lambda: Child(WORKER, log=log), timeout_seconds=timeout_seconds).serve()
