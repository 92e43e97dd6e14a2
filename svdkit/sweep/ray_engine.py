"""The Ray engine: the same runner as an actor on every GPU of a machine or a cluster; the driver alone writes.

A ``ray.wait`` loop over actors, since ``ActorPool`` stops at the first error. Ray does not restart the actors: they
are replaced here, where a run that kills its worker is counted. docs/ray.md shows how to start a cluster.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any
from unittest import mock

from svdkit.errors import PipelineError
from svdkit.sweep.worker import DEATHS, Outcome, Runner, answer

if TYPE_CHECKING:
    from svdkit.sweep.points import Job

_CHECK_SECONDS = 1.0  # between looks at timeouts


class _Actor:
    """What runs there."""

    def __init__(self, runner: Callable[[], Runner]) -> None:
        self._runner = runner()

    def ready(self) -> None:
        """Answer when the actor has a place to run."""

    def answer(self, do: str, job: Job) -> Any:
        """As a child process does."""
        return answer(self._runner, do, job)


@dataclass(eq=False)
class _Slot:
    """An actor: what it was asked last, when that is too late, the runs it is to make, the load it has."""

    actor: Any
    call: Any
    doing: str = "ready"
    deadline: float = float("inf")
    batch: deque[Job] = field(default_factory=deque)
    load: object = None


def run_ray(
    jobs: Sequence[Job],
    *,
    timeout_seconds: float,
    address: str | None = None,
    workers: int | None = None,
    runner: Callable[[], Runner] = Runner,
) -> Iterator[Outcome]:
    """Run jobs on a Ray cluster; each has exactly one outcome, in the order in which they end."""
    ray, is_ours = _connect(address)
    try:
        yield from _Pool(ray, timeout_seconds, runner=runner, workers=workers).run(jobs)
    finally:
        if is_ours:
            ray.shutdown()


class _Pool:
    """The actors, and what is left to do."""

    def __init__(self, ray: Any, timeout: float, *, runner: Any, workers: int | None) -> None:
        self._ray, self._timeout, self._runner = ray, timeout, runner
        has = ray.cluster_resources()
        kind = "GPU" if has.get("GPU") else "CPU"
        self._size = workers or max(1, int(has.get(kind, 1)))
        self._actor = ray.remote(**{f"num_{kind.lower()}s": 1})(_Actor)
        self._deaths: Counter[object] = Counter()
        self._loaded: set[object] = set()
        self._waiting: deque[deque[Job]] = deque()
        self._slots: list[_Slot] = []

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        self._waiting.extend(deque(batch) for _, batch in groupby(jobs, key=lambda job: job.keys["denoise"]))
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
                        yield from self._answered(slot)
                    elif time.monotonic() > slot.deadline:
                        text = f"{slot.doing}: no answer in {self._timeout:g} s; the worker was killed"
                        yield from self._lost(slot, _why("Timeout", text, status="timeout"))
        finally:
            for slot in [*self._slots]:
                self._drop(slot)

    def _answered(self, slot: _Slot) -> Iterator[Outcome]:
        try:
            found = self._ray.get(slot.call)
        except self._ray.exceptions.RayError as error:
            yield from self._lost(slot, _why("WorkerDied", f"the worker died: {str(error).splitlines()[0]}"))
            return
        if isinstance(found, OSError):
            raise found
        if isinstance(found, dict):
            yield from self._lost(slot, found)
            return
        if slot.doing == "load":
            self._loaded.add(slot.load)
        if slot.doing == "run":
            slot.batch.popleft()
            yield found
            if "CUDA error" in (found.record.error or {}).get("message", ""):
                self._drop(slot)  # after such an error every later call in that process fails
                return
        self._ask(slot)

    def _ask(self, slot: _Slot) -> None:
        """Give an actor its next call; without work for the model it has, it makes room for a new one."""
        if not slot.batch:
            batch = next((batch for batch in self._waiting if slot.load in {None, batch[0].load}), None)
            if batch is None:
                self._drop(slot)
                return
            self._waiting.remove(batch)
            slot.batch = batch
        slot.doing, slot.deadline = "run" if slot.load else "load", time.monotonic() + self._timeout
        slot.load = slot.batch[0].load
        slot.call = slot.actor.answer.remote(slot.doing, slot.batch[0])

    def _lost(self, slot: _Slot, why: dict[str, Any]) -> Iterator[Outcome]:
        """After a death, a timeout or a failed load: a row for what has failed often enough, the rest for others."""
        job, is_load = (slot.batch[0] if slot.batch else None), slot.doing == "load"
        self._drop(slot)
        what = "ready" if job is None else slot.load if is_load and slot.load not in self._loaded else job.id
        self._deaths[what] += 1
        if job is None:
            if self._deaths[what] > DEATHS * self._size:
                advice = "look at `ray status` and its logs"
                raise PipelineError(f"Ray's workers cannot start ({why['error']['message']}); {advice}")
        elif self._deaths[what] >= DEATHS or (why["status"] == "timeout" and not is_load):
            for batch in [*self._waiting]:
                for row in [row for row in batch if what in (row.id, row.load)]:
                    batch.remove(row)
                    yield Outcome(row.record(**why), {})
            self._waiting = deque(batch for batch in self._waiting if batch)

    def _drop(self, slot: _Slot) -> None:
        """End an actor; what it has not done goes back to the front."""
        self._ray.kill(slot.actor)
        self._slots.remove(slot)
        if slot.batch:
            self._waiting.appendleft(slot.batch)


def _why(kind: str, text: str, *, status: str = "error") -> dict[str, Any]:
    return {"status": status, "error": {"type": kind, "message": text}}


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
