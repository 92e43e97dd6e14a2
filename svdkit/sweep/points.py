"""The runs of a sweep: axes become points, less what is excluded, and those resolved settings with fitted photos."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any

from svdkit.errors import ImageError, ModelError, SettingsError, shown
from svdkit.generate.stages import stage_key
from svdkit.given import bare
from svdkit.image import Frame, fit, read_image
from svdkit.models import find_model
from svdkit.settings import ClipSettings, LoadSettings
from svdkit.settings.base import nearest

MODES = ("grid", "list", "random")
_Point = dict[str, Any]
Judge = Callable[[str, object], tuple[Any, list[str]]]
MOST = 100_000  # points that are looked at; one photo at 1 s a clip would take a day
_WRONG = object()  # stands for a value that is none of its name, so that the others are judged too


def expand(
    axes: Mapping[str, Any],
    *,
    mode: str | None,
    count: int | None,
    seed: int | None,
    exclude: Sequence[Mapping[str, Any]],
    known: Sequence[str],
    judge: Judge,
) -> tuple[list[_Point], list[str]]:
    """Give the points of a sweep, and a sentence for each thing that is wrong with its axes and rules."""
    problems = _problems(axes, exclude=exclude, known=known) or _size_problems(axes, mode=mode)
    if problems:
        return [], problems

    def read(name: str, value: object) -> Any:
        clean, wrong = judge(name, value)
        problems.extend(wrong)
        return _WRONG if wrong else clean

    axes = {name: [read(name, value) for value in values] for name, values in axes.items()}
    rules = [
        {name: {read(name, each) for each in _listed_values(value)} for name, value in rule.items()} for rule in exclude
    ]
    names, (first, *others) = list(axes), axes.values()
    rows = zip(*others, strict=True) if mode == "list" and others else itertools.product(*others)
    points = [dict(zip(names, (photo, *row), strict=True)) for photo, row in itertools.product(first, rows)]
    points = [point for point in points if _WRONG not in point.values()]
    for asked, rule in zip(exclude, rules, strict=True):
        if not problems and not any(_fits(point, rule) for point in points):
            problems.append(f"exclude {shown(dict(asked))} fits no run; look at its values")
    points = [point for point in points if not any(_fits(point, rule) for rule in rules)]
    if mode == "random" and count is not None:
        points = random.Random(seed or 0).sample(points, min(count, len(points)))  # noqa: S311 - no secret
    if not points and axes["photo"] and not problems:
        problems.append("no run is left: every point is excluded, or an axis is empty")
    return points, problems


def listed(values: Any) -> Any:
    """Give an array, a column or a range as a list; all else as it is."""
    if isinstance(values, range):
        return list(values[: MOST + 1])
    found = values.tolist() if hasattr(values, "tolist") else values
    return found if isinstance(found, list) else values


def _listed_values(value: Any) -> Sequence[Any]:
    value = listed(value)
    return value if isinstance(value, list | tuple) else [value]


def _problems(axes: Mapping[str, Any], *, exclude: Sequence[Mapping[str, Any]], known: Sequence[str]) -> list[str]:
    problems = [_unknown(name, "axis", known) for name in axes if name not in known]
    for name, values in axes.items():
        if not isinstance(values, list | tuple):
            several = isinstance(values, Iterable) and not isinstance(values, str | bytes)
            advice = "write its values as a list" if several else f"write [{shown(values)}]"
            problems.append(f"{bare(name)}: an axis is a list of values, not {shown(values)}; {advice}")
    if not isinstance(exclude, list | tuple):  # files are not typed
        problems.append(f"exclude is {shown(exclude)}: it must be a list of rules, such as [{{'fps': [6, 7]}}]")
        exclude = ()
    for rule in exclude:
        if not isinstance(rule, Mapping) or not rule:  # files are not typed
            problems.append(f"exclude has {shown(rule)}: a rule is names and values, such as {{'fps': [6, 7]}}")
            continue
        for name in rule:
            if name not in axes:
                wrong = f"{bare(name)} is no axis here" if name in known else _unknown(name, "rule", known)
                problems.append(f"exclude: {wrong}")
    return problems


def _size_problems(axes: Mapping[str, Any], *, mode: str | None) -> list[str]:
    sizes = {name: len(values) for name, values in axes.items()}
    empty = [
        f"{name}: this axis is empty, so the grid is; give values, or leave it out" for name in axes if not sizes[name]
    ]
    if mode == "list":
        others = {name: size for name, size in sizes.items() if name != "photo"}
        uneven = len(set(others.values())) > 1
        told = ", ".join(f"{name} {size}" for name, size in others.items())
        return [f"mode 'list' takes values together: axes need one length, not {told}"] if uneven else empty
    total = 1
    for size in sizes.values():
        total *= size
    return [f"the grid has {total:,} points, more than {MOST:,}; give fewer values"] if total > MOST else empty


def _unknown(name: object, what: str, known: Sequence[str]) -> str:
    guess = nearest(name, known)
    hint = f"did you mean {guess}?" if guess else f"the names are {', '.join(known)}"
    return f"{bare(name)} is no name of a setting for an {what}; {hint}".replace("an rule", "a rule")


def _fits(point: _Point, rule: Mapping[str, set[Any]]) -> bool:
    return all(point[name] in values for name, values in rule.items())


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

    @cached_property
    def keys(self) -> dict[str, object]:
        """What each stage's output depends on, by name, with ``"load"`` first: jobs with equal keys share it."""
        same = {"image_sha256": self.frame.sha256, "model": json.dumps(self.load.to_dict())}
        return {"load": self.load, **{stage: stage_key(stage, self.clip, **same) for stage in STAGES}}


def judge_value(name: str, value: object) -> tuple[Any, list[str]]:
    """Give a value of an axis or a rule as plain Python, and what is wrong with it."""
    if name == "photo":
        return value, [] if isinstance(value, str) else [f"photo={shown(value)}: must be the name of a photo"]
    clean, problems = (LoadSettings if name in _LOAD else ClipSettings).judge({name: value})
    return clean.get(name), problems


def make_jobs(
    points: Iterable[_Point], *, photos: Mapping[str, Any], fixed: Mapping[str, Any], how: Mapping[str, Any]
) -> tuple[list[Job], list[str]]:
    """Make the distinct jobs of points, in the order in which they run, and a sentence for each thing that is wrong."""
    maker = _Maker(photos, fixed, how)
    jobs = _ordered(maker.make(points))
    return jobs, list(dict.fromkeys(maker.problems))


class _Maker:
    """Turns points into jobs; reads each photo once, fits it once a size, and gathers problems instead of stopping."""

    def __init__(self, photos: Mapping[str, Any], fixed: Mapping[str, Any], how: Mapping[str, Any]) -> None:
        self.problems: list[str] = []
        self._fixed, self._how = fixed, how
        self._images = {name: self._try(partial(read_image, photo)) for name, photo in photos.items()}
        self._frames: dict[object, Frame | None] = {}
        self._models: dict[str, Any] = {}

    def make(self, points: Iterable[_Point]) -> list[Job]:
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

    def _job(self, point: _Point) -> Job | None:
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
        clip = clip.resolve(**info.clip_defaults, seed=0)
        frame = self._frame(point["photo"], height=clip.height, width=clip.width)
        return None if frame is None else Job(load=load, clip=clip, frame=frame)

    def _frame(self, name: str, *, height: int, width: int) -> Frame | None:
        image = self._images[name]
        if image is not None and (name, height, width) not in self._frames:
            fitted = self._try(lambda: fit(image, height=height, width=width, **self._how))
            # Its name in records, tables and the report too: two folders may each have a cat.jpg.
            self._frames[name, height, width] = fitted and replace(fitted, source=fitted.source and name)
        return self._frames.get((name, height, width))


def _ordered(jobs: Iterable[Job]) -> list[Job]:
    """Put what can share a stage together, else in the order given; of equal jobs one is left."""
    seen: dict[object, int] = {}

    def rank(job: Job) -> tuple[int, ...]:
        by_photo = (job.load, job.frame.sha256)  # so that CLIP sees each photo once, whatever the seeds
        keys = [job.load, by_photo, *(job.keys[stage] for stage in STAGES), job.clip]
        return tuple(seen.setdefault(key, len(seen)) for key in keys)

    return [job for _, job in sorted({rank(job): job for job in jobs}.items())]
