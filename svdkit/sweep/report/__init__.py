"""A results folder as a page that opens by double click: clips in step, table, curves, failures; and plain tables."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

from svdkit.bench.quality import QUALITY
from svdkit.bench.record import read_records, records_file
from svdkit.bench.table import table, to_csv, to_markdown
from svdkit.clip.provenance import plain
from svdkit.disk import write_whole
from svdkit.errors import ClipError, SvdkitError
from svdkit.sweep.report.figures import contact_sheet
from svdkit.sweep.report.page import render
from svdkit.sweep.report.rows import SHOWN, inside, make_rows

__all__ = ["write_report"]


def write_report(folder: str | Path, *, baseline: str | None = None) -> Path:
    """Write ``index.html``, ``table.md``, ``table.csv`` and ``contact_sheet.png`` into a results folder.

    The page needs no network and no server; it links to the clips in ``runs/`` and shows them in step, and it says
    what failed and why. It can be written again at any time, during a sweep too.

    Args:
        folder: A results folder, with ``records.jsonl`` in it.
        baseline: The beginning of the id of the run that the others are compared with; the first that was timed when
            left out. A reader can choose another.

    Returns:
        The path of ``index.html``.

    Raises:
        SvdkitError: There are no records, or they cannot be read, or no timed record has that id.

    Example:
        >>> write_report("bench_results/motion")  # doctest: +SKIP
        PosixPath('bench_results/motion/index.html')
    """
    records = list({record.id: record for record in read_records(folder)}.values())  # of a run made again the last
    folder = records_file(folder).parent
    if not records:
        raise SvdkitError(f"{folder} has no runs yet; start the sweep first, then write the report")
    frame, described = table(records, baseline=baseline), _read_json(folder / "sweep.json")
    asked = described.get("asked", described)  # what a sweep writes, or what a user wrote by hand
    axes = asked.get("axes") if isinstance(asked, dict) else None
    rows, axes = make_rows(folder, records, order=list(axes) if isinstance(axes, dict) else [])
    posters = [inside(folder, row.record.artifacts.get("poster")) for row in rows]
    sheet = contact_sheet(list(zip(posters, (row.title for row in rows), strict=True)))
    overview = io.BytesIO()
    sheet.quantize(128).save(overview, "PNG", optimize=True)  # a third of the bytes, for an overview
    write_whole(folder / "contact_sheet.png", overview.getvalue())
    write_whole(folder / "table.csv", to_csv(frame).encode("utf-8-sig"))  # Excel takes it for ANSI else
    unread = [f"quality.{name}" for name in QUALITY if name not in SHOWN]
    write_whole(folder / "table.md", to_markdown(frame.drop(columns=unread, errors="ignore")))
    timed = [row.record.id for row in rows if not math.isnan(row.seconds)]
    pinned = next((name for name in timed if name.startswith(baseline or "")), "")
    title = folder.resolve().name.replace("_", " ")
    made = next((record.environment for record in records if record.status == "ok"), {})  # the driver may lack a GPU
    environment = made or _read_json(folder / "environment.json") or records[0].environment
    page = render(title, rows, axes, asked=described, environment=environment, baseline=pinned)
    write_whole(folder / "index.html", page)
    return folder / "index.html"


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of the folder; nothing when it is missing, not one, or nested deeper than any of ours."""
    try:
        values = plain(json.loads(path.read_text(encoding="utf-8")), where=path.name)
    except (OSError, ValueError, RecursionError, ClipError):
        return {}
    return values if isinstance(values, dict) else {}
