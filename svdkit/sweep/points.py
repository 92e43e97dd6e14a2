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
        id: As ``run_id`` gives it; not in a plan, as all below, since only weights that are here can be told apart.
        model: Name, revision and kind of the weights.
        position: In the plan, from 0.
        options: "quality", "scale", "command", "hourly_price", "currency" of ``run_sweep``.
    """

    load: LoadSettings
    clip: ClipSettings
    frame: Frame
    forecast: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    model: Any = None
    position: int = 0
    options: Any = None

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
    axes: Mapping[str, Any], exclude: Any, how: Mapping[str, Any], problems: list[str]
) -> tuple[list[_Point], _Values, list[_Values]]:
    """Give the points of a sweep, its axes and its rules as plain Python; add a sentence for each thing wrong.

    ``how`` is its "mode", and the "count" and "seed" of a random one.
    """
    wrong = [*_name_problems(axes, exclude)] or [*_size_problems(axes, is_list=how["mode"] == "list")]
    if wrong:
        problems += wrong
        return [], {}, []
    axes = {name: _judged(name, values, wrong) for name, values in axes.items()}
    rules = [{name: _judged(name, _listed_values(value), wrong) for name, value in rule.items()} for rule in exclude]
    photos, *others = axes.values()
    rows = zip(*others, strict=True) if how["mode"] == "list" and others else itertools.product(*others)
    points = [dict(zip(axes, (photo, *row), strict=True)) for photo, row in itertools.product(photos, rows)]
    points = [point for point in points if _WRONG not in point.values()]
    fits = [[all(point[name] in rule[name] for name in rule) for point in points] for rule in rules]
    left = [point for point, *is_out in zip(points, *fits, strict=True) if not any(is_out)]
    if points and not wrong:
        idle = [shown(dict(rule)) for rule, fit in zip(exclude, fits, strict=True) if not any(fit)]
        wrong += [f"exclude {rule} fits no run; look at its values" for rule in idle]
        wrong += [] if left or wrong else ["no run is left: every point is excluded, or an axis is empty"]
    if how["mode"] == "random" and how["count"] is not None:
        left = random.Random(how["seed"] or 0).sample(left, min(how["count"], len(left)))  # noqa: S311 - no secret
    problems += wrong
    return left, axes, rules


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


def _size_problems(axes: Mapping[str, Sequence[Any]], *, is_list: bool) -> Iterator[str]:
    sizes = {name: len(values) for name, values in axes.items() if name != "photo"}
    if is_list and len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        yield f"mode 'list' takes values together: axes need one length, not {told}"
    total = len(axes["photo"]) * (max(sizes.values(), default=1) if is_list else math.prod(sizes.values()))
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
    kinds: Mapping[str, Any],
    how: Mapping[str, Any],
    problems: list[str],
) -> list[Job]:
    """Make the distinct jobs of points: what can share a stage stands together, else it is the order given.

    Each photo is read once, and fitted once a size. ``kinds`` are the fixed settings, "load" and "clip".
    """
    images = {name: attempt(problems, read_image, photo) for name, photo in photos.items()}
    model = cache(lambda name: attempt(problems, find_model, name))

    @cache
    def frame(name: str, height: int, width: int) -> Frame | None:
        image = images[name]
        fitted = None if image is None else attempt(problems, fit, image, height=height, width=width, **how)
        # Its name in records, tables and the report too: two folders may each have a cat.jpg.
        return fitted and replace(fitted, source=fitted.source and name)

    def job(point: _Point) -> Job | None:
        made = {
            kind: fixed.replace(**{name: value for name, value in point.items() if name in fixed.__dataclass_fields__})
            for kind, fixed in kinds.items()
        }
        info = model(made["load"].model)
        if info is None:
            return None
        made["clip"] = made["clip"].resolve(**info.clip_defaults, seed=0)
        fitted = frame(point["photo"], made["clip"].height, made["clip"].width)
        return None if fitted is None else Job(**made, frame=fitted)

    seen: dict[object, int] = {}

    def rank(job: Job) -> tuple[int, ...]:
        by_photo = (job.load, job.frame.sha256)  # so that CLIP sees each photo once, whatever the seeds
        keys = [job.load, by_photo, *job.keys.values(), job.clip]
        return tuple(seen.setdefault(key, len(seen)) for key in keys)

    made = (attempt(problems, job, point) for point in points)
    return [job for _, job in sorted({rank(job): job for job in made if job is not None}.items())]
