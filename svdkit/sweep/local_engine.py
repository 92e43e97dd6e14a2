"""The local engine: a child process a model, so that a crash or a full GPU cannot take the notebook down."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from svdkit.bench.record import Record
from svdkit.sweep.rows import DiskFullError, Task, failed

COMMAND = (sys.executable, "-m", "svdkit.sweep.worker")
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
        self._child: _Child | None = None
        self._failures = DEATHS - 1  # of loads in a row: a model that was never there gets no second try

    @property
    def is_hopeless(self) -> bool:
        """Whether it is no use to load again; once may be, where a dead worker's memory was not free yet."""
        return self._failures >= DEATHS

    def load(self, task: Task) -> Record | None:
        """See to it that there is a worker with the model; give the row of a failure, or None."""
        for _ in range(DEATHS if self._child is None else 0):
            self._child = _Child(self._work / "worker.log", self._photos)
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
        try:
            answer = self._child.call(do, task, folder=folder, timeout_seconds=self._timeout)
        except _DiedError as error:
            self._child, self._why = None, str(error)
            return None
        except TimeoutError as error:
            self._child = None
            return failed(task, ("Timeout", f"{do}: {error}"), status="timeout")
        return Record.from_dict(answer["record"]) if "record" in answer else None

    def _died(self, task: Task, do: str) -> Record:
        return failed(task, ("WorkerDied", f"{self._why} in each of {DEATHS} tries of this {do}"))

    def close(self) -> None:
        """End the worker, if there is one."""
        if self._child is not None:
            self._child.kill()
        self._child = None


class _DiedError(Exception):
    """The worker process is gone."""


class _Child:
    """A worker process, and the photos that it has."""

    def __init__(self, log: Path, photos: Mapping[str, bytes]) -> None:
        self._photos, self._sent = photos, set[str]()
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is the driver's to handle
            )
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def call(self, do: str, task: Task, *, timeout_seconds: float, folder: Path | None = None) -> dict[str, Any]:
        """Ask, and wait for the answer; a TimeoutError has killed the process."""
        call: dict[str, Any] = {"do": do, "task": task, "folder": str(folder)}
        sha256 = task["image"]["sha256"]
        if do == "run" and sha256 not in self._sent:
            call["photo"] = base64.b64encode(self._photos[sha256]).decode()
            self._sent.add(sha256)
        try:
            assert self._process.stdin is not None  # noqa: S101 - it is a pipe
            self._process.stdin.write(json.dumps(call) + "\n")
            self._process.stdin.flush()
            answer = self._answers.get(timeout=timeout_seconds)
        except queue.Empty:
            self.kill()
            raise TimeoutError(f"no answer in {timeout_seconds:g} s; the worker was killed") from None
        except OSError:
            answer = None
        if answer is None:
            code = self.kill()
            raise _DiedError(f"worker died ({f'signal {-code}' if code < 0 else f'exit code {code}'})")
        found: dict[str, Any] = json.loads(answer)
        if "full" in found:
            raise DiskFullError(found["full"])
        return found

    def kill(self) -> int:
        """End the process, and give its exit code; of one that is dead already, its own."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(0.5)
        self._process.kill()
        return self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        with self._process.stdout as stdout:
            for line in stdout:
                self._answers.put(line)
        self._answers.put(None)
