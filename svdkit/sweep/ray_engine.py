"""The Ray engine: the same workers as actors, one on every GPU of a machine or a cluster; the driver alone writes.

A thread of the driver serves each. Ray does not restart the actors: they are replaced here, where a run that kills its
worker is counted. docs/ray.md shows how to start a cluster.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from unittest import mock

from svdkit.child import EndedError
from svdkit.errors import PipelineError
from svdkit.sweep.worker import DEATHS, Outcome, Queue, Runner, answer

if TYPE_CHECKING:
    from svdkit.sweep.points import Job


class _Actor:
    """What runs there."""

    def __init__(self, runner: Callable[[], Runner]) -> None:
        self._runner = runner()

    def ready(self) -> None:
        """Answer when the actor has a place to run."""

    def answer(self, call: tuple[str, Job]) -> Any:
        """As a child process does."""
        return answer(self._runner, *call)


class _Worker:
    """An actor that is asked as a child process is."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor

    def ask(self, call: tuple[str, Job], seconds: float) -> Any:
        try:
            return self._ray.get(self._actor.answer.remote(call), timeout=seconds)
        except self._ray.exceptions.GetTimeoutError:
            raise TimeoutError(f"no answer in {seconds:g} s; the worker was killed") from None
        except self._ray.exceptions.RayError as error:
            raise EndedError(f"died: {str(error).splitlines()[0]}") from None

    def end(self) -> None:
        self._ray.kill(self._actor)


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
    has = ray.cluster_resources()
    kind = "GPU" if has.get("GPU") else "CPU"
    actors = ray.remote(**{f"num_{kind.lower()}s": 1})(_Actor)
    started: list[_Worker] = []

    def start() -> _Worker:
        reason = ""
        for _ in range(0 if left.is_over else 1 + DEATHS):
            actor = actors.remote(runner)
            started.append(_Worker(ray, actor))
            try:
                ray.get(actor.ready.remote())
            except ray.exceptions.RayError as error:
                reason = str(error).splitlines()[0]
            else:
                return started[-1]
        raise PipelineError(f"Ray's workers cannot start ({reason}); look at `ray status` and its logs")

    left = Queue(jobs, start, timeout_seconds=timeout_seconds)
    try:
        yield from _in_threads(left, workers or max(1, int(has.get(kind, 1))), len(jobs), started)
    finally:
        if is_ours:
            ray.shutdown()


def _in_threads(left: Queue, size: int, num_jobs: int, started: list[_Worker]) -> Iterator[Outcome]:
    """Serve so many workers at once; at the end, also an early one, end those that were started."""
    ended: queue.SimpleQueue[Outcome | Exception] = queue.SimpleQueue()

    def serve() -> None:
        try:
            for outcome in left.serve():
                ended.put(outcome)
        except Exception as error:  # noqa: BLE001 - raised below
            ended.put(error)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(size)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(num_jobs):
            outcome = ended.get()
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome
    finally:
        left.is_over = True
        for worker in started:
            worker.end()
        for thread in threads:
            thread.join(10)  # Ray would start again for one that still asks


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
