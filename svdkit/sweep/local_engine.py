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
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from svdkit.bench.record import Record
from svdkit.sweep.worker import DiskFullError, Task, failed

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
        yield from _run_group(deque(group), work=work, photos=photos, timeout_seconds=timeout_seconds)


def _run_group(
    waiting: deque[Task], *, work: Path, photos: Mapping[str, bytes], timeout_seconds: float
) -> Iterator[Outcome]:
    deaths: Counter[str] = Counter()
    child: _Child | None = None
    try:
        while waiting:
            task = waiting[0]
            folder = work / f"{task['id']}-{deaths[task['id']]}"
            doing = "load" if child is None else "run"
            try:
                if child is None:
                    child = _Child(work / "worker.log", photos)
                    answer = child.call("load", task, timeout_seconds=timeout_seconds)
                    if "record" not in answer:
                        continue
                else:
                    answer = child.call("run", task, folder=folder, timeout_seconds=timeout_seconds)
                record = Record.from_dict(answer["record"])
            except _DiedError as error:
                child = None
                what = task["id"] if doing == "run" else "load"
                deaths[what] += 1
                if deaths[what] < DEATHS:
                    continue
                record = failed(task, ("WorkerDied", f"{error} {DEATHS} times during this {doing}"))
            except TimeoutError as error:
                child = None
                record = failed(task, ("Timeout", f"{doing}: {error}"), status="timeout")
            if doing == "load":  # it would fail for the others too
                while waiting:
                    other = waiting.popleft()
                    reason = record.error or {}
                    yield Outcome(failed(other, (reason["type"], reason["message"]), status=record.status), None)
                return
            waiting.popleft()
            yield Outcome(record, folder if record.status == "ok" else None)
            if child is not None and "CUDA error" in (record.error or {}).get("message", ""):
                child.kill()  # after such an error every later call in that process fails
                child = None
    finally:
        if child is not None:
            child.kill()


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
            raise _DiedError(f"the worker died ({f'signal {-code}' if code < 0 else f'exit code {code}'})")
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
