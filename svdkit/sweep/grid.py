"""From axes to points: a grid, a list or random points, less what is excluded."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from svdkit.errors import shown
from svdkit.given import bare
from svdkit.settings.base import nearest

MODES = ("grid", "list", "random")
Point = dict[str, Any]
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
) -> tuple[list[Point], list[str]]:
    """Give the points of a sweep, and a sentence for each thing that is wrong with its axes and rules.

    Args:
        axes: Name -> list of values; the first, the photos, stands apart in ``"list"``.
        mode: One of ``MODES``.
        count: Points to draw for ``"random"``.
        seed: Of that drawing.
        exclude: Rules; a point that fits all names of one is left out.
        known: The names that axes and rules may have.
        judge: Gives a value of a name as plain Python, and what is wrong with it.

    Example:
        >>> expand({"photo": ["cat"], "fps": [6, 7]}, mode="grid", count=None, seed=0, exclude=(), known=("fps",
        ...     "photo"), judge=lambda name, value: (value, []))
        ([{'photo': 'cat', 'fps': 6}, {'photo': 'cat', 'fps': 7}], [])
    """
    problems = _problems(axes, exclude=exclude, known=known) or _size_problems(axes, mode=mode)
    if problems:
        return [], problems

    def read(name: str, value: object) -> Any:
        clean, wrong = judge(name, value)
        problems.extend(wrong)
        return _WRONG if wrong else clean

    axes = {name: [read(name, value) for value in values] for name, values in axes.items()}
    rules = [{name: {read(name, each) for each in _each(value)} for name, value in rule.items()} for rule in exclude]
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


def _each(value: Any) -> Sequence[Any]:
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


def _fits(point: Point, rule: Mapping[str, set[Any]]) -> bool:
    return all(point[name] in values for name, values in rule.items())
