"""What a sweep is and what it will take: photos × fixed settings × axes, all checked before anything is loaded."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from svdkit.errors import SettingsError, shown
from svdkit.forecast.predict import Price
from svdkit.given import bare, read_values, user_path
from svdkit.models.costs import NotCountedError
from svdkit.settings import ClipSettings, LoadSettings
from svdkit.settings.base import FLAG, choice, number, setting, text
from svdkit.sweep.points import MODES, MOST, STAGES, Job, attempt, expand, hint, listed, make_jobs
from svdkit.units import format_bytes, format_count, format_money, format_seconds

if TYPE_CHECKING:
    from svdkit.image import Frame


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
        lines = f"{size}\nshared work: {shared}; one by one it would be {len(self.jobs):,} of each"
        return f"{lines}\n{self.estimate}" if self.estimate else lines


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
    arguments = dict(locals())  # first, while these are the only names here
    given = {name: arguments[name] for name in _Options.__dataclass_fields__}
    options, problems = _Options.judge(given)
    if not isinstance(axes, Mapping | None):
        problems.append(f"axes is {shown(axes)}: it must be names and lists of values, such as {{'seed': [1, 2]}}")
    axes = {name: listed(values) for name, values in axes.items()} if isinstance(axes, Mapping) else {}
    photos = _photos(photos)
    if "photo" in axes:
        problems += ["photos are given twice, as photos and as an axis; give one"] if photos else []
        photos = _photos(axes.pop("photo"))
    problems += [] if photos else ["there is no photo; give a file, or a sample such as 'rocket'"]
    names = _names(photos)
    how: dict[str, Any] = {name: options.get(name) for name in ("mode", "count", "seed")}
    points, axes, rules = expand({"photo": names, **axes}, () if exclude is None else exclude, how, problems)
    kinds: dict[str, Any] = {"load": LoadSettings.read(load, problems), "clip": ClipSettings.read(clip, problems)}
    sources = dict(zip(names, photos, strict=True)) if len(photos) <= MOST else {}  # too many to be read, and refused
    fitted = {"mode": fit_mode, "focus": focus, "border": border}
    jobs = make_jobs(points, photos=sources, kinds=kinds, how=fitted, problems=problems)
    problems += _without_effect(jobs[0].frame if jobs else None, mode=how["mode"], count=count, seed=seed)
    money: dict[str, Any] = {name: options.get(name) for name in ("hourly_price", "currency")}
    estimate = None
    if forecast and not problems:
        jobs, estimate = _estimate(jobs, gpu=gpu, records=records, **money, problems=problems)
    if problems:
        raise SettingsError.of("sweep", list(dict.fromkeys(problems)))
    del axes["photo"]
    for named in (axes, *rules):
        named.update({"model": [*map(_last_name, named["model"])]} if "model" in named else {})
    frame = jobs[0].frame
    asked = {"photos": names, "axes": axes, **how, "seed": options["seed"] or 0, "exclude": rules}
    asked |= {name: kind.to_dict() for name, kind in kinds.items()}
    asked["load"]["model"] = _last_name(kinds["load"].model)
    asked |= {"fit_mode": frame.mode, "focus": list(frame.focus), "border": frame.border}
    return Plan(jobs=tuple(jobs), asked=asked, results=options["results"], **money, estimate=estimate)


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
            problems.append(f"{bare(name)} is not a name here; {hint(name, takes)}")
        elif values[name] is None and takes[name].default not in (None, ()):
            problems.append(f"{name} has no value: leave it out, or write it in quotes if it begins with #")
    if problems:
        known = {name: value for name, value in values.items() if name in takes and value is not None}
        attempt(problems, plan_sweep, **known | {"forecast": False})
        raise SettingsError.of(path.name, problems)
    return values


def _without_effect(frame: Frame | None, *, mode: str | None, count: Any, seed: Any) -> list[str]:
    """Say what is given without effect, or missing, in a mode; what is wrong by itself has been said."""
    is_random = mode == "random"
    cases = {
        "count=None: must be a whole number from 1 when mode is 'random'": is_random and count is None,
        f"count={shown(count)} is for mode 'random' only; leave it out": not (is_random or count is None),
        f"seed={shown(seed)} is for mode 'random' only; for clips write it under clip, or as an axis": not is_random
        and seed is not None,
    }
    for name, usual, of in (("border", "blur", "pad"), ("focus", (0.5, 0.5), "crop")):
        value = getattr(frame, name, usual)
        text = f"{name}={shown(value)} is for fit_mode {of!r} only; leave it out"
        cases[text] = value != usual and frame is not None and frame.mode != of
    return [text for text, is_so in cases.items() if is_so]


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
        known, name = photo if isinstance(photo, str | Path) else getattr(photo, "filename", None), ""
        if isinstance(known, str | Path):
            with suppress(ValueError):  # of an address that is none; what follows the path may be a signature
                name = Path(unquote(urlsplit(str(known)).path) if "://" in str(known) else known).name
        name = name or f"photo {position}"
        names[f"{name} ({position})" if name in names else name] = None
    return list(names)


def _last_name(model: str) -> str:
    """Shorten a model's folder: what was asked is kept in a results folder, which is made to be shared."""
    return Path(model).name if os.path.isdir(user_path(model)) else model  # noqa: PTH112 - takes any text


_STAGES = {  # of a forecast, and the key of a job that they belong to; the others are each run's own
    "load": "load",
    **dict.fromkeys(("image_encoder", "vae_encode", "encode"), "encode"),
    **dict.fromkeys(("unet", "scheduler", "denoise"), "denoise"),
    **dict.fromkeys(("vae_decode", "decode", "postprocess"), "decode"),
}
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
    """

    seconds: float | None
    alone_seconds: float | None
    cost: float | None
    currency: str
    gpu: str
    source: str

    def __str__(self) -> str:
        if self.seconds is None or self.alone_seconds is None:
            return f"forecast: no time for {self.gpu}: {self.source}"
        money = "" if self.cost is None else f", {format_money(self.cost, self.currency)}"
        alone = f"(one by one about {format_seconds(self.alone_seconds)})"
        return f"forecast: about {format_seconds(self.seconds)}{money} on one {self.gpu} {alone}; {self.source}"


def _estimate(
    jobs: Sequence[Job],
    *,
    gpu: str | None,
    records: Any,
    hourly_price: float | None,
    currency: str,
    problems: list[str],
) -> tuple[list[Job], Estimate]:
    """Forecast every distinct kind of run, give each run its own, and add up; say which kinds cannot work."""
    from svdkit.forecast import forecast

    def forecast_of(load: LoadSettings, clip: ClipSettings) -> Any:
        with suppress(NotCountedError):  # such a model can run all the same
            found = forecast(load.model, gpu=gpu, clip=clip, load=load, records=records)
            problems.extend([_misfit(found, load, clip)] if found.fits is False else [])
            return found

    kind = cache(lambda *settings: attempt(problems, forecast_of, *settings))
    found = [kind(job.load, job.clip.replace(**_SAME)) for job in jobs]
    paid: dict[object, float] = {}  # once by a part and what it depends on
    for position, (job, one) in enumerate(zip(jobs, found, strict=True)):
        for part, seconds in (one.stage_seconds if one else {}).items():
            paid[part, job.keys.get(_STAGES.get(part, ""), position)] = seconds
    once = sum(paid.values()) if all(one and one.seconds for one in found) else None
    told = next(filter(None, found), None)
    estimate = Estimate(
        seconds=once,
        alone_seconds=None if once is None else sum(one.seconds for one in found),
        cost=None if once is None or hourly_price is None else once / 3600 * hourly_price,
        currency=currency,
        gpu=told.gpu if told else gpu or "this machine",
        source=told.source if told else "networks that are neither SVD's nor micro's have no forecast",
    )
    return [replace(job, forecast=one.brief() if one else {}) for job, one in zip(jobs, found, strict=True)], estimate


def _misfit(found: Any, load: LoadSettings, clip: ClipSettings) -> str:
    what = f"height={clip.height}, width={clip.width}, num_frames={clip.num_frames}, dtype={load.dtype!r}, "
    what += f"memory={load.memory!r}, decode_chunk_size={clip.decode_chunk_size}"
    has = f" of {format_bytes(found.gpu_bytes)}" if found.gpu_bytes else ""
    needs = f"needs {format_bytes(found.memory_bytes)}, more than {found.gpu}{has} has free"
    return f"{what}: {needs}; {found.advice[0]}; or exclude it"
