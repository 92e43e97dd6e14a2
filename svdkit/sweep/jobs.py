"""The runs of a sweep: every point made into resolved settings and a fitted photo, in an order that shares work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from svdkit.errors import ImageError, ModelError, SettingsError, shown
from svdkit.generate.keys import stage_key
from svdkit.image import Frame, fit, read_image
from svdkit.models import find_model
from svdkit.settings import ClipSettings, LoadSettings

if TYPE_CHECKING:
    from svdkit.sweep.grid import Point

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


def judge(name: str, value: object) -> tuple[Any, list[str]]:
    """Give a value of an axis or a rule as plain Python, and what is wrong with it."""
    if name == "photo":
        return value, [] if isinstance(value, str) else [f"photo={shown(value)}: must be the name of a photo"]
    clean, problems = (LoadSettings if name in _LOAD else ClipSettings).judge({name: value})
    return clean.get(name), problems


def make_jobs(
    points: Iterable[Point], *, photos: Mapping[str, Any], fixed: Mapping[str, Any], how: Mapping[str, Any]
) -> tuple[list[Job], list[str]]:
    """Make the distinct jobs of points, in the order in which they run, and a sentence for each thing that is wrong.

    Args:
        points: Name -> value, "photo" among them.
        photos: Name -> what ``read_image`` takes.
        fixed: "load" and "clip": settings that the points change.
        how: How photos are fitted: mode, focus, border.

    Example:
        >>> fixed = {"load": LoadSettings(), "clip": ClipSettings()}
        >>> jobs, _ = make_jobs([{"photo": "cat", "fps": 9}], photos={"cat": "cat"}, fixed=fixed, how={})
        >>> jobs[0].clip.fps, jobs[0].frame.width
        (9, 128)
    """
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
