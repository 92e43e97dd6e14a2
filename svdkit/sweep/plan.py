"""What a sweep is and what it will take: photos × fixed settings × axes, all checked before anything is loaded."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from svdkit.errors import PipelineError, SettingsError, SvdkitError, shown
from svdkit.forecast.predict import Price
from svdkit.given import bare, read_values, user_path
from svdkit.models.costs import NotCountedError
from svdkit.settings import ClipSettings, LoadSettings
from svdkit.settings.base import FLAG, choice, nearest, number, setting, text
from svdkit.sweep.points import AXES, MODES, MOST, STAGES, Job, expand, judge_value, listed, make_jobs
from svdkit.units import format_bytes, format_count, format_money, format_seconds


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked sweep, in the order in which it runs; its text says how large it is and what it will take.

    Attributes:
        jobs: Every distinct run; those that share a load, an encode, a denoise stand together.
        asked: Plain JSON of what was asked, without paths.
        results: The results folder, or None.
        hourly_price: Of a worker's machine, in ``currency``.
        currency: ISO 4217 code.
        estimate: Time and money, or None when it was not asked for.

    Example:
        >>> print(plan_sweep("rocket", axes={"motion_bucket_id": [30, 127], "decode_chunk_size": [2, 7]},
        ...     forecast=False))
        4 runs: 1 photo × motion_bucket_id (2) × decode_chunk_size (2)
        shared work: 1 load, 1 encode, 2 denoises, 4 decodes; one by one it would be 4 of each
    """

    jobs: tuple[Job, ...]
    asked: dict[str, Any]
    results: str | None = None
    hourly_price: float | None = None
    currency: str = "USD"
    estimate: Estimate | None = None

    @cached_property
    def distinct(self) -> dict[str, int]:
        """How often each of "load", "encode", "denoise", "decode" has to run."""
        return {stage: len({job.keys[stage] for job in self.jobs}) for stage in ("load", *STAGES)}

    def __str__(self) -> str:
        axes = "".join(f" × {name} ({len(values)})" for name, values in self.asked["axes"].items())
        how = "" if self.asked["mode"] == "grid" else f", {self.asked['mode']}"
        size = f"{format_count(len(self.jobs), 'run')}: {format_count(len(self.asked['photos']), 'photo')}{axes}{how}"
        shared = ", ".join(format_count(count, stage) for stage, count in self.distinct.items())
        lines = [size, f"shared work: {shared}; one by one it would be {len(self.jobs):,} of each"]
        return "\n".join([*lines, *([str(self.estimate)] if self.estimate else [])])


@dataclass(frozen=True, kw_only=True)
class _Options(Price):
    """The plain arguments of a plan, judged as settings are."""

    mode: str = setting("grid", choice(*MODES))
    count: int | None = setting(None, number(1, MOST, step=1))
    seed: int | None = setting(None, number(0, 2**63 - 1, step=1))
    results: str | None = setting(None, text("a folder", pattern=".*"))
    forecast: bool = setting(default=True, check=FLAG)


def plan_sweep(
    photos: Any = (),
    *,
    clip: ClipSettings | Mapping[str, Any] | None = None,
    load: LoadSettings | Mapping[str, Any] | None = None,
    axes: Mapping[str, Sequence[Any]] | None = None,
    mode: str = "grid",
    count: int | None = None,
    seed: int | None = None,
    exclude: Sequence[Mapping[str, Any]] | None = (),
    fit_mode: str = "crop",
    focus: tuple[float, float] = (0.5, 0.5),
    border: str = "blur",
    results: str | Path | None = None,
    forecast: bool = True,
    gpu: str | None = None,
    records: Any = None,
    hourly_price: float | None = None,
    currency: str = "USD",
) -> Plan:
    """Check a sweep and put it in order; nothing is loaded and nothing is written.

    Args:
        photos: One photo or a list, each as ``svdkit.read_image`` takes it; or give the axis ``"photo"``.
        clip: Settings that all runs share. A seed left open is 0, so that starting again continues.
        load: What is loaded for all runs.
        axes: Name -> values to try: fields of ``ClipSettings`` (``seed`` among them) and ``LoadSettings``, or "photo".
        mode: ``"grid"``: every combination; ``"list"``: the first values together, then the second ones, for each
            photo; ``"random"``: ``count`` different points of the grid.
        count: Points to draw, 1 or more; for ``"random"`` only.
        seed: Of the drawing of ``"random"``, 0 when left out; for that alone.
        exclude: Rules such as ``{"dtype": "fp32", "num_frames": [14, 25]}``: a run that fits all of one is left out.
        fit_mode: As in ``svdkit.generate``; also ``focus`` and ``border``.
        focus: See ``fit_mode``.
        border: See ``fit_mode``.
        results: Results folder, kept for ``run_sweep``.
        forecast: Whether to forecast time, memory and money.
        gpu: The GPU to forecast for; None for this machine's own.
        records: Own measurements to calibrate the forecast from, as ``svdkit.forecast`` takes them.
        hourly_price: Of a worker's machine, in ``currency``, for the cost.
        currency: ISO 4217 code.

    Returns:
        The plan; print it, then give it to ``run_sweep``.

    Raises:
        SettingsError: Unknown names, bad values, photos that cannot be read, combinations that cannot work or do not
            fit the GPU, or no run at all; all problems are listed at once.

    Example:
        >>> plan = plan_sweep(["rocket", "cat"], axes={"seed": [1, 2, 3]}, forecast=False)
        >>> len(plan.jobs), plan.distinct["encode"]
        (6, 6)
    """
    given: dict[str, Any] = {"mode": mode, "count": count, "seed": seed, "results": results, "forecast": forecast}
    options, problems = _Options.judge(given | {"hourly_price": hourly_price, "currency": currency})
    problems += _misplaced(options, given)
    if not isinstance(axes, Mapping | None):
        problems.append(f"axes is {shown(axes)}: it must be names and lists of values, such as {{'seed': [1, 2]}}")
    axes = {name: listed(values) for name, values in axes.items()} if isinstance(axes, Mapping) else {}
    photos = _photos(photos)
    if "photo" in axes:
        problems += ["photos are given twice, as photos and as an axis; give one"] if photos else []
        photos = _photos(axes.pop("photo"))
    names = _names(photos)
    problems += [] if photos else ["there is no photo; give a file, or a sample such as 'rocket'"]
    exclude = () if exclude is None else exclude
    how: dict[str, Any] = {name: options.get(name) for name in ("mode", "count", "seed")}
    points, wrong = expand({"photo": names, **axes}, **how, exclude=exclude, known=AXES, judge=judge_value)
    fixed: dict[str, Any] = {"load": LoadSettings.read(load, problems), "clip": ClipSettings.read(clip, problems)}
    how = {"mode": fit_mode, "focus": focus, "border": border}
    sources = dict(zip(names, photos, strict=True)) if len(photos) <= MOST else {}  # too many to be read, and refused
    jobs, misfits = make_jobs(points, photos=sources, fixed=fixed, how=how)
    problems += [*wrong, *misfits, *_without_effect(jobs)]
    estimate = None
    if forecast and not problems:
        money = {name: options[name] for name in ("hourly_price", "currency")}
        estimate, problems = _estimate_sweep(jobs, gpu=gpu, records=records, **money)
    if problems:
        raise SettingsError.of("sweep", problems)
    asked: dict[str, Any] = {"photos": names, "axes": _public(axes), "mode": mode, "count": options["count"]}
    asked |= {"seed": options["seed"] or 0, "exclude": [_public(rule) for rule in exclude]}
    asked |= {"clip": fixed["clip"].to_dict(), "load": _public(fixed["load"].to_dict())}
    frame = jobs[0].frame
    asked |= {"fit_mode": frame.mode, "focus": list(frame.focus), "border": frame.border}
    rest = {name: options[name] for name in ("results", "hourly_price", "currency")}
    return Plan(jobs=tuple(jobs), asked=asked, **rest, estimate=estimate)


def read_sweep(path: str | Path) -> dict[str, Any]:
    """Read a sweep file, YAML or JSON: the arguments of ``plan_sweep`` by name.

    Raises:
        SettingsError: It cannot be read, or has names that are not arguments.

    Example:
        >>> plan = plan_sweep(**read_sweep("motion.yaml"), forecast=False)
    """
    path, takes = user_path(path), inspect.signature(plan_sweep).parameters
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors begin a file with a mark
        values, problems = read_values(text, is_json=path.suffix.lower() == ".json")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"{path.name} cannot be read as a sweep: {reason}; write YAML or JSON") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path.name} is no sweep: it needs names and values, such as photos: [rocket]")
    for name in values:
        if name not in takes:
            guess = nearest(name, takes)
            hint = f"did you mean {guess}?" if guess else f"the names are {', '.join(takes)}"
            problems.append(f"{bare(name)} is not a name here; {hint}")
        elif values[name] is None and takes[name].default not in (None, ()):
            problems.append(f"{name} has no value: leave it out, or write it in quotes if it begins with #")
    if problems:
        known = {name: value for name, value in values.items() if name in takes and value is not None}
        try:
            plan_sweep(**known | {"forecast": False})
        except SettingsError as error:
            problems += error.problems
        raise SettingsError.of(path.name, problems)
    return values


def _misplaced(options: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Say what is given without effect, or missing, in a mode; what is wrong by itself has been said."""
    mode, count, seed = options.get("mode"), given["count"], options.get("seed")
    problems = []
    if mode == "random" and count is None:
        problems.append("count=None: must be a whole number from 1 when mode is 'random'")
    if mode != "random" and count is not None:
        problems.append(f"count={shown(count)} is for mode 'random' only; leave it out")
    if mode != "random" and seed is not None:
        problems.append(f"seed={seed} is for mode 'random' only; for clips write it under clip, or as an axis")
    return problems


def _without_effect(jobs: Sequence[Job]) -> list[str]:
    """Say which settings of the fit do nothing in its mode."""
    frame = jobs[0].frame if jobs else None
    problems = []
    if frame and frame.mode != "pad" and frame.border != "blur":
        problems.append(f"border={shown(frame.border)} is for fit_mode 'pad' only; leave it out")
    if frame and frame.mode != "crop" and frame.focus != (0.5, 0.5):
        problems.append(f"focus={shown(frame.focus)} is for fit_mode 'crop' only; leave it out")
    return problems


def _photos(photos: Any) -> list[Any]:
    is_one = isinstance(photos, str | bytes | Path) or hasattr(photos, "size") or hasattr(photos, "read")
    try:
        return [photos] if is_one or not isinstance(photos, Iterable) else [*islice(photos, MOST + 1)]
    except Exception:  # noqa: BLE001 - an unknown object's own; reading it will say what it is
        return [photos]


def _names(photos: Sequence[Any]) -> list[str]:
    """Name photos in axes, rules and records: by the file's name, never its folder; of equal names the later count."""
    names: dict[str, None] = {}
    for position, photo in enumerate(photos, start=1):
        known = photo if isinstance(photo, str | Path) else getattr(photo, "filename", None)
        name = _last_name(known) if isinstance(known, str | Path) else ""
        name = name or f"photo {position}"
        names[f"{name} ({position})" if name in names else name] = None
    return list(names)


def _last_name(known: str | Path) -> str:
    with suppress(ValueError):  # of an address that is none
        if isinstance(known, str) and "://" in known:  # what follows the path may be a signature
            known = unquote(urlsplit(known).path)
    return Path(known).name


def _public(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain JSON, with paths of models shortened to their last name: a results folder is made to be shared."""

    def plain(name: str, value: Any) -> Any:
        value = judge_value(name, value)[0]
        is_folder = isinstance(value, str) and os.path.isdir(user_path(value))  # noqa: PTH112 - takes any text
        return Path(value).name if is_folder else value

    return {
        name: [plain(name, each) for each in value] if isinstance(value, list | tuple) else plain(name, value)
        for name, value in ((name, listed(value)) for name, value in values.items())
    }


# Which stages of a forecast are run again when a job's key of that name is new.
_PARTS = {
    "load": ("load",),
    "encode": ("image_encoder", "vae_encode", "encode"),
    "denoise": ("unet", "scheduler", "denoise"),
    "decode": ("vae_decode", "decode", "postprocess"),
}
_EACH = ("export", "unattributed")
# What changes neither time nor memory; one forecast serves all its values.
_SAME = {"seed": 0, "motion_bucket_id": 127, "fps": 7, "playback_fps": 7.0, "noise_aug_strength": 0.02}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The forecast of a whole sweep on one worker.

    Attributes:
        seconds: Of all distinct stages together; None where there is nothing to calibrate from.
        alone_seconds: If every run did all of its stages itself.
        cost: Money in ``currency``, or None.
        currency: ISO 4217 code.
        gpu: Name of the GPU, or of what computes instead.
        source: Where the calibration comes from.
        each: What is forecast for each run by itself, as its record keeps it; empty where a run has no forecast.
    """

    seconds: float | None
    alone_seconds: float | None
    cost: float | None
    currency: str
    gpu: str
    source: str
    each: tuple[Mapping[str, Any], ...] = ()

    def __str__(self) -> str:
        if self.seconds is None or self.alone_seconds is None:
            return f"forecast: no time for {self.gpu}: {self.source}"
        money = "" if self.cost is None else f", {format_money(self.cost, self.currency)}"
        alone = f"(one by one about {format_seconds(self.alone_seconds)})"
        return f"forecast: about {format_seconds(self.seconds)}{money} on one {self.gpu} {alone}; {self.source}"


def _estimate_sweep(
    jobs: Sequence[Job], *, gpu: str | None, hourly_price: float | None, currency: str, records: Any = None
) -> tuple[Estimate, list[str]]:
    """Forecast every distinct kind of run, and add up; also a sentence for each kind that cannot work."""
    from svdkit.forecast import forecast

    known: dict[object, Any] = {}
    problems: list[str] = []
    seen: set[object] = set()
    once, alone = 0.0, 0.0
    found: Any = None
    each: list[Mapping[str, Any]] = []
    for job in jobs:
        kind = (job.load, job.clip.replace(**_SAME))
        if kind not in known:
            how: dict[str, Any] = {"gpu": gpu, "clip": kind[1], "load": job.load, "records": records}
            known[kind] = _try(lambda how=how: forecast(job.load.model, **how), problems)  # noqa: B023
            problems += _misfit(known[kind], job)
        found = known[kind] or found
        each.append(known[kind].brief() if known[kind] else {})
        if known[kind] is None:
            once = alone = math.nan
            continue
        seconds = known[kind].stage_seconds
        alone += sum(seconds.values()) if known[kind].seconds is not None else math.nan
        once += _new_seconds(job, seconds, seen) if known[kind].seconds is not None else math.nan
    problems = list(dict.fromkeys(problems))
    if found is None:
        why = "networks that are neither SVD's nor micro's have no forecast"
        none = dict.fromkeys(("seconds", "alone_seconds", "cost"))
        return Estimate(**none, currency=currency, gpu=gpu or "this machine", source=why, each=tuple(each)), problems
    usable = math.isfinite(once)
    cost = once / 3600 * hourly_price if usable and hourly_price is not None else None
    total, by_itself = (once, alone) if usable else (None, None)
    told: dict[str, Any] = {"cost": cost, "currency": currency, "gpu": str(found.gpu), "source": str(found.source)}
    return Estimate(seconds=total, alone_seconds=by_itself, each=tuple(each), **told), problems


def _new_seconds(job: Job, seconds: Mapping[str, float], seen: set[object]) -> float:
    """Add up the stages of a job that no job before it has done."""
    total = sum(seconds.get(part, 0.0) for part in _EACH)
    for stage, parts in _PARTS.items():
        if job.keys[stage] not in seen:
            seen.add(job.keys[stage])
            total += sum(seconds.get(part, 0.0) for part in parts)
    return total


def _try(action: Any, problems: list[str]) -> Any:
    try:
        return action()
    except NotCountedError:
        return None  # such a model can run all the same
    except (SvdkitError, PipelineError) as error:
        problems += getattr(error, "problems", (str(error),))
        return None


def _misfit(found: Any, job: Job) -> list[str]:
    if found is None or found.fits is not False:
        return []
    clip, load = job.clip, job.load
    what = f"height={clip.height}, width={clip.width}, num_frames={clip.num_frames}, dtype={load.dtype!r}, "
    what += f"memory={load.memory!r}, decode_chunk_size={clip.decode_chunk_size}"
    has = f" of {format_bytes(found.gpu_bytes)}" if found.gpu_bytes else ""
    needs = f"needs {format_bytes(found.memory_bytes)}, more than {found.gpu}{has} has free"
    return [f"{what}: {needs}; {found.advice[0]}; or exclude it"]
