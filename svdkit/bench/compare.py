"""Two sets of records, row by row: faster, slower or the same, and no verdict inside the noise."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from svdkit.bench.record import Record, check_records
from svdkit.bench.stats import FEWEST_REPEATS, Interval, Samples, median, ratio, spread
from svdkit.bench.table import completed, days, hardware, remarks, varying
from svdkit.errors import SettingsError, shown
from svdkit.units import aligned, format_bytes, format_count, format_seconds

_Row = dict[str, list[Record]]  # by side, those that have some

# By how much bytes differ when nothing has changed: allocators round, and a process's own depend on all that it did.
# The same decoding took 629 to 711 MiB in six processes.
_SAME_MEMORY = {"peak_allocated_bytes": 0.01, "process_bytes": 0.15, "peak_reserved_bytes": 0.02}
# Measured one after the other, two sides differ by as much through heat and neighbours alone, and no interval sees it.
_DRIFT = 0.02
_ALONE = "one process, and what differs between processes is not known: profile in several, or give a noise floor"
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
    noise: object = noise_floor  # callers are not typed
    if noise is not None and not (isinstance(noise, int | float) and 0 <= noise < math.inf):
        raise SettingsError(f"compare: noise_floor={shown(noise_floor)} is not a fraction from 0; 0.02 is 2 %")
    records = completed([*old_records, *new_records])  # both together, so that a row that fails now is found
    sides = {"old": records[: len(old_records)], "new": records[len(old_records) :]}
    allowed = _check_allowed(allow_different, records)
    rows = _match(sides, allowed)
    both = [(name, cells["old"], cells["new"]) for name, cells in rows if len(cells) == 2]
    if not both:
        raise SettingsError(f"compare: no row is in both; {_nearest(*sides.values())}")
    differing = _differences(both)
    if refused := [text for part, text in differing.items() if not {part, "environment"} & allowed]:
        advice = "allow_different=('environment',), or --allow environment, compares all the same"
        raise SettingsError.of(f"compare: hardware or versions differ ({advice})", refused)
    floor, source = noise_floor, "as given"
    if floor is None:
        floor, source = _noise_floor([[_samples(cells[side]) for _, cells in rows if side in cells] for side in sides])
    fewest = 2 if noise_floor is None else 1
    return Comparison(
        changes=tuple(_judge(*row, floor=floor, fewest=fewest) for row in both),
        noise_floor=floor,
        notes=(
            *(f"{side}: {_origin(records)}" for side, records in sides.items()),
            f"noise floor: {floor:.1%}, {source}",
            *(f"differs, as allowed: {text}" for text in differing.values()),
            *(f"only in {side}: {name}" for name, cells in rows if len(cells) == 1 for side in cells),
        ),
    )


def _noise_floor(sides: Sequence[Sequence[Samples]]) -> tuple[float, str]:
    """Up to which fraction a difference is noise, and why: what machines drift, or processes of a cell differ by.

    A drift that is seen goes on from the middle of one side to that of the next. It is a line through the logarithms of
    a cell's processes, in their order; it takes three. All cells ran in the same time, so the median of a side's cells
    counts.
    """
    spreads = [found for found in map(spread, itertools.chain(*sides)) if found >= 0]
    if not spreads:
        return _DRIFT, "by which machines drift; no cell was measured in several processes"
    between = max(spreads)
    known = [[_trend(each) for each in side if each[2:] and spread(each) >= 0] for side in sides]
    drift = _GOES_ON * abs(float(np.mean([np.median(trends or [0.0]) for trends in known])))
    parts = f"{_DRIFT:.0%}, by which machines drift, {between:.1%}, between processes of a cell"
    return max(_DRIFT, between, drift), f"the largest of {parts}, and {drift:.1%}, the drift inside the sides gone on"


def _trend(samples: Samples) -> float:
    logs = np.log([np.median(process) for process in samples])
    return float(np.polyfit(range(len(logs)), logs, 1)[0] * len(logs))


def _judge(name: str, old: list[Record], new: list[Record], *, floor: float, fewest: int) -> Change:
    before, after = _samples(old), _samples(new)
    change = ratio(after, before)
    worked, works = (any(record.status == "ok" for record in cell) for cell in (old, new))
    cases = (
        ("failed", "", not (worked or works)),
        ("fails now", "", not works),
        ("works now", "", not worked),
        ("unknown", "", math.isnan(change.value)),
        ("unknown", f"under {FEWEST_REPEATS} repeats", math.isnan(change.low)),
        ("unknown", _ALONE, min(len(before), len(after)) < fewest),
        ("same", "", not change.excludes(1) or 1 / (1 + floor) <= change.value <= 1 + floor),
        ("slower", "", change.value > 1),
        ("faster", "", True),
    )
    verdict, lacking = next((word, reason) for word, reason, holds in cases if holds)
    told = [f"{side}: {text}" for side, cell in (("old", old), ("new", new)) for one in cell for text in remarks(one)]
    old_bytes, new_bytes, memory = _judge_memory(old, new)
    return Change(
        name=name,
        old_seconds=median(before).value,
        new_seconds=median(after).value,
        ratio=change,
        time=verdict,
        old_bytes=old_bytes,
        new_bytes=new_bytes,
        memory=memory,
        remarks=tuple(dict.fromkeys(filter(None, (lacking, *told)))),
    )


def _judge_memory(*sides: list[Record]) -> tuple[int | None, int | None, str]:
    for kind, limit in _SAME_MEMORY.items():
        peaks = [[record.peaks[kind] or 0 for record in cell if record.status == "ok"] for cell in sides]
        old, new = (max(sizes, default=0) for sizes in peaks)
        if old and new:
            same = abs(new / old - 1) <= limit
            return old, new, "same" if same else "more" if new > old else "less"
    return None, None, "unknown"


def _samples(cell: list[Record]) -> list[list[float]]:
    """The seconds of a cell's records by process; those of whom it is not known are one."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for record in cell:
        for name, seconds in zip(dict.fromkeys(record.processes or [""]), record.timed, strict=False):
            found[name] += seconds
    return list(found.values())


def _origin(records: Sequence[Record]) -> str:
    where = "; ".join(dict.fromkeys(hardware(record.environment) for record in records))
    return f"{format_count(len(records), 'record')} of {days(records)}, {where}"


def _cells(change: Change) -> tuple[str, ...]:
    value, low, high = change.ratio.value, change.ratio.low, change.ratio.high
    interval = "" if math.isnan(low) else f" ({low:.3f} to {high:.3f})"
    ratio_text = "–" if math.isnan(value) else f"{value:.3f}{interval}"
    seconds = map(format_seconds, (change.old_seconds, change.new_seconds))
    sizes = [format_bytes(size or math.nan) for size in (change.old_bytes, change.new_bytes)]
    return change.name, *seconds, ratio_text, change.time, *sizes, change.memory


def _identity(record: Record) -> dict[str, Any]:
    """All that decides which row a record belongs to."""
    model = {
        "model": record.model["name"],
        "weights": record.model["weights"],
        "revision": record.model.get("revision"),
    }
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


def _match(sides: Mapping[str, Sequence[Record]], allowed: set[str]) -> list[tuple[str, _Row]]:
    """Group records by what decides their row, and name the rows; refuse if what may differ then differs inside one.

    A failed run came to no method: it belongs to the first row that ran and differs in it alone.
    """
    known = [(side, record) for side, records in sides.items() for record in records]
    firsts: dict[str, str] = {}
    rows: dict[str, _Row] = {}
    for side, record in sorted(known, key=lambda pair: pair[1].status != "ok"):
        own = _key(record, allowed)
        first = firsts.setdefault(_key(record, allowed | {"method"}), own)
        cell = rows.setdefault(own if record.status == "ok" else first, {}).setdefault(side, [])
        if names := [name for name in varying([*map(_identity, (*cell[:1], record))]) if name in allowed]:
            rule = f"with {', '.join(names)} left out, several {side} rows are one"
            raise SettingsError(f"compare: {rule}; give records of which only one is meant")
        cell.append(record)
    known_as = [_identity(next(iter(row.values()))[0]) for row in rows.values()]
    differ = [name for name in varying(known_as) if name not in allowed]
    names = [", ".join(f"{name} {str(one.get(name))[:24]}" for name in differ) or one["model"] for one in known_as]
    return [*zip(names, rows.values(), strict=True)]


def _key(record: Record, left_out: set[str]) -> str:
    known = {name: value for name, value in _identity(record).items() if name not in left_out and value is not None}
    return json.dumps(known, sort_keys=True)


def _nearest(old: Sequence[Record], new: Sequence[Record]) -> str:
    """Name what differs between the two most similar rows."""
    pairs = itertools.product(map(_identity, old[:100]), map(_identity, new[:100]))
    nearest = min(pairs, key=lambda pair: len(varying(pair)), default=None)
    if nearest is None:
        return f"there are {format_count(len(old), 'old record')} and {format_count(len(new), 'new record')}"
    names = varying(nearest)
    changes = ", ".join(f"{name}: {nearest[0].get(name)} → {nearest[1].get(name)}" for name in names)
    return f"the nearest differ in {changes}; allow_different={tuple(names)!r} or --allow compares them all the same"


def _differences(rows: Iterable[tuple[str, list[Record], list[Record]]]) -> dict[str, str]:
    """Name -> one line on a part of the environment that is not the same in old and new.

    Failed rows do not count: those of a process that died were written by another one, which may know no GPU.
    """
    found: dict[str, str] = {}
    for _, *cells in rows:
        old, new = ([record.machine for record in cell if record.status == "ok"] for cell in cells)
        for name in varying([*old, *new]) if old and new else ():
            texts = [dict.fromkeys(str(machine.get(name)) for machine in side) for side in (old, new)]
            found.setdefault(name, f"{name}: {' → '.join(map('/'.join, texts))}")
    return found
