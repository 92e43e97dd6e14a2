"""The index of bench_results/: for each results folder what it shows, how it came out, where, when and by what command.

    python benchmarks/readme.py            # writes bench_results/README.md
    python benchmarks/readme.py --check    # exits with 1 when the file is not what would be written

All of it is read from the folders. Two kinds are known: what a script of benchmarks/ wrote (``table.md``, with
``records.json``, ``records.jsonl`` or ``records.csv``) and what a sweep wrote (``records.jsonl`` and ``sweep.json``).
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for svdkit where it is not installed

from svdkit.bench.record import read_records  # noqa: E402 - behind the line above
from svdkit.bench.table import hardware  # noqa: E402
from svdkit.units import format_count  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

    from svdkit.bench.record import Record

_DATE = re.compile(r"\b20\d\d-\d\d-\d\d\b")
_COMMAND = re.compile(r"`((?:python|svdkit) [^`]+)`")
_MOTION = "motion_percent_width_per_second"
INTRODUCTION = """\
# Measured results

Committed so that every figure in the documentation can be traced to its raw numbers. Each row is read from its folder
by `python benchmarks/readme.py`, which writes this file. In a folder, `table.md` is what to read, and `records.*` holds
the raw values, versions included. A sweep also has `index.html`: clone the repository and open it by double click.

A missed bar stays here as missed. Unless a row says otherwise the model is micro, svdkit's built-in one: its seconds
and its pictures say nothing about Stable Video Diffusion. What is dated before 26 November 2026 was measured on the
micro of then, which had 5 million parameters and latents of a quarter of the size.

A sweep times each clip once, next to whatever else the machine is doing: what it is for are the clips and the numbers
measured from their pixels. For seconds, look at the benchmarks.
"""


class Entry(NamedTuple):
    """What the index says of a folder; an empty text is not known."""

    name: str
    about: str
    outcome: str
    computer: str
    date: str
    command: str


def describe(folder: Path) -> Entry:
    """Read a results folder.

    Raises:
        SystemExit: It has neither a table nor records, so that nothing can be said.
    """
    text = _read(folder / "table.md")
    if (folder / "sweep.json").is_file():
        return _describe_sweep(folder)
    if not text:
        raise SystemExit(f"{folder} has no table.md; let its script write one, or take the folder away")
    record = _record_of(folder)
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    command = _first(_COMMAND, text) or record.get("command", "")
    computer = hardware(record["environment"]) if record.get("environment") else "no measurement of its own"
    date = str(record.get("date", ""))[:10] or _first(_DATE, text.partition("\n|")[0])  # below stand others' dates
    return Entry(folder.name, title.group(1) if title else folder.name, _verdicts(text), computer, date, command)


def _record_of(folder: Path) -> dict[str, Any]:
    """Give command, date and environment: of one JSON object, or of the first of many records."""
    if (folder / "records.json").is_file():
        values: dict[str, Any] = json.loads(_read(folder / "records.json"))
        return values
    if files := sorted(folder.glob("records*.jsonl")):
        first = read_records(files[0])[0]
        return {"command": first.command, "date": first.started_at, "environment": first.environment}
    return {}


def _verdicts(text: str) -> str:
    """Count the bars that a table says were met and missed."""
    met, missed = (len(re.findall(rf"\b{word}\b", text)) for word in ("met", "missed"))
    words = [f"{met} met"] * bool(met) + [f"**{missed} missed**"] * bool(missed)
    return f"bars: {', '.join(words)}" if words else "no bar"


def _describe_sweep(folder: Path) -> Entry:
    records, asked = read_records(folder), json.loads(_read(folder / "sweep.json"))["asked"]
    axes = "".join(f" × {name} ({len(values)})" for name, values in asked["axes"].items())
    about = f"A sweep: {format_count(len(asked['photos']), 'photo')}{axes}"
    failed = sum(record.status != "ok" for record in records)
    outcome = f"{format_count(len(records), 'run')}, {failed} failed{_motion(records)}"
    computers = "; ".join(dict.fromkeys(hardware(record.environment) for record in records))
    date, command = max(record.started_at for record in records)[:10], records[0].command
    return Entry(folder.name, about, outcome, computers, date, command)


def _motion(records: Sequence[Record]) -> str:
    """Say how motion changed from the lowest to the highest bucket, if there are several."""
    speeds: dict[int, list[float]] = {}
    for record in records:
        if record.status == "ok" and record.quality.get(_MOTION) is not None:
            speeds.setdefault(record.clip["motion_bucket_id"], []).append(record.quality[_MOTION])
    if len(speeds) < 2:
        return ""
    low, high = min(speeds), max(speeds)
    ends = [statistics.median(speeds[bucket]) for bucket in (low, high)]
    return f"; median motion {ends[0]:.1f} % of the width a second at bucket {low}, {ends[1]:.1f} at bucket {high}"


def render(folder: Path) -> str:
    """Write the index of all results folders in a folder, as Markdown."""
    entries = [describe(one) for one in sorted(folder.iterdir()) if one.is_dir() and any(one.glob("records.*"))]
    lines = ["| folder | what | outcome | measured on | date | command |", "|---|---|---|---|---|---|"]
    for entry in entries:
        about, outcome, computer, date = (_cell(text) for text in entry[1:5])
        command = f"`{entry.command}`" if entry.command else "–"
        link = f"[{entry.name}]({entry.name}/table.md)"
        lines.append(f"| {link} | {about} | {outcome} | {computer} | {date} | {command} |")
    return f"{INTRODUCTION}\n" + "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|") or "–"


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found.group(found.lastindex or 0) if found else ""


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the index, or check that it is up to date; 1 when it is not."""
    parser = argparse.ArgumentParser(description="The index of bench_results/.")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--folder", type=Path, default=ROOT / "bench_results", help="folder of the results folders")
    options = parser.parse_args(arguments)
    text, path = render(options.folder), options.folder / "README.md"
    if options.check:
        if _read(path) == text:
            return 0
        print(f"{path.name} is not up to date: run python benchmarks/readme.py", file=sys.stderr)
        return 1
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
