"""What the tests of sweeps share: small plans, and workers that die, hang or fill the disk when told to.

``work`` is that of a worker that makes no clip: real processes, files and records, without a model.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.sweep import Noop
from svdkit.sweep import Plan, plan_sweep, worker
from svdkit.sweep.results import DiskFullError, failed
from svdkit.sweep.run import _tasks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from svdkit.bench.record import Record
    from svdkit.child import Channel

WORKER = "tests.sweeps:work"  # needs this checkout on PYTHONPATH
# Seeds that are trouble.
DIES, HANGS, FILLS, LOSES_GPU, SLOW, FAILS_SECOND = 666, 777, 888, 999, 555, 444


class Faulty(Noop):
    """Does by the seed of a run what goes wrong in the night; a fps of 13 cannot be loaded, 14 kills the load."""

    def load(self, task: Mapping[str, Any]) -> None:
        random_seed = task["load"]["random_seed"]
        if random_seed == DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        if random_seed == HANGS:
            time.sleep(3600)
        if random_seed == FAILS_SECOND:
            loads = Path(os.environ["SVDKIT_TEST_LOADS"])
            with loads.open("a", encoding="utf-8") as file:
                file.write("x")
            if loads.stat().st_size == 2:
                raise RuntimeError("CUDA out of memory")
            return
        if random_seed:
            raise RuntimeError("no such weights")

    def run(self, task: Mapping[str, Any], *, folder: Path, photo: bytes | None = None) -> Record:
        seed = task["clip"]["seed"]
        if seed == DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == HANGS:
            time.sleep(3600)
        if seed == FILLS:
            raise DiskFullError(os.strerror(errno.ENOSPC))
        if seed == LOSES_GPU:
            return failed(task, RuntimeError("CUDA error: an illegal memory access was encountered"))
        time.sleep(0.3 if seed == SLOW else 0.005)
        return super().run(task, folder=folder, photo=photo)


def seeds(*values: int, **more: Any) -> Plan:
    """Plan one short run a seed."""
    return plan_sweep("rocket", axes={"seed": list(values)}, forecast=False, **more)


def tasks_of(plan: Plan, **options: Any) -> list[dict[str, Any]]:
    usual = {"quality": False, "scale": None, "command": "", "hourly_price": None, "currency": "USD"}
    return _tasks(plan, {**usual, **options})


def work(channel: Channel) -> None:
    worker.work(channel, Faulty())
