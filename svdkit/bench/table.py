"""Records as a table: a row each, failures too; only what differs has a column, all else is said above.

As a DataFrame of raw numbers, and of that as Markdown, HTML and CSV; everything that came from a user is escaped.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
from svdkit.units import format_bytes, format_count, format_money, format_seconds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["table", "to_markdown", "to_html", "to_csv"]

# What of an environment is hardware; all else are versions.
_HARDWARE = ("gpu", "gpu_count", "vram_bytes", "cpu", "cpu_count")
# Columns of results with their headings; settings and parts of the machine go by their names.
COLUMNS: dict[str, str] = {
    "repeats": "repeats",
    "processes": "processes",
    "forecast_seconds": "forecast",
    "seconds": "clip time (95 %)",
    "ratio": "× baseline (95 %)",
    **dict(zip(BYTES, ("peak allocated", "peak reserved", "process", "device"), strict=True)),
    "quality.motion_percent_width_per_second": "motion, % width/s",
    "quality.camera_explained_fraction": "as one camera",
    "quality.sharpness_last_to_first_ratio": "sharpness kept",
    "quality.warp_error_grey_levels": "warp error, grey levels",
    "quality.chunk_border_ratio": "chunk borders",
    "quality.first_frame_psnr_db": "likeness of frame\u00a00, dB",
    "quality.reference_psnr_db": "likeness to the reference, dB",
    "money": "cost",
}
_IN_OTHERS = {"seconds_low", "seconds_high", "seconds_p10", "seconds_p90", "ratio_low", "ratio_high"}
_IN_OTHERS |= {"currency", "best", "id"}

# Colours with their own text colour, so that they can be read in dark notebooks too.
_STYLES = {"": "", "best": "background:#d5f0dc;color:#0a3a17;font-weight:bold"}
_STYLES |= {"failed": "background:#fbe0dd;color:#5c1109"}

# By how much composed clips differ from whole ones in the mean of a precision's cells: bench_results/composition, micro
# on a CPU. No GPU was measured.
_COMPOSED = 0.02
# When a remark is made: a share of a clip, of the median, a chance, and the repeats that a likeness needs to be seen.
_THROTTLED, _TREND, _UNLIKELY, _LONG = 0.05, 0.01, 0.01, 10

_FORMULA_SIGNS = tuple("=+-@\t\n\uff1d\uff0b\uff0d\uff20")  # and as wide as a Chinese or Japanese letter


def table(records: Sequence[Record], *, baseline: Record | str | None = None) -> pd.DataFrame:
    """Lay out records as a DataFrame of raw numbers, one row a record in the order given.

    Columns: every setting and part of the environment that differs; ``model``, ``weights``, ``method``, ``status``;
    ``repeats`` in how many ``processes``, ``forecast_seconds`` (expected before it ran), ``seconds`` (median of the
    timed clips) with ``seconds_low`` and ``seconds_high`` (95 % interval, from 5 repeats or 2 processes),
    ``seconds_p10``, ``seconds_p90``; ``ratio`` of the seconds to the baseline's, below 1 is faster, with ``ratio_low``
    and ``ratio_high``; the names of ``BYTES``; ``quality.<name>``; ``money`` of a clip in ``currency``; ``best``: the
    columns in which the row is best; ``remarks`` that speak against the figures; ``reason`` of a failure; ``id``. What
    all records have in common is in ``attrs["about"]``.

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
    last = ("best", "remarks", "reason", "id")
    names = dict.fromkeys(name for row in rows for name in row if name not in last)
    frame = pd.DataFrame(rows, columns=[*names, *last]).astype(dict.fromkeys(BYTES, "Int64"))
    frame["best"] = _best(frame, records)
    frame.attrs |= {"about": _about(records, settings, machines, pinned), "settings": varying(settings)}
    return frame


def _find_baseline(records: Sequence[Record], baseline: Record | str | None) -> Record | None:
    timed = [record for record in records if record.timed]
    if baseline is None:
        return timed[0] if timed else None
    name: object = baseline.id if isinstance(baseline, Record) else baseline
    found = [record for record in timed if record is baseline] or [each for each in timed if each == baseline][:1]
    found = found or [record for record in timed if isinstance(name, str) and record.id.startswith(name)]
    if len({record.id for record in found}) != 1:
        known = ", ".join(dict.fromkeys(record.id for record in timed)) or "none"
        raise SettingsError(f"table: baseline {shown(name)} is not one of the records with seconds; they are: {known}")
    return found[0]


def _result(record: Record, pinned: Record | None) -> dict[str, Any]:
    parts = record.timed
    to_baseline = Interval(1.0, 1.0, 1.0) if record is pinned else ratio_of(record, pinned or record)
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
        "money": record.cost.get("money"),
        "currency": record.cost.get("currency", "USD") if "money" in record.cost else None,
        "remarks": "; ".join(remarks(record)),
        "reason": f"{error['type']}: {error['message']}" if error else "",
        "id": record.id,
    }


def _best(frame: pd.DataFrame, records: Sequence[Record]) -> list[str]:
    """Name the columns in which each row is best: the fastest and all that cannot be told from it, the smallest peak.

    Without an interval, or of fewer than five repeats, nothing can be told: such a row is not judged.
    """
    done = frame[frame["status"] == "ok"]
    sure = done[(done["repeats"] >= FEWEST_REPEATS) & done["seconds_low"].notna()]
    base = records[sure["seconds"].idxmin()] if len(sure) > 1 else None
    fast = [index for index in sure.index if base and not ratio_of(records[index], base).low > 1]
    measure = next((name for name in BYTES[1:] if done[name].any()), BYTES[0])
    sizes = done[measure].dropna()
    is_least = sizes == sizes.min()
    small = [] if is_least.all() else sizes.index[is_least]
    columns = (("seconds", fast), (measure, small))
    return [", ".join(name for name, rows in columns if index in rows) for index in frame.index]


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
        middle, order = float(np.median(seconds)), range(len(seconds))
        change = float(np.polyfit(order, seconds, 1)[0]) * (len(seconds) - 1)  # from first to last, on a straight line
        if abs(change) > _TREND * middle > 0 and chance_of_trend(order, seconds) < _UNLIKELY:
            found.append(f"seconds drift by {change / middle:+.1%} in a process")
        elif len(seconds) >= _LONG and chance_of_memory(seconds) < _UNLIKELY:
            found.append("each repeat is like the one before it, so that they count as fewer")
    return list(dict.fromkeys(found))


def varying(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names whose values are not the same in all rows, in the order of first appearance; a missing name is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if any(row.get(name) != rows[0].get(name) for row in rows)]


def common(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all rows have in common, without what is None."""
    first = rows[0].items() if rows else ()
    return {name: value for name, value in first if value is not None and all(row.get(name) == value for row in rows)}


def completed(records: Sequence[Record]) -> list[Record]:
    """Fill in what failed runs left open (None, "auto"): they never came to resolve it. All that ran have one value."""
    done = [record for record in records if record.status == "ok"]
    known = {part: common([getattr(record, part) for record in done]) for part in ("load", "clip")}

    def complete(record: Record) -> Record:
        parts: dict[str, Any] = {}
        for part, values in known.items():
            own = getattr(record, part)
            parts[part] = own | {name: value for name, value in values.items() if own.get(name) in (None, "auto")}
        return replace(record, **parts)

    return [record if record.status == "ok" else complete(record) for record in records]


def hardware(environment: Mapping[str, Any]) -> str:
    """The processors in words: the GPU if there is one, else the CPU."""
    cores = environment.get("cpu_count")
    counted = f", {format_count(cores, 'core')}" if isinstance(cores, int) else ""
    return str(environment.get("gpu") or f"{environment.get('cpu') or 'CPU'}{counted}")


def days(records: Sequence[Record]) -> str:
    """The first and the last day on which records were made, or the one."""
    dates = sorted(record.started_at[:10] for record in records)
    return " to ".join(dict.fromkeys((dates[0], dates[-1])))


def to_markdown(frame: pd.DataFrame) -> str:
    """Write a table as Markdown: what holds for all rows above it, the best of a column in bold and by word.

    Example:
        >>> "| model |" in to_markdown(table(records))
        True
    """
    names, rows = layout(frame)
    lines = [f"- {name}: {_escaped(text)}" for name, text in frame.attrs.get("about", ())]
    lines += ["", f"| {' | '.join(_escaped(COLUMNS.get(name, name)) for name in names)} |"]
    lines += [f"|{'|'.join('--:' if _is_number(name) else '---' for name in names)}|"]
    texts = ([f"**{_escaped(text)}**" if mark == "best" else _escaped(text) for text, mark in row] for row in rows)
    lines += [f"| {' | '.join(row)} |" for row in texts]
    return "\n".join(lines).lstrip("\n") + "\n"


def to_html(frame: pd.DataFrame) -> str:
    """Write a table as HTML that needs nothing else: like the Markdown, the best and the failed in colour too.

    Example:
        >>> to_html(table(records)).count("<table")
        1
    """

    def line(tag: str, cells: Iterable[tuple[str, str]]) -> str:
        return f"<tr>{''.join(_html(tag, name, *cell) for name, cell in zip(names, cells, strict=True))}</tr>"

    names, rows = layout(frame)
    about = "".join(f"<li>{html.escape(name)}: {html.escape(text)}</li>" for name, text in frame.attrs.get("about", ()))
    head = line("th", ((COLUMNS.get(name, name), "") for name in names))
    table = f"<thead>{head}</thead><tbody>{''.join(line('td', row) for row in rows)}</tbody>"
    style = "border-collapse:collapse;font-size:13px;color:inherit"
    return (
        f'<ul style="margin:0 0 8px">{about}</ul>'
        f'<div style="overflow-x:auto"><table style="{style}">{table}</table></div>'
    )


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


def layout(frame: pd.DataFrame, among: Iterable[str] = ()) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Choose the columns that say something; of each row give their texts, each with "best", "failed" or "" for it."""
    names = [name for name in among or frame if name in frame and name not in _IN_OTHERS]
    names = [name for name in names if set(map(text_of, frame[name])) != {"–"}]
    return names, [[_cell(name, row) for name in names] for row in frame.to_dict("records")]


def _cell(name: str, row: Mapping[str, Any]) -> tuple[str, str]:
    if name in str(row.get("best")).split(", "):
        return f"{shown_text(name, row)} best", "best"
    return shown_text(name, row), "failed" if name == "status" and row[name] != "ok" else ""


def shown_text(name: str, row: Mapping[str, Any]) -> str:
    """Write a value of a row for a reader, seconds and ratios with their interval."""
    value, low, high = row[name], row.get(f"{name}_low", math.nan), row.get(f"{name}_high", math.nan)
    if text_of(value) == "–":
        return "–"
    if name.endswith("_bytes"):
        return format_bytes(value)
    if name.endswith("seconds"):  # in text, an interval of a hundredth would have equal ends
        percent = f" ({low / value - 1:+.1%} to {high / value - 1:+.1%})" if value and low <= high else ""
        return f"{format_seconds(value)}{percent}"
    if name == "money":
        return format_money(value, row.get("currency", "USD"))
    if name == "ratio":
        return f"{value:.3f} ({low:.3f} to {high:.3f})" if low < high else f"{value:.3f}"
    return text_of(value, digits=4 if name.startswith("quality.") else 15)


def text_of(value: Any, *, digits: int = 15) -> str:
    """Write a plain value for a reader, "–" for nothing: a setting with all digits, else 23.976 and 24 would be one."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:.{digits}g}" if isinstance(value, float) else str(value)
    return "–" if text in ("", "nan", "None", "<NA>") else text


def _is_number(name: str) -> bool:
    return name in COLUMNS or name.startswith("quality.")


def _escaped(text: str) -> str:
    """Escape what Markdown or HTML would read as more than text."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _html(tag: str, name: str, text: str, mark: str) -> str:
    side = "right;white-space:nowrap" if _is_number(name) and tag == "td" else "left;min-width:4em"
    style = f"padding:3px 8px;vertical-align:top;border-bottom:1px solid #8884;text-align:{side};{_STYLES[mark]}"
    return f'<{tag} style="{style}">{html.escape(text).replace("_", "_<wbr>")}</{tag}>'  # long names may break there
