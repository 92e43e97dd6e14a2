"""What a sweep is: photos × fixed settings × axes, checked and put in order before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.errors import ImageError, ModelError, SettingsError
from svdkit.generate.keys import StageKey, stage_key
from svdkit.image import Frame, fit, read_image
from svdkit.models import find_model
from svdkit.settings import ClipSettings, LoadSettings
from svdkit.settings.base import shown
from svdkit.sweep.grid import Point, expand
from svdkit.units import format_count

if TYPE_CHECKING:
    from svdkit.sweep.estimate import Estimate

STAGES = ("encode", "denoise", "decode")
_LOAD = tuple(item.name for item in fields(LoadSettings))
_CLIP = tuple(item.name for item in fields(ClipSettings))
AXES = ("photo", *_CLIP, *_LOAD)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a sweep: what to load, the fitted photo, and resolved settings, so that nothing is left open."""

    load: LoadSettings
    clip: ClipSettings
    frame: Frame

    def key(self, stage: str) -> StageKey:
        """Say what a stage's output depends on: jobs with equal keys share it."""
        model = json.dumps(self.load.to_dict())
        return stage_key(stage, self.clip, image_sha256=self.frame.sha256, model=model)

    @cached_property
    def keys(self) -> dict[str, object]:
        """The keys of all stages by name, with ``"load"`` first."""
        return {"load": self.load, **{stage: self.key(stage) for stage in STAGES}}


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


def plan_sweep(
    photos: Any = (),
    *,
    clip: ClipSettings | Mapping[str, Any] | None = None,
    load: LoadSettings | Mapping[str, Any] | None = None,
    axes: Mapping[str, Sequence[Any]] | None = None,
    mode: str = "grid",
    count: int | None = None,
    seed: int = 0,
    exclude: Sequence[Mapping[str, Any]] = (),
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
        seed: Of the drawing of ``"random"``.
        exclude: Rules such as ``{"dtype": "fp32", "num_frames": [14, 25]}``: a run that fits all of one is left out.
        fit_mode: As in ``svdkit.generate``; also ``focus`` and ``border``.
        focus: See ``fit_mode``.
        border: See ``fit_mode``.
        results: Results folder, kept for ``run_sweep``.
        forecast: Whether to forecast time, memory and money; it imports torch and takes seconds.
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
    problems: list[str] = []
    if not isinstance(axes, Mapping | None):
        problems.append(f"axes is {shown(axes)}: it must be names and lists of values, such as {{'seed': [1, 2]}}")
    if hourly_price is not None and not isinstance(hourly_price, int | float):
        problems.append(f"hourly_price={shown(hourly_price)}: must be a number, in {currency} an hour")
    axes = dict(axes) if isinstance(axes, Mapping) else {}
    photos = _listed(photos)
    if "photo" in axes:
        problems += ["photos are given twice, as photos and as an axis; give one"] if photos else []
        photos = _listed(axes.pop("photo"))
    names = _names(photos)
    problems += [] if photos else ["there is no photo; give a file, or a sample such as 'rocket'"]
    points, wrong = expand({"photo": names, **axes}, mode=mode, count=count, seed=seed, exclude=exclude, known=AXES)
    fixed = {"load": _fixed(LoadSettings, load, problems), "clip": _fixed(ClipSettings, clip, problems)}
    maker = _Maker(dict(zip(names, photos, strict=True)), fixed, {"mode": fit_mode, "focus": focus, "border": border})
    jobs = _ordered(maker.make(points)) if not wrong else []
    problems += [*wrong, *dict.fromkeys(maker.problems)]
    estimate = None
    if forecast and not problems:
        from svdkit.sweep.estimate import estimate_sweep

        estimate, problems = estimate_sweep(
            jobs, gpu=gpu, hourly_price=hourly_price, currency=currency, records=records
        )
    if problems:
        raise SettingsError.of("sweep", problems)
    asked: dict[str, Any] = {"photos": names, "axes": _public(axes), "mode": mode, "count": count, "seed": seed}
    asked |= {"exclude": [_public(rule) for rule in exclude], "clip": fixed["clip"].to_dict()}
    asked |= {"load": _public(fixed["load"].to_dict()), "fit_mode": fit_mode, "focus": list(focus), "border": border}
    money: dict[str, Any] = {"hourly_price": hourly_price, "currency": currency}
    place = None if results is None else str(results)
    return Plan(jobs=tuple(jobs), asked=asked, results=place, **money, estimate=estimate)


def read_sweep(path: str | Path) -> dict[str, Any]:
    """Read a sweep file, YAML or JSON: the arguments of ``plan_sweep`` by name.

    Raises:
        SettingsError: It cannot be read, or has names that are not arguments.

    Example:
        >>> plan = plan_sweep(**read_sweep("motion.yaml"))  # doctest: +SKIP
    """
    import yaml

    path, allowed = Path(path), tuple(name for name in plan_sweep.__annotations__ if name != "return")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML too
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise SettingsError(f"{path.name} cannot be read as a sweep: {reason}; write YAML or JSON") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path.name} is no sweep: it needs names and values, such as photos: [rocket]")
    unknown = [f"{str(name)[:60]} is not a name here" for name in values if name not in allowed]
    if unknown:
        raise SettingsError.of(path.name, [*unknown, f"the names are {', '.join(allowed)}"])
    return values


class _Maker:
    """Turns points into jobs; reads each photo once, fits it once a size, and gathers problems instead of stopping."""

    def __init__(self, photos: Mapping[str, Any], fixed: Mapping[str, Any], how: Mapping[str, Any]) -> None:
        self.problems: list[str] = []
        self._fixed, self._how = fixed, how
        self._images = {name: self._try(partial(read_image, photo)) for name, photo in photos.items()}
        self._frames: dict[object, Frame | None] = {}
        self._models: dict[str, Any] = {}

    def make(self, points: Iterable[Point]) -> list[Job]:
        made = (self._try(partial(self._job, point)) for point in points)
        return [job for job in made if job is not None]

    def _try(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except SettingsError as error:
            self.problems += error.problems
        except (ImageError, ModelError) as error:
            self.problems.append(str(error))
        return None

    def _job(self, point: Point) -> Job | None:
        def settings(kind: str, names: tuple[str, ...]) -> Any:
            return self._fixed[kind].replace(**{name: value for name, value in point.items() if name in names})

        load, clip = self._try(lambda: settings("load", _LOAD)), self._try(lambda: settings("clip", _CLIP))
        if load is None or clip is None:
            return None
        if load.model not in self._models:
            self._models[load.model] = self._try(lambda: find_model(load.model))
        info = self._models[load.model]
        if info is None:
            return None
        own = {"num_frames": info.num_frames, "max_guidance_scale": info.max_guidance_scale, "seed": 0}
        clip = clip.resolve(height=info.height, width=info.width, **own)
        frame = self._frame(point["photo"], height=clip.height, width=clip.width)
        return None if frame is None else Job(load=load, clip=clip, frame=frame)

    def _frame(self, name: str, *, height: int, width: int) -> Frame | None:
        image = self._images[name]
        if image is not None and (name, height, width) not in self._frames:
            fitted = self._try(lambda: fit(image, height=height, width=width, **self._how))
            self._frames[name, height, width] = fitted
        return self._frames.get((name, height, width))


def _ordered(jobs: Iterable[Job]) -> list[Job]:
    """Put what can share a stage together, else in the order given; of equal jobs one is left."""
    seen: dict[object, int] = {}

    def rank(job: Job) -> tuple[int, ...]:
        by_photo = (job.load, job.frame.sha256)  # so that CLIP sees each photo once, whatever the seeds
        keys = [job.load, by_photo, *(job.keys[stage] for stage in STAGES), job.clip]
        return tuple(seen.setdefault(key, len(seen)) for key in keys)

    return [job for _, job in sorted({rank(job): job for job in jobs}.items())]


def _fixed(kind: Any, given: Any, problems: list[str]) -> Any:
    """Build the fixed settings; defaults stand in for wrong ones, so that all other problems are found too."""
    try:
        return given if isinstance(given, kind) else kind.from_dict(given or {})
    except SettingsError as error:
        problems += error.problems
        return kind()


def _listed(photos: Any) -> list[Any]:
    is_one = isinstance(photos, str | bytes | Path) or hasattr(photos, "size") or hasattr(photos, "read")
    return [photos] if is_one or not isinstance(photos, Iterable) else list(photos)


def _names(photos: Sequence[Any]) -> list[str]:
    """Name photos in axes, rules and records: by the file's name, never its folder; of equal names the later count."""
    names: list[str] = []
    for position, photo in enumerate(photos, start=1):
        known = photo if isinstance(photo, str | Path) else getattr(photo, "filename", None)
        name = Path(known or f"photo {position}").name
        names.append(f"{name} ({position})" if name in names else name)
    return names


def _public(values: Mapping[str, Any]) -> dict[str, Any]:
    """Shorten paths of models to their last name: a results folder is made to be shared."""

    def name(value: Any) -> Any:
        return Path(value).name if isinstance(value, str | Path) and Path(value).expanduser().is_dir() else value

    return {
        key: [name(each) for each in value] if key == "model" and isinstance(value, list | tuple) else name(value)
        for key, value in values.items()
    }
