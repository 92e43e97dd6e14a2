"""Many clips from one description: planned, shared, resumable, on one laptop or a cluster.

``grid`` (axes to points) → ``jobs`` (what runs) → ``estimate`` (what it will take) → ``plan``; ``commit`` (the results
folder) → ``worker`` (makes clips) → ``local_engine`` and ``ray_engine`` → ``run`` (the driver).
"""

from __future__ import annotations

from svdkit.sweep.jobs import Job
from svdkit.sweep.plan import Plan, plan_sweep, read_sweep
from svdkit.sweep.run import Sweep, run_sweep, sweep

__all__ = ["Job", "Plan", "Sweep", "plan_sweep", "read_sweep", "run_sweep", "sweep"]
