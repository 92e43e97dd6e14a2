"""Many clips from one description: planned, shared, resumable, on one laptop or a cluster.

``points`` (axes become jobs, each one object until it is a record) → ``plan`` (checked, in order, with what it will
take) → ``worker`` (makes clips; the local engine) and ``ray_engine`` (where workers are actors) → ``results``
(their folder) → ``run`` (the driver) → ``report``.
"""

from __future__ import annotations

from svdkit.sweep.plan import Plan, plan_sweep, read_sweep
from svdkit.sweep.points import Job
from svdkit.sweep.run import Sweep, run_sweep, sweep

__all__ = ["Job", "Plan", "Sweep", "plan_sweep", "read_sweep", "run_sweep", "sweep"]
