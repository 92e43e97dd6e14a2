"""Records as a table: a row each, failures too; only what differs has a column, all else is said above."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from svdkit.bench.record import BYTES, Record, check_records
from svdkit.bench.stats import Interval, median, percentiles, ratio, timed_parts
from svdkit.bench.table_text import to_csv, to_html, to_markdown
from svdkit.bench.varying import HARDWARE, common, completed, environment_of, hardware, settings_of, varying
from svdkit.errors import SettingsError, shown
from svdkit.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["table", "to_markdown", "to_html", "to_csv", "memory_of"]

_NO_INTERVAL = Interval(math.nan, math.nan, math.nan)


def table(records: Sequence[Record], *, baseline: Record | str | None = None) -> pd.DataFrame:
    """Lay out records as a DataFrame of raw numbers, one row a record in the order given.

    Columns: every setting and part of the environment that differs; ``model``, ``weights``, ``method``, ``status``;
    ``repeats``, ``forecast_seconds`` (expected before it ran), ``seconds`` (median of the timed clips) with
    ``seconds_low`` and ``seconds_high`` (bootstrap 95 % interval, from 5 repeats), ``seconds_p10``, ``seconds_p90``;
    ``ratio`` of the seconds to the baseline's, below 1 is faster, with ``ratio_low`` and ``ratio_high``;
    ``peak_allocated_bytes``, ``peak_reserved_bytes``, ``process_bytes``; ``quality.<name>``; ``best``: the columns in
    which the row is best; ``reason`` of a failure; ``id``. What all records have in common is in ``attrs["about"]``.

    Args:
        records: At least one.
        baseline: A record, or the beginning of its id; None for the first that has seconds.

    Raises:
        SettingsError: No records, or a baseline that is not among them or has no seconds.

    Example:
        >>> table(read_records("bench_results/mine"))  # doctest: +SKIP
    """
    import pandas as pd

    records = completed(check_records(records, who="table"))
    if not records:
        raise SettingsError("table: there are no records; give at least one, as read_records returns them")
    pinned = _find_baseline(records, baseline)
    settings = [settings_of(record) for record in records]
    machines = [environment_of(record) for record in records]
    rows = [
        {name: row.get(name) for name in varying(settings)}
        | {name: machine.get(name) for name in varying(machines)}
        | _result(record, pinned)
        for record, row, machine in zip(records, settings, machines, strict=True)
    ]
    _mark_best(rows, records)
    last = ("best", "reason", "id")
    names = dict.fromkeys(name for row in rows for name in row if name not in last)
    frame = pd.DataFrame(rows, columns=[*names, *last]).astype(dict.fromkeys(BYTES, "Int64"))
    frame.attrs["about"] = _about(records, settings, machines, pinned)
    return frame


def memory_of(record: Record) -> dict[str, int | None]:
    """The run's bytes under their three names: those of "total", else the largest of any stage.

    Example:
        >>> memory_of(record)["peak_reserved_bytes"]  # doctest: +SKIP
        7838315315
    """
    stages = [record.memory["total"]] if "total" in record.memory else list(record.memory.values())
    sizes = {name: [size for stage in stages if (size := stage.get(name)) is not None] for name in BYTES}
    return {name: max(found, default=None) for name, found in sizes.items()}


def _find_baseline(records: Sequence[Record], baseline: Record | str | None) -> Record | None:
    timed = [record for record in records if record.status == "ok" and timed_parts(record)]
    if baseline is None:
        return timed[0] if timed else None
    if isinstance(baseline, Record) and baseline in timed:
        return baseline
    name: object = baseline.id if isinstance(baseline, Record) else baseline
    found = [record for record in timed if isinstance(name, str) and record.id.startswith(name)]
    if not found or len({record.id for record in found}) > 1:
        known = ", ".join(dict.fromkeys(record.id for record in timed)) or "none"
        raise SettingsError(f"table: baseline {shown(name)} is not one of the records with seconds; they are: {known}")
    return found[0]


def _result(record: Record, pinned: Record | None) -> dict[str, Any]:
    parts = timed_parts(record) if record.status == "ok" else []
    seconds = median(parts)
    to_baseline = ratio(parts, timed_parts(pinned)) if pinned and parts else _NO_INTERVAL
    if record is pinned:
        to_baseline = Interval(1.0, 1.0, 1.0)
    p10, p90 = percentiles(parts)
    error = record.error or {}
    return {
        "model": record.model["name"],
        "weights": record.model["weights"],
        "method": record.method,
        "status": record.status,
        "repeats": min(map(len, parts), default=0),
        "forecast_seconds": record.forecast.get("seconds"),
        **seconds.named("seconds"),
        "seconds_p10": p10,
        "seconds_p90": p90,
        **to_baseline.named("ratio"),
        **memory_of(record),
        **{f"quality.{name}": value for name, value in record.quality.items()},
        "best": "",
        "reason": f"{error['type']}: {error['message']}" if error else "",
        "id": record.id,
    }


def _mark_best(rows: list[dict[str, Any]], records: Sequence[Record]) -> None:
    """Mark the fastest row and all that cannot be told from it, and those with the smallest peak."""
    done = [index for index, row in enumerate(rows) if row["status"] == "ok"]
    timed = [index for index in done if not math.isnan(rows[index]["seconds"])]
    marks: dict[int, list[str]] = {index: [] for index in done}
    if len(timed) > 1:
        first = min(timed, key=lambda index: float(rows[index]["seconds"]))
        for index in timed:
            lowest = ratio(timed_parts(records[index]), timed_parts(records[first])).low
            if index == first or lowest <= 1:
                marks[index].append("seconds")
    measure = next((name for name in BYTES[1:] if any(rows[index][name] for index in done)), BYTES[0])
    sizes = {index: rows[index][measure] for index in done if rows[index][measure] is not None}
    if len(set(sizes.values())) > 1:
        smallest = min(sizes.values())
        for index in (index for index, size in sizes.items() if size == smallest):
            marks[index].append(measure)
    for index, words in marks.items():
        rows[index]["best"] = ", ".join(words)


def _about(
    records: Sequence[Record],
    settings: Sequence[dict[str, Any]],
    machines: Sequence[dict[str, Any]],
    pinned: Record | None,
) -> list[tuple[str, str]]:
    """Say above the table what holds for all rows: nothing stands without versions, date and command."""
    same = common(machines)
    versions = [f"{name} {value}" for name, value in same.items() if name not in HARDWARE]
    computers = dict.fromkeys(_computer(machine) for machine in machines)
    dates = sorted(record.started_at[:10] for record in records)
    about = {
        "Hardware": "; ".join(computers),
        "Versions": ", ".join(versions),
        "Settings": ", ".join(f"{name} {value}" for name, value in common(settings).items() if value is not False),
        "Date": dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}",
        "Command": "; ".join(dict.fromkeys(record.command for record in records if record.command)),
        "Baseline": f"row {records.index(pinned) + 1}, {pinned.id}" if pinned else "",
    }
    return [(name, text) for name, text in about.items() if text]


def _computer(machine: dict[str, Any]) -> str:
    memory = f" ({format_bytes(machine['vram_bytes'])})" if machine.get("vram_bytes") else ""
    gpu = f"{machine['gpu']}{memory}, " if machine.get("gpu") else ""
    return f"{gpu}{hardware(machine | {'gpu': None})}"
