"""From axes to points: a grid, a list or random points, less what is excluded."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from svdkit.errors import shown
from svdkit.settings.base import nearest

MODES = ("grid", "list", "random")
Point = dict[str, Any]
_MOST = 100_000  # points that are looked at; one photo at 1 s a clip would take a day


def expand(
    axes: Mapping[str, Any],
    *,
    mode: str,
    count: int | None,
    seed: int,
    exclude: Sequence[Mapping[str, Any]],
    known: Sequence[str],
) -> tuple[list[Point], list[str]]:
    """Give the points of a sweep, and a sentence for each thing that is wrong with its axes and rules.

    Args:
        axes: Name -> list of values; the first, the photos, stands apart in ``"list"``.
        mode: One of ``MODES``.
        count: Points to draw for ``"random"``.
        seed: Of that drawing.
        exclude: Rules; a point that fits all names of one is left out.
        known: The names that axes and rules may have.

    Example:
        >>> expand({"photo": ["cat"], "fps": [6, 7]}, mode="grid", count=None, seed=0, exclude=(), known=("fps",
        ...     "photo"))
        ([{'photo': 'cat', 'fps': 6}, {'photo': 'cat', 'fps': 7}], [])
    """
    problems = _problems(axes, mode=mode, count=count, exclude=exclude, known=known)
    if problems:
        return [], problems
    names, (first, *others) = list(axes), axes.values()
    rows = zip(*others, strict=True) if mode == "list" and others else itertools.product(*others)
    points = [dict(zip(names, (photo, *row), strict=True)) for photo, row in itertools.product(first, rows)]
    unused = [rule for rule in exclude if not any(_fits(point, rule) for point in points)]
    idle = [f"exclude {shown(rule)} fits no run; look at its values" for rule in unused]
    points = [point for point in points if not any(_fits(point, rule) for rule in exclude)]
    if mode == "random" and count is not None:
        points = random.Random(seed).sample(points, min(count, len(points)))  # noqa: S311 - a sample, not a secret
    if not points and axes["photo"]:
        idle.append("no run is left: every point is excluded, or an axis is empty")
    return points, idle


def _problems(
    axes: Mapping[str, Any], *, mode: str, count: int | None, exclude: Sequence[Mapping[str, Any]], known: Sequence[str]
) -> list[str]:
    problems = [] if mode in MODES else [f"mode={shown(mode)}: must be {', '.join(MODES)}"]
    problems += [_unknown(name, "axis", known) for name in axes if name not in known]
    problems += [
        f"{name}: an axis is a list of values, not {shown(values)}; write [{shown(values)}]"
        for name, values in axes.items()
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Sequence | range)
    ]
    if not isinstance(exclude, list | tuple):  # files are not typed
        problems.append(f"exclude is {shown(exclude)}: it must be a list of rules, such as [{{'fps': [6, 7]}}]")
        exclude = ()
    for rule in exclude:
        if not isinstance(rule, Mapping) or not rule:  # files are not typed
            problems.append(f"exclude has {shown(rule)}: a rule is names and values, such as {{'fps': [6, 7]}}")
            continue
        for name in rule:
            if name not in axes:
                wrong = f"{name} is no axis here" if name in known else _unknown(name, "rule", known)
                problems.append(f"exclude: {wrong}")
    if mode == "random" and (type(count) is not int or count < 1):
        problems.append(f"count={shown(count)}: must be a whole number from 1 when mode is 'random'")
    if mode != "random" and count is not None:
        problems.append(f"count={shown(count)} is for mode 'random' only; leave it out")
    return problems or _size_problems(axes, mode=mode)


def _size_problems(axes: Mapping[str, Any], *, mode: str) -> list[str]:
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
    return [f"the grid has {total:,} points, more than {_MOST:,}; give fewer values"] if total > _MOST else empty


def _unknown(name: object, what: str, known: Sequence[str]) -> str:
    guess = nearest(name, known)
    hint = f"did you mean {guess}?" if guess else f"the names are {', '.join(known)}"
    return f"{str(name)[:60]} is no name of a setting for an {what}; {hint}".replace("an rule", "a rule")


def _fits(point: Point, rule: Mapping[str, Any]) -> bool:
    return all(
        point[name] in value if isinstance(value, list | tuple) else point[name] == value
        for name, value in rule.items()
    )
