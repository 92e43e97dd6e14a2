"""The driver: what is left to do, the engine that does it, each run committed as it ends, and how far it is."""

from __future__ import annotations

import inspect
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit import __version__
from svdkit.bench.record import Record, now, run_id
from svdkit.clip.formats import check_encoder
from svdkit.disk import refusal, try_room, write_whole
from svdkit.environment import summary
from svdkit.errors import SettingsError, SvdkitError
from svdkit.generate.progress import Screen
from svdkit.given import user_path
from svdkit.models import find_model, locate
from svdkit.models.folder import fingerprint
from svdkit.sweep.plan import Plan, plan_sweep
from svdkit.sweep.results import Results, is_disk_full
from svdkit.sweep.worker import Outcome, run_local
from svdkit.units import format_seconds

if TYPE_CHECKING:
    from svdkit.settings import ClipSettings, LoadSettings
    from svdkit.sweep.points import Job


class _Display:
    """Says how far a sweep is; in a log a line in 30 s, and one for each failure."""

    def __init__(self, jobs: Sequence[Job], finished: Mapping[str, Record], *, shown: bool = True) -> None:
        self._screen = Screen(log_seconds=30) if shown else None
        there = [finished[job.id].status != "ok" for job in jobs if job.id in finished]
        self._total, self._left, self._failed = len(jobs), len(jobs) - len(there), sum(there)
        self._begin, self._new = time.monotonic(), 0
        if self._screen and there:
            self._screen.line(f"{len(there)} of {self._total} runs are there already")

    def ended(self, record: Record) -> None:
        """Count a run that ended."""
        self._left, self._new = self._left - 1, self._new + 1
        reason = record.error
        self._failed += reason is not None
        if self._screen and reason:
            self._screen.line(f"{record.id}: {record.status}: {reason['type']}: {reason['message'][:160]}")
        self.show()

    def show(self, *, last: bool = False) -> None:
        """Show how far it is."""
        if self._screen:
            self._screen.show(f"{self}", last=last)

    def __str__(self) -> str:
        rest = ""
        if self._left and self._new:
            seconds = (time.monotonic() - self._begin) / self._new * self._left
            rest = f", about {format_seconds(seconds)} left"
        return f"{self._total - self._left}/{self._total} runs, {self._failed} failed{rest}"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep left.

    Attributes:
        folder: The results folder.
        records: Of this sweep's runs, in the order of its plan, those of earlier starts included.

    Example:
        >>> str(sweep("rocket", axes={"seed": [1, 2]}, results="bench_results/seeds", forecast=False))
        '2 of 2 runs ended well; bench_results/seeds'
    """

    folder: Path
    records: tuple[Record, ...]

    @property
    def failed(self) -> tuple[Record, ...]:
        """The records of the runs that did not end well."""
        return tuple(record for record in self.records if record.status != "ok")

    def __str__(self) -> str:
        good, count = len(self.records) - len(self.failed), Counter(record.status for record in self.failed)
        why = f" ({', '.join(f'{number} {status}' for status, number in count.items())})" if count else ""
        return f"{good} of {len(self.records)} runs ended well{why}; {self.folder.as_posix()}"


def run_sweep(
    plan: Plan,
    *,
    results: str | Path | None = None,
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
    timeout_seconds: float = 3600.0,
    retry_failed: bool = False,
    quality: bool = True,
    scale: float | None = None,
    report: bool = True,
    progress: bool = True,
    command: str = "",
) -> Sweep:
    """Run what is left of a plan.

    Every run that ended is on disk at once, whole. After a crash, an interrupt or ``kill -9`` the same call continues
    and repeats nothing that ended; a failed run is a row with its reason and ends too.

    Args:
        plan: From ``plan_sweep``.
        results: Folder for everything, such as ``"bench_results/motion"``; None for the one named in the plan.
        engine: ``"local"``: one child process; ``"ray"``: a worker on every GPU of a machine or cluster.
        address: Of the Ray cluster, for example ``"auto"``; None starts Ray on this machine.
        workers: For Ray: how many; None for one a GPU or, where there is none, one a CPU.
        timeout_seconds: For one run, and for one load; then it is a row with status "timeout" and a new worker goes on.
        retry_failed: Whether runs that failed earlier are run again.
        quality: Whether the numbers of ``svdkit.bench.quality`` are measured.
        scale: Size of the saved frames as a factor, as in ``Clip.save``.
        report: Whether tables and ``index.html`` are written at the end.
        progress: Whether to show how far it is; in a log file that is one line in 30 s.
        command: What to type to run it again, for the records.

    Returns:
        The folder, and the record of every run of the plan.

    Raises:
        SettingsError: There is no results folder or no such engine.
        ModelError: The model cannot be found; nothing was begun.
        SvdkitError: Another sweep writes to the folder, or the disk is full; what ended is kept.

    Example:
        >>> plan = plan_sweep("rocket", axes={"seed": [1, 2]}, forecast=False)
        >>> found = run_sweep(plan, results="bench_results/seeds")
        >>> found.records[0].quality["motion_percent_width_per_second"] > 0
        True
    """
    results = plan.results if results is None else results
    if results is None or not str(results).strip() or engine not in {"local", "ray"}:
        given = f"engine={engine!r} is not known" if results else f"there is no results folder (results={results!r})"
        raise SettingsError(f"{given}; give results='bench_results/NAME' and engine='local' or 'ray'")
    if not 0 < timeout_seconds <= threading.TIMEOUT_MAX:
        raise SettingsError(f"timeout_seconds={timeout_seconds!r}: must be seconds above 0; a day is 86400")
    results = user_path(results)
    options = {"quality": quality, "scale": scale, "command": command}
    options |= {"hourly_price": plan.hourly_price, "currency": plan.currency}
    if engine == "local":  # Ray's workers may have an encoder where the driver has none
        check_encoder(".mp4")
    jobs = _named(plan.jobs, options)
    # A clip's files never exceed its raw frames by much.
    sizes = (job.frame.height * job.frame.width * 3 * (job.clip.num_frames or 0) * (scale or 1) ** 2 for job in jobs)
    with _writing(results), Results(results) as place:
        if retry_failed:
            place.forget_failed()
        told = {"svdkit": __version__, "started_at": now(), "asked": plan.asked, "runs": [job.id for job in jobs]}
        told |= {"distinct": plan.distinct, "options": options}
        for name, values in {"sweep": told, "environment": summary()}.items():
            write_whole(results / f"{name}.json", json.dumps(values, indent=1) + "\n")
        try_room(place.work, int(max(sizes, default=0)))
        left = [job for job in jobs if job.id not in place.finished]
        if engine == "local":
            outcomes = run_local(left, log=place.work / "worker.log", timeout_seconds=timeout_seconds)
        else:
            from svdkit.sweep.ray_engine import run_ray

            outcomes = run_ray(left, timeout_seconds=timeout_seconds, address=address, workers=workers)
        _commit_all(outcomes, place, _Display(jobs, place.finished, shown=progress))
        found = Sweep(folder=results, records=tuple(place.finished[job.id] for job in jobs))
    if report:
        from svdkit.sweep.report import write_report

        with _writing(results):
            write_report(results)
    return found


def sweep(
    photos: Any = (),
    *,
    results: str | Path,
    clip: ClipSettings | Mapping[str, Any] | None = None,
    load: LoadSettings | Mapping[str, Any] | None = None,
    axes: Mapping[str, Sequence[Any]] | None = None,
    mode: str = "grid",
    count: int | None = None,
    seed: int | None = None,
    exclude: Sequence[Mapping[str, Any]] = (),
    fit_mode: str = "crop",
    focus: tuple[float, float] = (0.5, 0.5),
    border: str = "blur",
    forecast: bool = True,
    gpu: str | None = None,
    records: Any = None,
    hourly_price: float | None = None,
    currency: str = "USD",
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
    timeout_seconds: float = 3600.0,
    retry_failed: bool = False,
    quality: bool = True,
    scale: float | None = None,
    report: bool = True,
    progress: bool = True,
) -> Sweep:
    """Plan a sweep, print the plan, run it: ``plan_sweep`` and ``run_sweep`` in one, which explain the arguments.

    Raises:
        SettingsError: Something is wrong with what was asked; all problems are listed, and nothing was loaded.
        SvdkitError: As ``run_sweep``.

    Example:
        >>> found = sweep("cat", axes={"motion_bucket_id": [30, 220]}, results="bench_results/motion", forecast=False)
        2 runs: 1 photo × motion_bucket_id (2)
        shared work: 1 load, 1 encode, 2 denoises, 2 decodes; one by one it would be 2 of each
    """
    what = dict(locals())  # first, while these are the only names here: the arguments
    how = {name: what.pop(name) for name in inspect.signature(run_sweep).parameters if name in what}
    plan = plan_sweep(**what)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # ASCII in a log, which has no ×
    print(str(plan).encode(encoding, "replace").decode(encoding))  # noqa: T201 - said before it takes time and money
    return run_sweep(plan, **how)


@contextmanager
def _writing(folder: str | Path) -> Iterator[None]:
    """Turn what a disk, another program or a mount says into words."""
    try:
        yield
    except OSError as error:
        text = f"results {folder} cannot be written: {refusal(error)}; what ended is kept, and the same call continues"
        raise SvdkitError(text) from error


def _commit_all(outcomes: Iterator[Outcome], place: Results, display: _Display) -> None:
    try:
        for outcome in outcomes:
            place.commit(*outcome)
            display.ended(outcome.record)
    except OSError as error:
        place.check_there()
        if not is_disk_full(error):
            raise
        raise SvdkitError(
            f"the disk of {place.folder} is full: the sweep stopped after {len(place.finished)} runs, which are "
            "complete; free some space and start it again, it continues"
        ) from error
    finally:
        display.show(last=True)
        outcomes.close()  # type: ignore[attr-defined]  # generators, which end their workers


def _named(jobs: Sequence[Job], options: Mapping[str, Any]) -> list[Job]:
    """Give the runs of a plan their ids, and what else their records need."""
    models = {load: _identify(load) for load in {job.load for job in jobs}}
    named = []
    for position, job in enumerate(jobs):
        load, clip, model = job.load.to_dict(), job.clip.to_dict(), models[job.load]
        name = run_id(load=load, clip=clip, image_sha256=job.frame.sha256, model=model)
        named.append(replace(job, id=name, model=model, position=position, options=options))
    return named


def _identify(load: LoadSettings) -> dict[str, Any]:
    """Name a model's weights exactly, as the worker will; downloads what is not here."""
    info = find_model(load.model)
    if load.weights == "random":
        revision = f"seed {load.random_seed}"
    else:
        folder = locate(info, source=load.source, revision=load.revision, variant="any")
        revision = folder.name if folder.parent.name == "snapshots" else fingerprint(folder)
    return {"name": info.name, "revision": revision, "weights": load.weights}
