"""Which records are of one row, what keeps two sets of records from being compared, and what a row is called."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from svdkit.bench.varying import environment_of, settings_of, varying
from svdkit.errors import SettingsError, shown
from svdkit.units import format_bytes, format_count

if TYPE_CHECKING:
    from svdkit.bench.record import Record

Cells = dict[str, list["Record"]]


def identity(record: Record) -> dict[str, Any]:
    """All that decides which row a record belongs to."""
    model = {"model": record.model["name"], **{name: record.model.get(name) for name in ("weights", "revision")}}
    return {**settings_of(record), "image": record.image.get("sha256"), **model, "method": record.method}


def check_allowed(names: Iterable[str], records: Sequence[Record]) -> set[str]:
    """Give the names of what may differ as a set; SettingsError for a name that no record has."""
    given = [names] if isinstance(names, str) else names  # a text alone is one name, not its letters
    if not isinstance(given, list | tuple | set | frozenset) or not all(isinstance(name, str) for name in given):
        raise SettingsError(f"compare: allow_different={shown(names)} is no list of names, such as ['torch', 'dtype']")
    allowed = set(given)
    known = {"environment", *(name for record in records for name in {**identity(record), **environment_of(record)})}
    if unknown := sorted(allowed - known):
        raise SettingsError(
            f"compare: {', '.join(unknown)[:200]} may not differ: not a name here; {', '.join(sorted(known))}"
        )
    return allowed


def cells_of(records: Sequence[Record], allowed: set[str], *, which: str) -> Cells:
    """Group records into cells by what decides their row; refuse if what may differ then differs inside a cell."""
    cells: Cells = {}
    for record in records:
        parts = {name: value for name, value in identity(record).items() if name not in allowed and value is not None}
        cells.setdefault(json.dumps(parts, sort_keys=True), []).append(record)
    for cell in cells.values():
        if names := varying([identity(record) for record in cell]):
            rule = f"with {', '.join(names)} left out, several {which} rows are one"
            raise SettingsError(f"compare: {rule}; give records of which only one is meant")
    return cells


def pair_failures(old: Cells, new: Cells) -> None:
    """Let cells of failed rows meet those of the other side that differ in method alone: a failed run came to none."""

    def bare(key: str) -> dict[str, Any]:
        return {name: value for name, value in json.loads(key).items() if name != "method"}

    for one, other in ((old, new), (new, old)):
        for key in [key for key, cell in one.items() if not any(record.status == "ok" for record in cell)]:
            found = next((there for there in other if bare(there) == bare(key)), key)
            if found != key:
                one.setdefault(found, []).extend(one.pop(key))


def nearest(old: Sequence[Record], new: Sequence[Record]) -> str:
    """Name what differs between the two most similar rows."""
    pairs = [(identity(first), identity(second)) for first, second in itertools.product(old[:100], new[:100])]
    if not pairs:
        return f"there are {format_count(len(old), 'old record')} and {format_count(len(new), 'new record')}"
    first, second = min(pairs, key=lambda pair: len(varying(pair)))
    names = varying([first, second])
    changes = ", ".join(f"{name}: {first.get(name)} → {second.get(name)}" for name in names)
    return f"the nearest differ in {changes}; allow_different={tuple(names)!r} or --allow compares them all the same"


def differences(pairs: Sequence[tuple[list[Record], list[Record]]]) -> dict[str, str]:
    """Name -> one line on a part of the environment that is not the same in old and new.

    Failed rows do not count: those of a process that died were written by another one, which may know no GPU.
    """
    found: dict[str, str] = {}
    for old, new in pairs:
        environments = [[environment_of(one) for one in cell if one.status == "ok"] for cell in (old, new)]
        if not all(environments):
            continue
        for name in varying([*environments[0], *environments[1]]):
            before, after = ("/".join(dict.fromkeys(_text(name, e.get(name)) for e in side)) for side in environments)
            found.setdefault(name, f"{name}: {before} → {after}")
    return found


def _text(name: str, value: Any) -> str:
    return format_bytes(value) if name.endswith("_bytes") and value is not None else str(value)


def names(records: Sequence[Record], allowed: set[str]) -> Callable[[str], str]:
    """Make a function that names a cell by what tells it from the others."""
    differ = [name for name in varying([identity(record) for record in records]) if name not in allowed]

    def name(key: str) -> str:
        values: Mapping[str, Any] = json.loads(key)
        shown = [f"{part} {str(values.get(part))[:24]}" for part in differ]
        return ", ".join(shown) or str(values.get("model", "all rows"))

    return name
