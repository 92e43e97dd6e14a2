"""The driver: what is left to do, the engine that does it, each run committed as it ends, and how far it is."""

from __future__ import annotations

import inspect
import io
import math
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit import __version__
from svdkit.bench.record import Record, now, run_id
from svdkit.clip.formats import check_encoder
from svdkit.disk import refusal, try_room
from svdkit.environment import summary
from svdkit.errors import SettingsError, SvdkitError
from svdkit.generate.progress import Screen
from svdkit.given import user_path
from svdkit.models import find_model, locate
from svdkit.models.folder import fingerprint
from svdkit.sweep.plan import Plan, plan_sweep
from svdkit.sweep.points import STAGES, Job
from svdkit.sweep.results import DiskFullError, Results, Task, is_disk_full
from svdkit.sweep.worker import Outcome, run_local
from svdkit.units import format_seconds

if TYPE_CHECKING:
    from typing_extensions import Self

    from svdkit.settings import ClipSettings, LoadSettings


_SECONDS_BETWEEN_LINES = 30.0  # of a log file


class _Display:
    """Says how far a sweep is; in a log a line in 30 s, and one for each failure."""

    def __init__(
        self, runs: Sequence[tuple[Mapping[str, Any], Job]], finished: Mapping[str, Record], *, shown: bool = True
    ) -> None:
        self._total, self._screen = len(runs), Screen(log_seconds=_SECONDS_BETWEEN_LINES) if shown else None
        self._work = {task["id"]: work for task, work in _work([run for run in runs if run[0]["id"] not in finished])}
        mine = [finished[task["id"]] for task, _ in runs if task["id"] in finished]
        self._done, self._failed = len(mine), sum(record.status != "ok" for record in mine)
        self._seconds, self._did = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0.0)

    def __enter__(self) -> Self:
        if self._done and self._screen:
            self._screen.line(f"{self._done} of {self._total} runs are there already")
        return self

    def __exit__(self, *_: object) -> None:
        if self._screen:
            self._screen.show(f"{self}", last=True)

    def ended(self, record: Record) -> None:
        """Count a run that ended."""
        self._done += 1
        timed = record.samples.get("timed", {})
        for stage, amount in self._work.pop(record.id, {}).items():
            if timed.get(stage):
                self._seconds[stage] += timed[stage][0]
                self._did[stage] += amount
        self._failed += record.status != "ok"
        if self._screen and record.status != "ok":
            reason = record.error or {}
            self._screen.line(f"{record.id}: {record.status}: {reason.get('type')}: {reason.get('message', '')[:160]}")
        if self._screen:
            self._screen.show(f"{self}")

    @property
    def remaining_seconds(self) -> float:
        """Estimate for the rest, of one worker; not a number before every stage was measured."""
        pace = {stage: self._seconds[stage] / self._did[stage] for stage in STAGES if self._did[stage]}
        return sum(amount * pace.get(stage, math.nan) for work in self._work.values() for stage, amount in work.items())

    def __str__(self) -> str:
        left = self.remaining_seconds
        rest = f", about {format_seconds(left)} left" if self._work and math.isfinite(left) else ""
        return f"{self._done}/{self._total} runs, {self._failed} failed{rest}"


def _work(runs: Sequence[tuple[Mapping[str, Any], Job]]) -> list[tuple[Mapping[str, Any], dict[str, float]]]:
    """Say for each run which stages it will have to do, and how much of each, so that sizes can be compared."""
    seen: set[object] = set()
    found = []
    for task, job in runs:
        clip: Any = job.clip
        pixels = clip.height * clip.width
        amounts = {"encode": pixels, "denoise": pixels * clip.num_frames * clip.num_inference_steps}
        amounts["decode"] = pixels * clip.num_frames
        found.append((task, {stage: amounts[stage] for stage in STAGES if job.keys[stage] not in seen}))
        seen |= {job.keys[stage] for stage in STAGES}
    return found


_ENGINES = ("local", "ray")


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
    if results is None or not str(results).strip() or engine not in _ENGINES:
        given = f"engine={engine!r} is not known" if results else f"there is no results folder (results={results!r})"
        raise SettingsError(f"{given}; give results='bench_results/NAME' and engine='local' or 'ray'")
    results = user_path(results)
    if not 0 < timeout_seconds <= threading.TIMEOUT_MAX:
        raise SettingsError(f"timeout_seconds={timeout_seconds!r}: must be seconds above 0; a day is 86400")
    options = {"quality": quality, "scale": scale, "command": command}
    options |= {"hourly_price": plan.hourly_price, "currency": plan.currency}
    if engine == "local":  # Ray's workers may have an encoder where the driver has none
        check_encoder(".mp4")
    tasks = _tasks(plan, options)
    photos = {job.frame.sha256: job.frame for job in plan.jobs}
    with _writing(results), ExitStack() as stack:
        place = stack.enter_context(Results(results))
        if retry_failed:
            place.forget_failed()
        place.describe("sweep.json", _description(plan, tasks, options))
        place.describe("environment.json", summary())
        try_room(place.work, max((_num_bytes(job.clip, scale) for job in plan.jobs), default=0))
        left = [task for task in tasks if task["id"] not in place.finished]
        display = stack.enter_context(_Display([*zip(tasks, plan.jobs, strict=True)], place.finished, shown=progress))
        pictures = {sha256: _png(frame) for sha256, frame in photos.items()}
        how: dict[str, Any] = {"work": place.work, "photos": pictures, "timeout_seconds": timeout_seconds}
        _commit_all(_engine(engine, left, how, address=address, workers=workers), place, display)
        records = tuple(place.finished[task["id"]] for task in tasks)
    if report:
        from svdkit.sweep.report import write_report

        with _writing(results):
            write_report(results)
    return Sweep(folder=results, records=records)


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


def _engine(
    name: str, tasks: Sequence[Task], how: Mapping[str, Any], *, address: str | None, workers: int | None
) -> Iterator[Outcome]:
    if name == "local":
        return run_local(tasks, **how)
    from svdkit.sweep.ray_engine import run_ray

    return run_ray(tasks, **how, address=address, workers=workers)


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
    except (OSError, DiskFullError) as error:
        place.check_there()
        if not is_disk_full(error):
            raise
        raise SvdkitError(
            f"the disk of {place.folder} is full: the sweep stopped after {len(place.finished)} runs, which are "
            "complete; free some space and start it again, it continues"
        ) from error
    finally:
        outcomes.close()  # type: ignore[attr-defined]  # generators, which end their workers


def _tasks(plan: Plan, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name the runs, and make plain JSON of them."""
    models = {load: _identify(load) for load in {job.load for job in plan.jobs}}
    forecasts: Sequence[Mapping[str, Any]] = (plan.estimate and plan.estimate.each) or [{}] * len(plan.jobs)
    tasks = []
    for position, (job, forecast) in enumerate(zip(plan.jobs, forecasts, strict=True)):
        load, clip, model = job.load.to_dict(), job.clip.to_dict(), models[job.load]
        name = run_id(load=load, clip=clip, image_sha256=job.frame.sha256, model=model, code_version=__version__)
        values = {"id": name, "load": load, "clip": clip, "image": job.frame.to_dict(), "model": model}
        tasks.append({**values, "forecast": forecast, "options": {**options, "position": position}})
    return tasks


def _identify(load: LoadSettings) -> dict[str, Any]:
    """Name a model's weights exactly, as the worker will; downloads what is not here."""
    info = find_model(load.model)
    if load.weights == "random":
        revision = f"seed {load.random_seed}"
    else:
        folder = locate(info, source=load.source, revision=load.revision, variant="any")
        revision = folder.name if folder.parent.name == "snapshots" else fingerprint(folder)
    return {"name": info.name, "revision": revision, "weights": load.weights}


def _description(plan: Plan, tasks: Sequence[Task], options: Mapping[str, Any]) -> dict[str, Any]:
    values = {"svdkit": __version__, "started_at": now(), "asked": plan.asked, "runs": [task["id"] for task in tasks]}
    return {**values, "distinct": plan.distinct, "options": {**options}}


def _num_bytes(clip: Any, scale: float | None) -> int:
    """How much a clip's raw frames take, which its files never exceed by much."""
    return int(clip.num_frames * clip.height * clip.width * 3 * (scale or 1) ** 2)


def _png(frame: Any) -> bytes:
    buffer = io.BytesIO()
    frame.image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
