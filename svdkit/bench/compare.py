"""Two sets of records, row by row: faster, slower or the same, and no verdict inside the noise."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from svdkit.bench.record import Record, check_records
from svdkit.bench.stats import FEWEST_REPEATS, Interval, Samples, median, ratio
from svdkit.bench.table import completed, days, hardware, remarks, varying
from svdkit.errors import SettingsError, shown
from svdkit.units import aligned, format_bytes, format_count, format_seconds

_Cells = dict[str, list[Record]]

# By how much bytes differ when nothing has changed: allocators round, and a process's own depend on all that it did.
# The same decoding took 629 to 711 MiB in six processes.
_SAME_MEMORY = {"peak_allocated_bytes": 0.01, "process_bytes": 0.15, "peak_reserved_bytes": 0.02}
# Measured one after the other, two sides differ by as much through heat and neighbours alone, and no interval sees it.
_DRIFT = 0.02
# A drift that is seen inside the sides goes on between them; this much more, for it is not quite steady nor well known.
_GOES_ON = 1.5


@dataclass(frozen=True, kw_only=True)
class Change:
    """One row of a comparison.

    Attributes:
        name: What tells the row from the others.
        old_seconds: Median of the old timed clips; NaN when there are none.
        new_seconds: Median of the new ones.
        ratio: New over old with its 95 % interval: below 1 is faster.
        time: "faster", "slower", "same", "unknown" (too few repeats or processes), "fails now", "works now" or
            "failed" (both times).
        old_bytes: Peak memory, of the first kind that both have: allocated, process, reserved; None when unknown.
        new_bytes: The same kind.
        memory: "more", "less", "same" (within 1 % of allocated bytes, 2 % of reserved ones, 15 % of a process's) or
            "unknown".
        remarks: What speaks against the figures, or is the reason of "unknown".
    """

    name: str
    old_seconds: float
    new_seconds: float
    ratio: Interval
    time: str
    old_bytes: int | None
    new_bytes: int | None
    memory: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What :func:`compare` found; ``print`` shows it as a table.

    Attributes:
        changes: One for each row that both have.
        noise_floor: A difference up to this fraction is noise.
        notes: What a reader has to know: where it ran, the noise's source, rows that only one has, what was allowed.
    """

    changes: tuple[Change, ...]
    noise_floor: float
    notes: tuple[str, ...]

    def regressions(self, *, above: float = 0.0) -> tuple[Change, ...]:
        """Rows that fail now, or are slower by more than a fraction (0.05 for 5 %), beyond the noise."""
        return tuple(
            c for c in self.changes if c.time == "fails now" or (c.time == "slower" and c.ratio.value > 1 + above)
        )

    def __str__(self) -> str:
        rows = [
            ("ROW", "OLD", "NEW", "RATIO (95 %)", "TIME", "OLD PEAK", "NEW PEAK", "MEMORY"),
            *map(_cells, self.changes),
        ]
        told = [f"{c.name}: {'; '.join(c.remarks)}" for c in self.changes if c.remarks]
        return "\n".join([*self.notes, "", *aligned(rows), *([""] if told else []), *told])


def compare(
    old_records: Sequence[Record],
    new_records: Sequence[Record],
    *,
    noise_floor: float | None = None,
    allow_different: Iterable[str] = (),
) -> Comparison:
    """Match rows by settings, photo, model and method, and judge each: time by interval and noise, memory by its kind.

    Time is "faster" or "slower" only when both sides were measured in several processes, the 95 % interval of the ratio
    excludes 1, and the difference beats the noise floor: what lies between processes of one cell, though nothing
    changed; what the machine drifts from one side to the other if it goes on as it does inside them; and at least 2 %.
    A machine that changes between the sides alone reads as a change: measure both in turn. ``benchmarks/verdicts.py``
    measures how often a verdict is wrong.

    Args:
        old_records: As ``read_records`` gives them.
        new_records: The same.
        noise_floor: A fraction (0.02 for 2 %) that is known otherwise, for rows of one process too; None to measure it.
        allow_different: Names of settings or of parts of the environment that may differ, such as "dtype" or "torch";
            "environment" for all of its parts.

    Raises:
        SettingsError: No row is in both, or hardware or versions differ; every difference is named.

    Example:
        >>> [change.time for change in compare(read_records("before"), read_records("after")).changes]
        ['unknown']
    """
    old_records, new_records = (check_records(given, who="compare") for given in (old_records, new_records))
    records = completed([*old_records, *new_records])  # both together, so that a row that fails now is found
    old_records, new_records = records[: len(old_records)], records[len(old_records) :]
    allowed = _check_allowed(allow_different, records)
    noise: object = noise_floor  # callers are not typed
    if noise is not None and not (isinstance(noise, int | float) and 0 <= noise < math.inf):
        raise SettingsError(f"compare: noise_floor={shown(noise_floor)} is not a fraction from 0; 0.02 is 2 %")
    old, new = _cells_of(old_records, allowed, which="old"), _cells_of(new_records, allowed, which="new")
    _pair_failures(old, new)
    both = [key for key in old if key in new]
    if not both:
        raise SettingsError(f"compare: no row is in both; {_nearest(old_records, new_records)}")
    differing = _differences([(old[key], new[key]) for key in both])
    if refused := [text for part, text in differing.items() if not {part, "environment"} & allowed]:
        advice = "allow_different=('environment',), or --allow environment, compares all the same"
        raise SettingsError.of(f"compare: hardware or versions differ ({advice})", refused)
    spread, drift = _noise([*old.values(), *new.values()]), _drift([*old.values()], [*new.values()])
    floor = noise_floor if noise_floor is not None else max(_DRIFT, spread or 0.0, drift)
    is_known = noise_floor is not None
    name = _names(records, allowed)
    return Comparison(
        changes=tuple(_judge(name(key), old[key], new[key], floor, is_known=is_known) for key in both),
        noise_floor=floor,
        notes=(
            *(f"{word}: {_origin(records)}" for word, records in (("old", old_records), ("new", new_records))),
            f"noise floor: {floor:.1%}, {_noise_source(noise_floor, spread, drift)}",
            *(f"differs, as allowed: {text}" for text in differing.values()),
            *(f"only in old: {name(key)}" for key in old if key not in new),
            *(f"only in new: {name(key)}" for key in new if key not in old),
        ),
    )


def _noise(cells: Iterable[list[Record]]) -> float | None:
    """Largest difference between processes of one cell, as a fraction; None when no cell was measured in several."""
    medians = [[median([process]).value for process in _samples(cell)] for cell in cells]
    return max((max(each) / min(each) - 1 for each in medians if len(each) > 1 and min(each) > 0), default=None)


def _drift(*sides: list[list[Record]]) -> float:
    """How far the machine gets from the middle of one side to that of the next, from its trend inside them.

    The trend is a line through the logarithms of a cell's processes, in their order; it takes three. All cells ran in
    the same time, so the median of a side's cells counts.
    """
    found = []
    for cells in sides:
        medians = [[median([process]).value for process in _samples(cell)] for cell in cells]
        known = [each for each in medians if len(each) > 2 and min(each) > 0]
        lines = [np.polyfit(range(len(each)), np.log(each), 1)[0] * len(each) for each in known]
        found.append(float(np.median(lines)) if lines else 0.0)
    return _GOES_ON * abs(sum(found)) / len(found)


def _noise_source(given: float | None, spread: float | None, drift: float) -> str:
    if given is not None:
        return "as given"
    if spread is None:
        return "by which machines drift; no cell was measured in several processes"
    parts = f"{_DRIFT:.0%}, by which machines drift, {spread:.1%}, between processes of a cell"
    return f"the largest of {parts}, and {drift:.1%}, the drift inside the sides gone on"


def _judge(name: str, old: list[Record], new: list[Record], floor: float, *, is_known: bool) -> Change:
    parts = _samples(old), _samples(new)
    change = ratio(parts[1], parts[0]) if all(parts) else Interval(math.nan, math.nan, math.nan)
    few = [] if math.isnan(change.value) else list(_lacking(change, *parts, is_known=is_known))
    works = [any(record.status == "ok" for record in cell) for cell in (old, new)]
    before, after, memory = _judge_memory(old, new)
    return Change(
        name=name,
        old_seconds=median(parts[0]).value,
        new_seconds=median(parts[1]).value,
        ratio=change,
        time=_FAILURES[works[0], works[1]] if not all(works) else "unknown" if few else _judge_time(change, floor),
        old_bytes=before,
        new_bytes=after,
        memory=memory,
        remarks=(*few, *(f"{side}: {text}" for side, cell in (("old", old), ("new", new)) for text in _told(cell))),
    )


def _lacking(change: Interval, old: Samples, new: Samples, *, is_known: bool) -> Iterator[str]:
    """Say what a verdict would need."""
    if math.isnan(change.low):
        yield f"under {FEWEST_REPEATS} repeats"
    elif min(len(old), len(new)) < 2 and not is_known:
        yield "one process, and what differs between processes is not known: profile in several, or give a noise floor"


def _told(cell: list[Record]) -> list[str]:
    return list(dict.fromkeys(text for record in cell for text in remarks(record)))


_FAILURES = {(True, False): "fails now", (False, True): "works now", (False, False): "failed"}


def _judge_time(change: Interval, floor: float) -> str:
    if math.isnan(change.low):
        return "unknown"
    if not change.excludes(1) or max(change.value, 1 / change.value) - 1 <= floor:
        return "same"
    return "slower" if change.value > 1 else "faster"


def _judge_memory(old: list[Record], new: list[Record]) -> tuple[int | None, int | None, str]:
    for name, limit in _SAME_MEMORY.items():
        before, after = (
            max((size for r in cell if r.status == "ok" and (size := r.peaks[name])), default=0) for cell in (old, new)
        )
        if before and after:
            same = abs(after / before - 1) <= limit
            return before, after, "same" if same else "more" if after > before else "less"
    return None, None, "unknown"


def _samples(cell: list[Record]) -> list[list[float]]:
    """The seconds of a cell's records by process; those of whom it is not known are one."""
    found: dict[str, list[float]] = {}
    for record in cell:
        for name, seconds in zip(dict.fromkeys(record.processes or [""]), record.timed, strict=False):
            found.setdefault(name, []).extend(seconds)
    return list(found.values())


def _origin(records: Sequence[Record]) -> str:
    where = "; ".join(dict.fromkeys(hardware(record.environment) for record in records))
    return f"{format_count(len(records), 'record')} of {days(records)}, {where}"


def _cells(change: Change) -> tuple[str, ...]:
    low, high = change.ratio.low, change.ratio.high
    interval = "" if math.isnan(low) else f" ({low:.3f} to {high:.3f})"
    size = [format_bytes(math.nan if size is None else size) for size in (change.old_bytes, change.new_bytes)]
    ratio_text = "–" if math.isnan(change.ratio.value) else f"{change.ratio.value:.3f}{interval}"
    seconds = format_seconds(change.old_seconds), format_seconds(change.new_seconds)
    return change.name, *seconds, ratio_text, change.time, *size, change.memory


def _identity(record: Record) -> dict[str, Any]:
    """All that decides which row a record belongs to."""
    model = {"model": record.model["name"], **{name: record.model.get(name) for name in ("weights", "revision")}}
    return {**record.settings, "image": record.image.get("sha256"), **model, "method": record.method}


def _check_allowed(names: Iterable[str], records: Sequence[Record]) -> set[str]:
    """Give the names of what may differ as a set; SettingsError for a name that no record has."""
    given = [names] if isinstance(names, str) else names  # a text alone is one name, not its letters
    if not isinstance(given, list | tuple | set | frozenset) or not all(isinstance(name, str) for name in given):
        raise SettingsError(f"compare: allow_different={shown(names)} is no list of names, such as ['torch', 'dtype']")
    allowed = set(given)
    known = {"environment", *(name for record in records for name in {**_identity(record), **record.machine})}
    if unknown := sorted(allowed - known):
        raise SettingsError(
            f"compare: {', '.join(unknown)[:200]} may not differ: not a name here; {', '.join(sorted(known))}"
        )
    return allowed


def _cells_of(records: Sequence[Record], allowed: set[str], *, which: str) -> _Cells:
    """Group records into cells by what decides their row; refuse if what may differ then differs inside a cell."""
    cells: _Cells = {}
    for record in records:
        parts = {name: value for name, value in _identity(record).items() if name not in allowed and value is not None}
        cells.setdefault(json.dumps(parts, sort_keys=True), []).append(record)
    for cell in cells.values():
        if names := varying([_identity(record) for record in cell]):
            rule = f"with {', '.join(names)} left out, several {which} rows are one"
            raise SettingsError(f"compare: {rule}; give records of which only one is meant")
    return cells


def _pair_failures(old: _Cells, new: _Cells) -> None:
    """Let cells of failed rows meet those of the other side that differ in method alone: a failed run came to none."""

    def bare(key: str) -> dict[str, Any]:
        return {name: value for name, value in json.loads(key).items() if name != "method"}

    for one, other in ((old, new), (new, old)):
        for key in [key for key, cell in one.items() if not any(record.status == "ok" for record in cell)]:
            found = next((there for there in other if bare(there) == bare(key)), key)
            if found != key:
                one.setdefault(found, []).extend(one.pop(key))


def _nearest(old: Sequence[Record], new: Sequence[Record]) -> str:
    """Name what differs between the two most similar rows."""
    pairs = [(_identity(first), _identity(second)) for first, second in itertools.product(old[:100], new[:100])]
    if not pairs:
        return f"there are {format_count(len(old), 'old record')} and {format_count(len(new), 'new record')}"
    first, second = min(pairs, key=lambda pair: len(varying(pair)))
    names = varying([first, second])
    changes = ", ".join(f"{name}: {first.get(name)} → {second.get(name)}" for name in names)
    return f"the nearest differ in {changes}; allow_different={tuple(names)!r} or --allow compares them all the same"


def _differences(pairs: Sequence[tuple[list[Record], list[Record]]]) -> dict[str, str]:
    """Name -> one line on a part of the environment that is not the same in old and new.

    Failed rows do not count: those of a process that died were written by another one, which may know no GPU.
    """
    found: dict[str, str] = {}
    for old, new in pairs:
        environments = [[one.machine for one in cell if one.status == "ok"] for cell in (old, new)]
        if not all(environments):
            continue
        for name in varying([*environments[0], *environments[1]]):
            before, after = ("/".join(dict.fromkeys(_text(name, e.get(name)) for e in side)) for side in environments)
            found.setdefault(name, f"{name}: {before} → {after}")
    return found


def _text(name: str, value: Any) -> str:
    return format_bytes(value) if name.endswith("_bytes") and value is not None else str(value)


def _names(records: Sequence[Record], allowed: set[str]) -> Callable[[str], str]:
    """Make a function that names a cell by what tells it from the others."""
    differ = [name for name in varying([_identity(record) for record in records]) if name not in allowed]

    def name(key: str) -> str:
        values: Mapping[str, Any] = json.loads(key)
        shown = [f"{part} {str(values.get(part))[:24]}" for part in differ]
        return ", ".join(shown) or str(values.get("model", "all rows"))

    return name
