"""The local engine: a child process a model, so that a crash or a full GPU cannot take the notebook down."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from svdkit.child import Child, EndedError
from svdkit.sweep.rows import DiskFullError, Task, failed

if TYPE_CHECKING:
    from svdkit.bench.record import Record

WORKER = "svdkit.sweep.worker:work"
DEATHS = 2  # of workers over one run, or over one load: the third try would end the same


class Outcome(NamedTuple):
    """How a run ended, and the temporary folder with its files; None when it made none."""

    record: Record
    folder: Path | None


def run_local(
    tasks: Sequence[Task], *, work: Path, photos: Mapping[str, bytes], timeout_seconds: float
) -> Iterator[Outcome]:
    """Run tasks one after the other; every task has exactly one outcome.

    Args:
        tasks: In the order of a plan.
        work: Folder for temporary folders.
        photos: SHA-256 of a fitted photo -> PNG.
        timeout_seconds: For one run, and for one load; then the worker is killed.

    Raises:
        DiskFullError: There is no room for the files.

    Example:
        >>> for outcome in run_local(tasks, work=work, photos=photos, timeout_seconds=600):  # doctest: +SKIP
        ...     results.commit(*outcome)
    """
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
