"""Is a grid composed of stages right, and what does it save? Every cell composed, and every cell measured whole.

    python benchmarks/composition.py               # 40 cells of the built-in model, about 20 minutes

Both ways take turns in the same processes, so that what slows the machine slows both. Cost is the clock around a
profile of the composed cells alone, against what measuring the whole ones adds to it. Run it on a quiet machine.

Writes bench_results/composition/records.jsonl and table.md; exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for svdkit where it is not installed
os.environ["OMP_NUM_THREADS"] = "1"  # threads that wait for each other make the difference of two runs larger

from svdkit.bench.profile import profile  # noqa: E402 - behind the line above
from svdkit.bench.protocol import Protocol  # noqa: E402
from svdkit.bench.stats import median, ratio  # noqa: E402
from svdkit.settings import ClipSettings  # noqa: E402
from svdkit.units import format_seconds  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

    from svdkit.bench.record import Record

BIAS_BAR, SIGN_BAR, COST_BAR = 0.02, 15 / 20, 0.25
GRID: dict[str, Any] = {
    "num_inference_steps": [6, 12, 18, 25],
    "decode_chunk_size": [1, 2, 4, 7, 14],
    "dtype": ["fp32", "bf16"],
}
QUICK: dict[str, Any] = {"num_inference_steps": [1, 3], "decode_chunk_size": [2, 4], "dtype": ["fp32"]}
Pair = tuple["Record", "Record"]


def run(results: Path, *, quick: bool) -> tuple[list[Pair], dict[str, float]]:
    """Profile; return composed and whole record of each cell, and the seconds that each way took."""
    # Smaller than micro's own size: brute force would take an hour there.
    size: dict[str, Any] = {"num_frames": 4, "height": 64, "width": 64} if quick else {"height": 40, "width": 64}
    grid, repeats = (QUICK, 2) if quick else (GRID, 9)
    how = {"clip": ClipSettings(seed=1, **size), **grid}
    how["protocol"] = Protocol(min_repeats=repeats, max_repeats=repeats, max_warm_ups=1, memory=False)
    spent = []
    with tempfile.TemporaryDirectory(prefix="svdkit-") as unused:
        for place, check in ((unused, 0), (results, 1000)):
            start = time.perf_counter()
            records = profile("micro", results=place, check=check, **how)
            spent.append(time.perf_counter() - start)
    if failed := [record.error for record in records if record.status != "ok"]:
        raise SystemExit(f"{len(failed)} cells failed, so that nothing can be compared; the first: {failed[0]}")
    cells: dict[str, dict[str, Record]] = {}
    for record in records:
        cells.setdefault(record.id, {})[record.method] = record
    return [(cell["composed"], cell["measured"]) for cell in cells.values()], {
        "composed": spent[0],
        "whole": spent[1] - spent[0],
    }


def biases(pairs: Sequence[Pair]) -> tuple[list[float], list[float]]:
    """Difference, composed over whole, of each cell, and of each process over all cells."""
    by_cell = [ratio(composed.timed, whole.timed).value - 1 for composed, whole in pairs]
    composed, whole = (
        np.array([[np.median(process) for process in pair[way].timed] for pair in pairs]) for way in (0, 1)
    )
    return by_cell, [float(mean) for mean in (composed / whole - 1).mean(axis=0)]


def table(pairs: Sequence[Pair], cost: dict[str, float], *, command: str) -> tuple[str, bool]:
    """Write both ways, cell by cell, below what they were measured on and above the bars; and whether all are met."""
    first = pairs[0][0]
    here, clip = first.environment, first.clip
    machine = here.get("gpu") or f"{here.get('cpu')}, {here.get('cpu_count')} cores"
    versions = f"Python {here.get('python')}, torch {here.get('torch')}, diffusers {here.get('diffusers')}"
    size = f"{clip['num_frames']} frames of {clip['height']}×{clip['width']} (height×width)"
    lines = [
        "# A grid composed of stages, against every cell measured whole\n",
        (
            f"{machine} of which one is used; {versions}; "
            f"model {first.model['name']} ({first.model['weights']} weights), {size}; "
            f"{len(first.order)} repeats a cell in {len(first.timed)} processes; {first.started_at[:10]}."
        ),
        f"`{command}`\n",
        "| dtype | steps | decode chunk | composed | whole | difference |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for (composed, whole), off in zip(pairs, biases(pairs)[0], strict=True):
        cell = (
            f"{composed.load['dtype']} | {composed.clip['num_inference_steps']} | {composed.clip['decode_chunk_size']}"
        )
        seconds = " | ".join(format_seconds(median(one.timed).value) for one in (composed, whole))
        lines.append(f"| {cell} | {seconds} | {off:+.1%} |")
    lines += ["", "| bar | value | at most | |", "|---|--:|--:|---|"]
    rows = []
    for dtype in dict.fromkeys(composed.load["dtype"] for composed, _ in pairs):
        mine = [pair for pair in pairs if pair[0].load["dtype"] == dtype]
        by_cell, by_process = biases(mine)
        mean, ends = float(np.mean(by_process)), f"{min(by_process):+.1%} to {max(by_process):+.1%}"
        sign = max(sum(off > 0 for off in by_cell), sum(off < 0 for off in by_cell))
        rows += [(f"{dtype}: mean difference (processes: {ends})", f"{mean:+.1%}", "±2 %", abs(mean) <= BIAS_BAR)]
        most = round(SIGN_BAR * len(mine))
        rows += [(f"{dtype}: cells with the same sign", f"{sign} of {len(mine)}", f"{most}", sign <= most)]
    share = cost["composed"] / cost["whole"]
    spent = f"cost: {format_seconds(cost['composed'])} composed, {format_seconds(cost['whole'])} whole"
    rows += [(spent, f"{share:.0%}", f"{COST_BAR:.0%}", share <= COST_BAR)]
    lines += [f"| {what} | {value} | {bar} | {'met' if met else 'missed'} |" for what, value, bar, met in rows]
    return "\n".join([*lines, ""]), all(met for *_, met in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the files, print the table; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description="A composed grid against brute force.")
    parser.add_argument("--quick", action="store_true", help="four tiny cells, to see that it runs; proves nothing")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench_results" / "composition", help="folder of the results"
    )
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    records = options.out / "records.jsonl"
    records.unlink(missing_ok=True)
    pairs, cost = run(records, quick=options.quick)
    command = shlex.join(["python", "benchmarks/composition.py", *(["--quick"] if options.quick else [])])
    text, met = table(pairs, cost, command=command)
    (options.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
