"""The runs of a sweep: axes become points, less what is excluded, and those resolved settings with fitted photos."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

from svdkit.bench.record import Record, now
from svdkit.environment import machine
from svdkit.errors import SvdkitError, shown
from svdkit.generate.stages import stage_key
from svdkit.given import bare
from svdkit.image import Frame, fit, read_image
from svdkit.models import find_model
from svdkit.settings import ClipSettings, LoadSettings
from svdkit.settings.base import nearest

MODES = ("grid", "list", "random")
MOST = 100_000  # points that are looked at; one photo at 1 s a clip would take a day
STAGES = ("encode", "denoise", "decode")
AXES = ("photo", *ClipSettings.__dataclass_fields__, *LoadSettings.__dataclass_fields__)
_Values = dict[str, list[Any]]
_Point = dict[str, Any]
_WRONG = object()  # stands for a value that is none of its name, so that the others are judged too


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a sweep, from its plan to its record: what to load, the fitted photo, settings with nothing open.

    Attributes:
        load: What to load.
        clip: Resolved settings.
        frame: The fitted photo.
        forecast: What its record keeps of the forecast.
        id: As ``run_id`` gives it; empty in a plan, as all below, since only weights that are here can be told apart.
        model: Name, revision and kind of the weights.
        position: In the plan, from 0.
        options: "quality", "scale", "command", "hourly_price", "currency" of ``run_sweep``.
    """

    load: LoadSettings
    clip: ClipSettings
    frame: Frame
    forecast: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)
    position: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def keys(self) -> dict[str, object]:
        """What each stage's output depends on, by name, with ``"load"`` first: jobs with equal keys share it."""
        same = {"image_sha256": self.frame.sha256, "model": json.dumps(self.load.to_dict())}
        return {"load": self.load, **{stage: stage_key(stage, self.clip, **same) for stage in STAGES}}

    def record(self, **ended: Any) -> Record:
        """Make the row of the run, with how it ended."""
        values = {name: getattr(self, name) for name in ("id", "model", "forecast")}
        values |= {"load": {**self.load.to_dict(), "model": self.model["name"]}, "clip": self.clip.to_dict()}
        values |= {"image": self.frame.to_dict(), "environment": machine(self.load.device), "started_at": now()}
        return Record(**{**values, "command": self.options["command"], **ended})


def expand(
    axes: Mapping[str, Any], exclude: Any, *, mode: str | None, count: int | None, seed: int | None, problems: list[str]
) -> tuple[list[_Point], _Values, list[_Values]]:
    """Give the points of a sweep, its axes and its rules as plain Python; add a sentence for each thing wrong."""
    wrong = [*_name_problems(axes, exclude)] or [*_size_problems(axes, mode=mode)]
    if wrong:
        problems += wrong
        return [], {}, []
    axes = {name: _judged(name, values, wrong) for name, values in axes.items()}
    rules = [{name: _judged(name, _listed_values(value), wrong) for name, value in rule.items()} for rule in exclude]
    photos, *others = axes.values()
    rows = zip(*others, strict=True) if mode == "list" and others else itertools.product(*others)
    points = [dict(zip(axes, (photo, *row), strict=True)) for photo, row in itertools.product(photos, rows)]
    points = [point for point in points if _WRONG not in point.values()]
    if points and not wrong:
        idle = (shown(dict(asked)) for asked, rule in zip(exclude, rules, strict=True) if not any(_fit(points, rule)))
        wrong += [f"exclude {asked} fits no run; look at its values" for asked in idle]
        points = [
            point for point, *out in zip(points, *(_fit(points, rule) for rule in rules), strict=True) if not any(out)
        ]
        wrong += [] if points or wrong else ["no run is left: every point is excluded, or an axis is empty"]
    if mode == "random" and count is not None:
        points = random.Random(seed or 0).sample(points, min(count, len(points)))  # noqa: S311 - no secret
    problems += wrong
    return points, axes, rules


def listed(values: Any) -> Any:
    """Give an array, a column or a range as a list; all else as it is."""
    if isinstance(values, range):
        return list(values[: MOST + 1])
    found = values.tolist() if hasattr(values, "tolist") else values
    return found if isinstance(found, list) else values


def _listed_values(value: Any) -> Sequence[Any]:
    value = listed(value)
    return value if isinstance(value, list | tuple) else [value]


def _judged(name: str, values: Iterable[Any], problems: list[str]) -> list[Any]:
    """Give values of an axis or a rule as plain Python, and _WRONG for what is none."""
    found = []
    for value in values:
        clean: dict[str, Any] = {name: value}
        wrong: list[str] = []
        if name != "photo":
            kind = LoadSettings if name in LoadSettings.__dataclass_fields__ else ClipSettings
            clean, wrong = kind.judge(clean)
        elif not isinstance(value, str):
            wrong = [f"photo={shown(value)}: must be the name of a photo"]
        problems += wrong
        found.append(_WRONG if wrong else clean[name])
    return found


def _fit(points: Iterable[_Point], rule: _Values) -> list[bool]:
    return [all(point[name] in values for name, values in rule.items()) for point in points]


def _name_problems(axes: Mapping[str, Any], exclude: Any) -> Iterator[str]:
    for name, values in axes.items():
        if name not in AXES:
            yield f"{bare(name)} is no name of a setting for an axis; {hint(name, AXES)}"
        if not isinstance(values, list | tuple):
            several = isinstance(values, Iterable) and not isinstance(values, str | bytes)
            advice = "write its values as a list" if several else f"write [{shown(values)}]"
            yield f"{bare(name)}: an axis is a list of values, not {shown(values)}; {advice}"
    if not isinstance(exclude, list | tuple):  # files are not typed
        yield f"exclude is {shown(exclude)}: it must be a list of rules, such as [{{'fps': [6, 7]}}]"
        return
    for rule in exclude:
        if not isinstance(rule, Mapping) or not rule:
            yield f"exclude has {shown(rule)}: a rule is names and values, such as {{'fps': [6, 7]}}"
            continue
        for name in (name for name in rule if name not in axes):
            what = "axis here" if name in AXES else f"name of a setting for a rule; {hint(name, AXES)}"
            yield f"exclude: {bare(name)} is no {what}"


def _size_problems(axes: Mapping[str, Sequence[Any]], *, mode: str | None) -> Iterator[str]:
    sizes = {name: len(values) for name, values in axes.items() if name != "photo"}
    if mode == "list" and len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        yield f"mode 'list' takes values together: axes need one length, not {told}"
    total = len(axes["photo"]) * (max(sizes.values(), default=1) if mode == "list" else math.prod(sizes.values()))
    if total > MOST:
        yield f"the grid has {total:,} points, more than {MOST:,}; give fewer values"
    for name, size in sizes.items():
        if not size:
            yield f"{name}: this axis is empty, so the grid is; give values, or leave it out"


def hint(name: object, known: Iterable[str]) -> str:
    """Say which of the known names was probably meant, else all of them."""
    guess = nearest(name, known)
    return f"did you mean {guess}?" if guess else f"the names are {', '.join(known)}"


def attempt(problems: list[str], action: Callable[..., Any], *given: Any, **how: Any) -> Any:
    """Call; where that is an error of ours, add what it says to the problems and give None."""
    try:
        return action(*given, **how)
    except SvdkitError as error:
        problems += getattr(error, "problems", (str(error),))
        return None


def make_jobs(
    points: Iterable[_Point],
    *,
    photos: Mapping[str, Any],
    load: LoadSettings,
    clip: ClipSettings,
    how: Mapping[str, Any],
    problems: list[str],
) -> list[Job]:
    """Make the distinct jobs of points: what can share a stage stands together, else it is the order given.

    Each photo is read once, and fitted once a size.
    """
    images = {name: attempt(problems, read_image, photo) for name, photo in photos.items()}
    model = cache(lambda name: attempt(problems, find_model, name))

    @cache
    def frame(name: str, height: int, width: int) -> Frame | None:
        image = images[name]
        fitted = None if image is None else attempt(problems, fit, image, height=height, width=width, **how)
        # Its name in records, tables and the report too: two folders may each have a cat.jpg.
        return fitted and replace(fitted, source=fitted.source and name)

    def changed(settings: Any, point: _Point) -> Any:
        mine = {name: value for name, value in point.items() if name in settings.__dataclass_fields__}
        return attempt(problems, settings.replace, **mine)

    def job(point: _Point) -> Job | None:
        found, settings = changed(load, point), changed(clip, point)
        info = found and model(found.model)
        if info is None or settings is None:
            return None
        settings = settings.resolve(**info.clip_defaults, seed=0)
        fitted = frame(point["photo"], settings.height, settings.width)
        return None if fitted is None else Job(load=found, clip=settings, frame=fitted)

    seen: dict[object, int] = {}

    def rank(job: Job) -> tuple[int, ...]:
        by_photo = (job.load, job.frame.sha256)  # so that CLIP sees each photo once, whatever the seeds
        keys = [job.load, by_photo, *(job.keys[stage] for stage in STAGES), job.clip]
        return tuple(seen.setdefault(key, len(seen)) for key in keys)

    made = (attempt(problems, job, point) for point in points)
    return [job for _, job in sorted({rank(job): job for job in made if job is not None}.items())]
