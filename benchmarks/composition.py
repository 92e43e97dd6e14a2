"""Is a grid composed of stages right, and what does it save? Every cell composed, and every cell measured whole.

    python benchmarks/composition.py               # 40 cells of the built-in model, about 8 minutes

Both ways take the same repeats, and their cost is the clock around them: starting processes, loading, warming up and,
for the composed way, the cells that profile measures whole as its own check. Run it on a quiet machine.

Writes bench_results/composition/records.jsonl and table.md; exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for svdkit where it is not installed
os.environ["OMP_NUM_THREADS"] = "1"  # threads that wait for each other make the difference of two runs larger

from svdkit.bench.profile import agreement, profile  # noqa: E402 - behind the line above
from svdkit.bench.protocol import Protocol  # noqa: E402
from svdkit.bench.record import write_record  # noqa: E402
from svdkit.bench.stats import median  # noqa: E402
from svdkit.settings import ClipSettings  # noqa: E402
from svdkit.units import format_seconds  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

    from svdkit.bench.record import Record

ERROR_BAR, COST_BAR = 0.05, 0.25
GRID: dict[str, Any] = {
    "num_inference_steps": [6, 12, 18, 25],
    "decode_chunk_size": [1, 2, 4, 7, 14],
    "dtype": ["fp32", "bf16"],
}
QUICK: dict[str, Any] = {"num_inference_steps": [1, 3], "decode_chunk_size": [2, 4], "dtype": ["fp32"]}


def run(*, quick: bool) -> tuple[list[Record], list[Record], dict[str, float]]:
    """Profile both ways; return composed records, whole records, and the seconds that each way took."""
    # Smaller than micro's own size: brute force would take an hour there.
    size: dict[str, Any] = {"num_frames": 4, "height": 64, "width": 64} if quick else {"height": 40, "width": 64}
    clip = ClipSettings(seed=1, **size)
    repeats = 2 if quick else 5
    protocol = Protocol(min_repeats=repeats, max_repeats=repeats, max_warm_ups=1, memory=False)
    cost, made = {}, []
    for way in (True, False):
        start = time.perf_counter()
        made.append(profile("micro", clip=clip, protocol=protocol, composed=way, **(QUICK if quick else GRID)))
        cost["composed" if way else "whole"] = time.perf_counter() - start
    composed, whole = made
    return [record for record in composed if record.method == "composed"], whole, cost


def table(composed: Sequence[Record], whole: Sequence[Record], cost: dict[str, float], *, command: str) -> str:
    """Write both ways, cell by cell, with what they were measured on above and the bars below."""
    first = composed[0]
    here, clip = first.environment, first.clip
    machine = here.get("gpu") or f"{here.get('cpu')}, {here.get('cpu_count')} cores"
    versions = f"Python {here.get('python')}, torch {here.get('torch')}, diffusers {here.get('diffusers')}"
    size = f"{clip['num_frames']} frames of {clip['height']}×{clip['width']} (height×width)"
    repeats = len(first.samples["timed"]["total"])
    lines = [
        "# A grid composed of stages, against every cell measured whole\n",
        (
            f"{machine} of which one is used; {versions}; "
            f"model {first.model['name']} ({first.model['weights']} weights), {size}; "
            f"{repeats} repeats a cell; {first.started_at[:10]}."
        ),
        f"`{command}`\n",
        "| dtype | steps | decode chunk | composed | whole | difference |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    seconds: dict[str, list[float]] = {}
    for record in whole:
        seconds.setdefault(record.id, []).append(median(record.timed).value)
    for record in composed:
        one, other = median(record.timed).value, float(np.mean(seconds[record.id]))
        cell = f"{record.load['dtype']} | {record.clip['num_inference_steps']} | {record.clip['decode_chunk_size']}"
        lines.append(f"| {cell} | {format_seconds(one)} | {format_seconds(other)} | {one / other - 1:+.1%} |")
    found, share = agreement([*composed, *whole]), cost["composed"] / cost["whole"]
    return "\n".join(
        [
            *lines,
            (
                f"\nDifference without sign: median {found['median']:.1%}, largest {found['worst']:.1%}; one cell "
                f"measured twice differs by {found['noise']:.1%}. Bar: a median of at most {ERROR_BAR:.0%}: "
                f"{'met' if found['median'] <= ERROR_BAR else 'missed'}."
            ),
            (
                f"\nCost: {format_seconds(cost['composed'])} composed, {format_seconds(cost['whole'])} whole: "
                f"{share:.0%}. Bar: at most {COST_BAR:.0%}: {'met' if share <= COST_BAR else 'missed'}.\n"
            ),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the files, print the table; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description="A composed grid against brute force.")
    parser.add_argument("--quick", action="store_true", help="four tiny cells, to see that it runs; proves nothing")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench_results" / "composition", help="folder of the results"
    )
    options = parser.parse_args(arguments)
    composed, whole, cost = run(quick=options.quick)
    failed = [record.error for record in (*composed, *whole) if record.status != "ok"]
    if failed:
        raise SystemExit(f"{len(failed)} cells failed, so that nothing can be compared; the first: {failed[0]}")
    command = shlex.join(["python", "benchmarks/composition.py", *(["--quick"] if options.quick else [])])
    text = table(composed, whole, cost, command=command)
    options.out.mkdir(parents=True, exist_ok=True)
    records = options.out / "records.jsonl"
    records.unlink(missing_ok=True)
    for record in (*composed, *whole):
        write_record(records, record)
    (options.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return int(agreement([*composed, *whole])["median"] > ERROR_BAR or cost["composed"] > COST_BAR * cost["whole"])


if __name__ == "__main__":
    sys.exit(main())
