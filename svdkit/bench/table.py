"""Records as a table: a row each, failures too; only what differs has a column, all else is said above.

As a DataFrame of raw numbers, and of that as Markdown, HTML and CSV; everything that came from a user is escaped.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from svdkit.bench.record import BYTES, Record, check_records
from svdkit.bench.stats import (
    FEWEST_REPEATS,
    Interval,
    chance_of_memory,
    chance_of_trend,
    median,
    percentiles,
    ratio,
)
from svdkit.errors import SettingsError, shown
from svdkit.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["table", "to_markdown", "to_html", "to_csv"]

# What of an environment is hardware; all else are versions.
_HARDWARE = ("gpu", "gpu_count", "vram_bytes", "cpu", "cpu_count")
_NO_INTERVAL = Interval(math.nan, math.nan, math.nan)
# Columns -> their headings, where the name alone does not say it.
_PLAIN = {"peak_allocated_bytes": "peak allocated", "peak_reserved_bytes": "peak reserved", "process_bytes": "process"}
_PLAIN |= {"device_bytes": "device"}
_IN_OTHERS = {"seconds_low", "seconds_high", "seconds_p10", "seconds_p90", "ratio_low", "ratio_high", "best", "id"}
_TIMES = {"forecast_seconds": "forecast", "seconds": "clip time (95 %)"}
_HEADINGS = {**_TIMES, "ratio": "× baseline (95 %)", **_PLAIN}
_NUMBERS = {"repeats", "processes", "ratio", *_TIMES, *_PLAIN}

# Colours with their own text colour, so that they can be read in dark notebooks too.
_BEST_STYLE, _FAILED_STYLE = "background:#d5f0dc;color:#0a3a17", "background:#fbe0dd;color:#5c1109"
_CELL_STYLE = "padding:3px 8px;vertical-align:top;border-bottom:1px solid #8884;text-align:"

# By how much composed clips differ from whole ones in the mean of a precision's cells: bench_results/composition, micro
# on a CPU. No GPU was measured.
_COMPOSED = 0.02
# When a remark is made: a share of a clip, of the median, a chance, and the repeats that a likeness needs to be seen.
_THROTTLED, _TREND, _UNLIKELY, _LONG = 0.05, 0.01, 0.01, 10

_FORMULA_SIGNS = tuple("=+-@\t\n\uff1d\uff0b\uff0d\uff20")  # and as wide as a Chinese or Japanese letter


class _Cell(NamedTuple):
    text: str
    best: bool = False
    failed: bool = False


def table(records: Sequence[Record], *, baseline: Record | str | None = None) -> pd.DataFrame:
    """Lay out records as a DataFrame of raw numbers, one row a record in the order given.

    Columns: every setting and part of the environment that differs; ``model``, ``weights``, ``method``, ``status``;
    ``repeats`` in how many ``processes``, ``forecast_seconds`` (expected before it ran), ``seconds`` (median of the
    timed clips) with ``seconds_low`` and ``seconds_high`` (95 % interval, from 5 repeats or 2 processes),
    ``seconds_p10``, ``seconds_p90``; ``ratio`` of the seconds to the baseline's, below 1 is faster, with ``ratio_low``
    and ``ratio_high``; the names of ``BYTES``; ``quality.<name>``; ``best``: the columns in which the row is best;
    ``remarks`` that speak against the figures; ``reason`` of a failure; ``id``. What all records have in common is in
    ``attrs["about"]``.

    Args:
        records: At least one.
        baseline: A record, or the beginning of its id; None for the first that has seconds.

    Raises:
        SettingsError: No records, or a baseline that is not among them or has no seconds.

    Example:
        >>> table(read_records("bench_results/mine"))["status"].tolist()
        ['ok']
    """
    import pandas as pd

    records = completed(check_records(records, who="table"))
    if not records:
        raise SettingsError("table: there are no records; give at least one, as read_records returns them")
    pinned = _find_baseline(records, baseline)
    settings = [record.settings for record in records]
    machines = [record.machine for record in records]
    rows = [
        {name: row.get(name) for name in varying(settings)}
        | {name: machine.get(name) for name in varying(machines)}
        | _result(record, pinned)
        for record, row, machine in zip(records, settings, machines, strict=True)
    ]
    _mark_best(rows, records)
    last = ("best", "remarks", "reason", "id")
    names = dict.fromkeys(name for row in rows for name in row if name not in last)
    frame = pd.DataFrame(rows, columns=[*names, *last]).astype(dict.fromkeys(BYTES, "Int64"))
    frame.attrs["about"] = _about(records, settings, machines, pinned)
    return frame


def _find_baseline(records: Sequence[Record], baseline: Record | str | None) -> Record | None:
    timed = [record for record in records if record.timed]
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
    parts = record.timed
    to_baseline = ratio_of(record, pinned) if pinned and parts else _NO_INTERVAL
    if record is pinned:
        to_baseline = Interval(1.0, 1.0, 1.0)
    p10, p90 = percentiles(parts)
    error = record.error or {}
    return {
        "model": record.model["name"],
        "weights": record.model["weights"],
        "method": record.method,
        "status": record.status,
        "repeats": sum(map(len, parts)),
        "processes": len(set(record.processes)) or None,
        "forecast_seconds": record.forecast.get("seconds"),
        **seconds_of(record).named("seconds"),
        "seconds_p10": p10,
        "seconds_p90": p90,
        **to_baseline.named("ratio"),
        **record.peaks,
        **{f"quality.{name}": value for name, value in record.quality.items()},
        "best": "",
        "remarks": "; ".join(remarks(record)),
        "reason": f"{error['type']}: {error['message']}" if error else "",
        "id": record.id,
    }


def _mark_best(rows: list[dict[str, Any]], records: Sequence[Record]) -> None:
    """Mark the fastest row and all that cannot be told from it, and those with the smallest peak.

    Without an interval, or of fewer than five repeats, nothing can be told: such a row is not judged.
    """
    done = [index for index, row in enumerate(rows) if row["status"] == "ok"]
    sure = [index for index in done if rows[index]["repeats"] >= FEWEST_REPEATS]
    timed = [index for index in sure if not math.isnan(rows[index]["seconds_low"])]
    marks: dict[int, list[str]] = {index: [] for index in done}
    if len(timed) > 1:
        first = min(timed, key=lambda index: float(rows[index]["seconds"]))
        for index in timed:
            lowest = ratio_of(records[index], records[first]).low
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
    versions = [f"{name} {value}" for name, value in same.items() if name not in _HARDWARE]
    computers = dict.fromkeys(_computer(machine) for machine in machines)
    about = {
        "Hardware": "; ".join(computers),
        "Versions": ", ".join(versions),
        "Settings": ", ".join(f"{name} {value}" for name, value in common(settings).items() if value is not False),
        "Date": days(records),
        "Command": "; ".join(dict.fromkeys(record.command for record in records if record.command)),
        "Baseline": f"row {records.index(pinned) + 1}, {pinned.id}" if pinned else "",
    }
    return [(name, text) for name, text in about.items() if text]


def _computer(machine: dict[str, Any]) -> str:
    memory = f" ({format_bytes(machine['vram_bytes'])})" if machine.get("vram_bytes") else ""
    gpu = f"{machine['gpu']}{memory}, " if machine.get("gpu") else ""
    return f"{gpu}{hardware(machine | {'gpu': None})}"


def seconds_of(record: Record) -> Interval:
    """Median seconds of a clip with their interval, to which what composing is off by is added."""
    return median(record.timed).wider(_COMPOSED if record.method == "composed" else 0)


def ratio_of(new: Record, old: Record) -> Interval:
    """Ratio of two records' seconds; what composing is off by counts where only one of them is composed."""
    return ratio(new.timed, old.timed).wider(_COMPOSED if new.method != old.method else 0)


def remarks(record: Record) -> list[str]:
    """Say what speaks against a record's seconds: never warm, throttled, a trend, repeats that follow each other."""
    found = ["never became warm"] if record.cost.get("never_warm") else []
    held = [share for share in record.cost.get("throttled_fraction", ()) if share > _THROTTLED]
    found += [f"{format_count(len(held), 'clip')} throttled by power or heat"] if held else []
    for seconds in (process for process in record.timed if len(process) >= FEWEST_REPEATS):
        middle = median([seconds]).value
        if middle and (change := _trend(seconds)) is not None and abs(change) > _TREND * middle:
            found.append(f"seconds drift by {change / middle:+.1%} in a process")
        elif len(seconds) >= _LONG and chance_of_memory(seconds) < _UNLIKELY:
            found.append("each repeat is like the one before it, so that they count as fewer")
    return list(dict.fromkeys(found))


def _trend(seconds: list[float]) -> float | None:
    """Seconds from first to last on a straight line, if it is no chance."""
    order = range(len(seconds))
    if chance_of_trend(order, seconds) >= _UNLIKELY:
        return None
    return float(np.polyfit(order, seconds, 1)[0]) * (len(seconds) - 1)


def varying(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names whose values are not the same in all rows, in the order of first appearance; a missing name is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if any(row.get(name) != rows[0].get(name) for row in rows)]


def common(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all rows have in common, without what is None."""
    differ = set(varying(rows))
    return {name: value for name, value in rows[0].items() if value is not None and name not in differ} if rows else {}


def completed(records: Sequence[Record]) -> list[Record]:
    """Fill in what failed runs left open (None, "auto"): they never came to resolve it. All that ran have one value."""
    done = [record for record in records if record.status == "ok"]
    load, clip = common([record.load for record in done]), common([record.clip for record in done])

    def complete(record: Record) -> Record:
        parts = ((record.load, load), (record.clip, clip))
        known = [{**own, **all_, **{k: v for k, v in own.items() if v not in (None, "auto")}} for own, all_ in parts]
        return replace(record, load=known[0], clip=known[1])

    return [record if record.status == "ok" else complete(record) for record in records]


def hardware(environment: Mapping[str, Any]) -> str:
    """The processors in words: the GPU if there is one, else the CPU."""
    cores = environment.get("cpu_count")
    counted = f", {format_count(cores, 'core')}" if isinstance(cores, int) else ""
    return str(environment.get("gpu") or f"{environment.get('cpu') or 'CPU'}{counted}")


def days(records: Sequence[Record]) -> str:
    """The first and the last day on which records were made, or the one."""
    dates = sorted(record.started_at[:10] for record in records)
    return dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"


def to_markdown(frame: pd.DataFrame) -> str:
    """Write a table as Markdown: what holds for all rows above it, the best of a column in bold and by word.

    Example:
        >>> "| model |" in to_markdown(table(records))
        True
    """
    names, rows = _layout(frame)
    lines = [f"- {name}: {_markdown(text)}" for name, text in frame.attrs.get("about", ())]
    lines += ["", f"| {' | '.join(_markdown(_HEADINGS.get(name, name)) for name in names)} |"]
    lines += [f"|{'|'.join('--:' if _is_number(name) else '---' for name in names)}|"]
    lines += [f"| {' | '.join(_markdown(cell.text, bold=cell.best) for cell in row)} |" for row in rows]
    return "\n".join(lines).lstrip("\n") + "\n"


def to_html(frame: pd.DataFrame) -> str:
    """Write a table as HTML that needs nothing else: like the Markdown, the best and the failed in colour too.

    Example:
        >>> to_html(table(records)).count("<table")
        1
    """
    names, rows = _layout(frame)
    about = "".join(f"<li>{html.escape(name)}: {html.escape(text)}</li>" for name, text in frame.attrs.get("about", ()))
    head = "".join(_html("th", name, _Cell(_HEADINGS.get(name, name))) for name in names)
    body = "".join(
        f"<tr>{''.join(_html('td', name, cell) for name, cell in zip(names, row, strict=True))}</tr>" for row in rows
    )
    style = "border-collapse:collapse;font-size:13px;color:inherit"
    table = f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<ul style="margin:0 0 8px">{about}</ul><div style="overflow-x:auto">{table}</div>'


def to_csv(frame: pd.DataFrame) -> str:
    """Write the raw numbers as CSV: seconds and bytes, nothing rounded.

    A text that a spreadsheet would run as a formula, such as a photo's name ``=1+1.jpg``, gets a ``'`` in front.

    Example:
        >>> to_csv(table(records)).startswith("model,")
        True
    """
    return str(frame.rename(columns=_harmless).map(_harmless).to_csv(index=False, lineterminator="\n"))


def _harmless(value: Any) -> Any:
    """Keep a text a text where it is opened: https://owasp.org/www-community/attacks/CSV_Injection."""
    if not isinstance(value, str):
        return value
    text = "\n".join(value.splitlines())  # a lone carriage return would be written without quotes, as a new row
    return f"'{text}" if text.startswith(_FORMULA_SIGNS) else text


def _layout(frame: pd.DataFrame) -> tuple[list[str], list[list[_Cell]]]:
    """Choose the columns that say something and make their cells."""
    names = [name for name in frame.columns if name not in _IN_OTHERS and not all(map(_is_nothing, frame[name]))]
    return names, [[_cell(name, row) for name in names] for row in frame.to_dict("records")]


def _cell(name: str, row: dict[str, Any]) -> _Cell:
    value = row[name]
    if _is_nothing(value):
        return _Cell("–")
    best = name in str(row.get("best", "")).split(", ")
    text = _text(name, row)
    return _Cell(f"{text} best" if best else text, best, failed=name == "status" and value != "ok")


def _is_nothing(value: Any) -> bool:
    """Whether a cell is empty: None, NaN, pandas' NA (which has no truth value), or no text."""
    return value is None or str(value) in ("", "nan", "<NA>")


def _text(name: str, row: dict[str, Any]) -> str:
    value = row[name]
    if name in _PLAIN or name.endswith("_bytes"):
        return format_bytes(value)
    if name in ("seconds", "ratio", "forecast_seconds"):
        low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
        known = not _is_nothing(low) and not _is_nothing(high)
        if name != "ratio":  # in text, an interval of a hundredth would have equal ends
            percent = f" ({low / value - 1:+.1%} to {high / value - 1:+.1%})" if known and value else ""
            return f"{format_seconds(value)}{percent}"
        return f"{value:.3f}{f' ({low:.3f} to {high:.3f})' if known and low != high else ''}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):  # a column of whole numbers is one where a number is missing
        return str(int(value)) if value.is_integer() and not name.startswith("quality.") else f"{value:.4g}"
    return str(value)


def _is_number(name: str) -> bool:
    return name in _NUMBERS or name.startswith("quality.")


def _markdown(text: str, *, bold: bool = False) -> str:
    """Escape what Markdown or HTML would read as more than text."""
    line = html.escape(" ".join(text.split()), quote=False)
    line = re.sub(r"([\\`*\[\]|])", r"\\\1", line)
    return f"**{line}**" if bold else line


def _html(tag: str, name: str, cell: _Cell) -> str:
    side = "right" if _is_number(name) else "left;min-width:4em"
    side += ";white-space:nowrap" if _is_number(name) and tag == "td" else ""
    style = f"{_CELL_STYLE}{side};{_BEST_STYLE if cell.best else _FAILED_STYLE if cell.failed else ''}"
    text = html.escape(cell.text)
    if tag == "th":
        text = text.replace("_", "_<wbr>").replace(".", ".<wbr>")  # long names may break there
    return f'<{tag} style="{style}">{f"<b>{text}</b>" if cell.best else text}</{tag}>'
