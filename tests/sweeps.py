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
from svdkit.sweep.run import _named

if TYPE_CHECKING:
    from svdkit.child import Channel
    from svdkit.sweep import Job
    from svdkit.sweep.worker import Outcome

ROOT = Path(__file__).parents[1]
WORKER = "tests.sweeps:work"  # needs this checkout on PYTHONPATH
# Seeds that are trouble.
DIES, HANGS, FILLS, LOSES_GPU, FAILS_SECOND = 666, 777, 888, 999, 444


class Faulty(Noop):
    """Does by the seed of a run what goes wrong in the night; a fps of 13 cannot be loaded, 14 kills the load."""

    def load(self, job: Job) -> None:
        random_seed = job.load.random_seed
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

    def run(self, job: Job) -> Outcome:
        seed = job.clip.seed
        if seed == DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == HANGS:
            time.sleep(3600)
        if seed == FILLS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if seed == LOSES_GPU:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        time.sleep(0.005)
        return super().run(job)


def seeds(*values: int, **more: Any) -> Plan:
    """Plan one short run a seed."""
    return plan_sweep("rocket", axes={"seed": list(values)}, forecast=False, **more)


def jobs_of(plan: Plan, **options: Any) -> list[Job]:
    """Name the runs of a plan."""
    usual = {"quality": False, "scale": None, "command": "", "hourly_price": None, "currency": "USD"}
    return _named(plan.jobs, {**usual, **options})


def work(channel: Channel) -> None:
    worker.work(channel, Faulty())
