"""The Ray engine: the same worker as an actor on every GPU of a machine or a cluster; the driver alone writes.

A ``ray.wait`` loop over actors, since ``ActorPool`` stops at the first error. Ray does not restart the actors: they
are replaced here, where a run that kills its worker is counted. docs/ray.md shows how to start a cluster.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest import mock

from svdkit.bench.record import Record
from svdkit.errors import PipelineError
from svdkit.sweep.results import DiskFullError, Task, failed, write_files
from svdkit.sweep.worker import DEATHS, Outcome, Runner

_CHECK_SECONDS = 1.0  # between looks at timeouts


class _Worker:
    """What an actor does: a runner whose files travel to the driver as bytes."""

    def __init__(self, runner: Callable[[], Runner]) -> None:
        self._runner = runner()

    def ready(self) -> None:
        """Answer when the actor has a place to run."""

    def load(self, task: Task) -> dict[str, Any] | None:
        """Load a task's model; give the row of a failure, or None."""
        try:
            self._runner.load(task)
        except Exception as error:  # noqa: BLE001 - it becomes rows
            return failed(task, error).to_dict()
        return None

    def run(self, task: Task, photo: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Make a clip; give its record and its files by name."""
        with tempfile.TemporaryDirectory(prefix="svdkit-") as place:
            folder = Path(place, "run")
            record = self._runner.run(task, folder=folder, photo=photo)
            files = {file.name: file.read_bytes() for file in folder.iterdir()} if record.status == "ok" else {}
        return record.to_dict(), files


@dataclass(eq=False)
class _Slot:
    """An actor: what it was asked last, when that is too late, the runs it is to make, the load it has."""

    actor: Any
    call: Any
    doing: str = "ready"
    deadline: float = float("inf")
    batch: deque[Task] = field(default_factory=deque)
    load: str = ""


def run_ray(
    tasks: Sequence[Task],
    *,
    work: Path,
    photos: Mapping[str, bytes],
    timeout_seconds: float,
    address: str | None = None,
    workers: int | None = None,
    runner: Callable[[], Runner] = Runner,
) -> Iterator[Outcome]:
    """Run tasks on a Ray cluster; every task has exactly one outcome, in the order in which they end."""
    ray, is_ours = _connect(address)
    try:
        yield from _Pool(ray, photos, timeout_seconds, runner=runner, workers=workers).run(tasks, work)
    finally:
        if is_ours:
            ray.shutdown()


class _Pool:
    """The actors, and what is left to do."""

    def __init__(
        self, ray: Any, photos: Mapping[str, bytes], timeout: float, *, runner: Any, workers: int | None
    ) -> None:
        self._ray, self._timeout, self._runner = ray, timeout, runner
        self._photos = {sha256: ray.put(png) for sha256, png in photos.items()}
        has = ray.cluster_resources()
        kind = "GPU" if has.get("GPU") else "CPU"
        self._size = workers or max(1, int(has.get(kind, 1)))
        self._actor = ray.remote(**{f"num_{kind.lower()}s": 1})(_Worker)
        self._deaths: Counter[str] = Counter()
        self._loaded: set[str] = set()
        self._waiting: deque[deque[Task]] = deque()
        self._slots: list[_Slot] = []

    def run(self, tasks: Sequence[Task], work: Path) -> Iterator[Outcome]:
        self._waiting.extend(deque(batch) for _, batch in groupby(tasks, key=_shared))
        try:
            while busy := len(self._waiting) + sum(bool(slot.batch) for slot in self._slots):
                while len(self._slots) < min(self._size, busy):
                    actor = self._actor.remote(self._runner)
                    self._slots.append(_Slot(actor, actor.ready.remote()))
                calls = [slot.call for slot in self._slots]
                answered, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
                answered = answered or self._ray.wait(calls, timeout=_CHECK_SECONDS)[0]
                for slot in [*self._slots]:
                    if slot.call in answered:
                        yield from self._answered(slot, work)
                    elif time.monotonic() > slot.deadline:
                        reason = ("Timeout", f"{slot.doing}: no answer in {self._timeout:g} s; the worker was killed")
                        yield from self._lost(slot, reason, status="timeout")
        finally:
            for slot in [*self._slots]:
                self._drop(slot)

    def _answered(self, slot: _Slot, work: Path) -> Iterator[Outcome]:
        try:
            answer = self._ray.get(slot.call)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, DiskFullError):
                raise DiskFullError(str(error.cause)) from error
            yield from self._lost(slot, (type(error.cause).__name__, str(error.cause)))
            return
        except self._ray.exceptions.RayError as error:
            yield from self._lost(slot, ("WorkerDied", f"the worker died: {str(error).splitlines()[0]}"))
            return
        if slot.doing == "load" and answer:
            yield from self._lost(slot, (answer["error"]["type"], answer["error"]["message"]), status=answer["status"])
            return
        if slot.doing == "load":
            self._loaded.add(slot.load)
        if slot.doing == "run":
            record, files = Record.from_dict(answer[0]), answer[1]
            slot.batch.popleft()
            yield Outcome(record, write_files(work / record.id, files) if files else None)
            if "CUDA error" in (record.error or {}).get("message", ""):
                self._drop(slot)  # after such an error every later call in that process fails
                return
        self._ask(slot)

    def _ask(self, slot: _Slot) -> None:
        """Give an actor its next call; without work for the model it has, it makes room for a new one."""
        if not slot.batch:
            fitting = (batch for batch in self._waiting if slot.load in {"", _load(batch[0])})
            batch = next(fitting, None)
            if batch is None:
                self._drop(slot)
                return
            self._waiting.remove(batch)
            slot.batch = batch
        task, slot.deadline = slot.batch[0], time.monotonic() + self._timeout
        if not slot.load:
            slot.doing, slot.load, slot.call = "load", _load(task), slot.actor.load.remote(task)
        else:
            slot.doing, slot.call = "run", slot.actor.run.remote(task, self._photos[task["image"]["sha256"]])

    def _lost(self, slot: _Slot, reason: tuple[str, str], *, status: str = "") -> Iterator[Outcome]:
        """After a death, a timeout or a failed load: a row for what has failed often enough, the rest for others."""
        task, is_load = (slot.batch[0] if slot.batch else None), slot.doing == "load"
        self._drop(slot)
        what = "ready" if task is None else slot.load if is_load and slot.load not in self._loaded else task["id"]
        self._deaths[what] += 1
        if task is None:
            if self._deaths[what] > DEATHS * self._size:
                raise PipelineError(f"Ray's workers cannot start ({reason[1]}); look at `ray status` and its logs")
        elif self._deaths[what] >= DEATHS or (status == "timeout" and not is_load):
            for row in self._take([task] if what == task["id"] else self._all(slot.load)):
                yield Outcome(failed(row, reason, status=status), None)

    def _all(self, load: str) -> list[Task]:
        return [task for batch in self._waiting for task in batch if _load(task) == load]

    def _take(self, tasks: list[Task]) -> list[Task]:
        """Take tasks out of what is waiting."""
        names = {task["id"] for task in tasks}
        left = (deque(task for task in batch if task["id"] not in names) for batch in self._waiting)
        self._waiting = deque(batch for batch in left if batch)
        return tasks

    def _drop(self, slot: _Slot) -> None:
        """End an actor; what it has not done goes back to the front."""
        self._ray.kill(slot.actor)
        self._slots.remove(slot)
        if slot.batch:
            self._waiting.appendleft(slot.batch)


def _load(task: Task) -> str:
    return json.dumps(task["load"], sort_keys=True)


def _shared(task: Task) -> str:
    """Name what the runs of a batch share: everything but decoding and playback."""
    clip = {name: value for name, value in task["clip"].items() if name not in {"decode_chunk_size", "playback_fps"}}
    return json.dumps([task["load"], task["image"]["sha256"], clip], sort_keys=True)


def _connect(address: str | None) -> tuple[Any, bool]:
    """Give ray, connected, and whether it was connected here."""
    try:
        import ray
    except ImportError as error:
        raise PipelineError("engine 'ray' needs Ray: pip install 'svdkit[ray]', or use engine='local'") from error
    if ray.is_initialized():
        return ray, False
    address = address or os.environ.get("RAY_ADDRESS") or None
    # A node of its own is this machine's alone; else it would listen on every network that the machine is in. On
    # Linux, Ray turns 127.0.0.1 into the address of such a network, unless it is told that there are no clusters.
    alone = {} if address else {"address": "local", "_node_ip_address": "127.0.0.1", "include_dashboard": False}
    try:
        no_clusters = mock.patch("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False, create=True)  # noqa: FBT003
        with no_clusters if alone else nullcontext():
            ray.init(**{"address": address, "logging_level": "warning", "log_to_driver": False, **alone})
    except Exception as error:  # ConnectionError, RuntimeError, ValueError; of a start that takes too long a plain one
        ray.shutdown()  # what of it has started
        message = f"no Ray cluster at address={address!r} ({error}); start one with `ray start --head`, or leave it out"
        if alone:
            message = f"Ray could not be started here ({error}); try again, look into its logs, or use engine='local'"
        raise PipelineError(message) from error
    return ray, True
