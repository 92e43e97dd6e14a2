"""How often is a verdict of ``svdkit.compare`` wrong? On simulated records whose truth is known, and on this machine.

    python benchmarks/verdicts.py               # 500 comparisons a row, about 3 minutes
    python benchmarks/verdicts.py --machine     # and micro profiled twice, three times over, 10 minutes more; without
                                                # --machine what was measured before is compared again

Every simulated side is one cell in three processes; "nothing changed" means that "faster" and "slower" are both wrong.
Writes bench_results/verdicts/table.md and, of the machine, records.*.jsonl; exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for svdkit where it is not installed
os.environ["OMP_NUM_THREADS"] = "1"

from svdkit.bench.compare import compare  # noqa: E402 - behind the line above
from svdkit.bench.profile import profile  # noqa: E402
from svdkit.bench.protocol import Protocol  # noqa: E402
from svdkit.bench.record import Record, now, read_records  # noqa: E402
from svdkit.bench.stats import median  # noqa: E402
from svdkit.settings import ClipSettings  # noqa: E402

OUT = ROOT / "bench_results" / "verdicts"
PROCESSES, REPEATS, TRIALS = 3, 5, 500
SIDES = ("1a", "1b", "2a", "2b", "3a", "3b")
WRONG_BAR, FOUND_BAR = 0.07, 0.90
Draw = np.random.Generator
Seconds = npt.NDArray[np.float64]
Simulate = Callable[[Draw, Seconds], Seconds]  # from random numbers and time, 0 to 1 over both sides, to seconds


def with_process(effect: float) -> Simulate:
    """Give every process a speed of its own (normal), and every clip a noise of 1 %."""
    return lambda draw, time: 1 + effect * draw.normal(size=(len(time), 1)) + 0.01 * draw.normal(size=time.shape)


def heavy(draw: Draw, time: Seconds) -> Seconds:
    """Draw clips of which some take very much longer, in processes that differ by 0.5 %."""
    return 1 + 0.005 * draw.normal(size=(len(time), 1)) + 0.01 * np.abs(draw.standard_t(2, size=time.shape))


def two_modes(draw: Draw, time: Seconds) -> Seconds:
    """Let each process be in one of two states that are 3 % apart, as a memory layout makes them."""
    return 1 + 0.03 * draw.integers(2, size=(len(time), 1)) + 0.005 * draw.normal(size=time.shape)


def following(draw: Draw, time: Seconds) -> Seconds:
    """Let each clip be like the one before it: an autocorrelation of 0.8 at a deviation of 2 %."""
    noise = np.zeros(time.shape)
    noise[:, 0] = draw.normal(size=len(time))
    for clip in range(1, time.shape[1]):
        noise[:, clip] = 0.8 * noise[:, clip - 1] + 0.6 * draw.normal(size=len(time))
    return 1 + 0.02 * noise


def drifting(noise: float, *, total: float = 0.02) -> Simulate:
    """Let the machine become slower by so much from the first clip of the old side to the last of the new one."""
    return lambda draw, time: 1 + total * time + noise * draw.normal(size=time.shape)


NOTHING_CHANGED: dict[str, Simulate] = {
    **{f"processes differ by {effect:.1%} (sd)": with_process(effect) for effect in (0.0, 0.002, 0.005, 0.01, 0.02)},
    "heavy tails: Student's t with 2 degrees of freedom": heavy,
    "two modes, 3 % apart": two_modes,
    "autocorrelation 0.8": following,
    "drift of 2 % over both sides, noise 0.2 %": drifting(0.002),
    "drift of 2 % over both sides, noise 1 %": drifting(0.01),
}


def record_of(seconds: Seconds) -> Record:
    """Make a record of one cell, a row of seconds a process."""
    count = seconds.size
    return Record(
        id="0" * 16,
        status="ok",
        load={},
        clip={},
        image={},
        environment={},
        model={"name": "micro", "weights": "trained"},
        samples={"timed": {"total": seconds.ravel().tolist()}},
        order=list(range(count)),
        processes=[str(number) for number in np.repeat(range(len(seconds)), seconds.shape[1])],
        started_at="2026-01-01T00:00:00+00:00",
    )


def share(simulate: Simulate, *, factor: float = 1.0, trials: int = TRIALS) -> dict[str, float]:
    """Compare many pairs of sides: how often each verdict falls, and how often the interval alone would exclude 1."""
    draw, counts = np.random.default_rng(1), {"faster": 0, "slower": 0, "interval": 0}
    time = np.linspace(0, 1, 2 * PROCESSES * REPEATS).reshape(2, PROCESSES, REPEATS)
    for _ in range(trials):
        old, new = (simulate(draw, part) for part in time)
        (change,) = compare([record_of(old)], [record_of(factor * new)]).changes
        counts["interval"] += change.ratio.excludes(1)
        counts[change.time] = counts.get(change.time, 0) + 1
    return {name: count / trials for name, count in counts.items()}


def coverage(effect: float = 0.02, *, trials: int = TRIALS) -> tuple[float, float]:
    """How often the interval of one side holds the truth: ours, and a bootstrap over processes, then runs."""
    draw, held = np.random.default_rng(2), np.zeros(2)
    for _ in range(trials):
        logs = np.log(with_process(effect)(draw, np.zeros((PROCESSES, REPEATS))))
        found = median(np.exp(logs).tolist())
        chosen = logs[draw.integers(PROCESSES, size=(1000, PROCESSES))]
        drawn = draw.integers(REPEATS, size=chosen.shape)
        middles = np.median(np.take_along_axis(chosen, drawn, axis=-1), axis=-1).mean(axis=-1)
        low, high = np.quantile(middles, [0.025, 0.975])
        held += (found.low <= 1 <= found.high, low <= 0 <= high)
    return float(held[0]) / trials, float(held[1]) / trials


def measure(folder: Path) -> None:
    """Profile micro twice, three times over."""
    how: dict[str, Any] = {"num_inference_steps": [4, 10], "decode_chunk_size": [2, 14], "check": 1}
    how["clip"] = ClipSettings(seed=1, height=40, width=64)  # so that it takes minutes
    how["protocol"] = Protocol(min_repeats=PROCESSES * REPEATS, max_repeats=PROCESSES * REPEATS, max_warm_ups=3)
    for side in SIDES:
        place = folder / f"records.{side}.jsonl"
        place.unlink(missing_ok=True)
        profile("micro", results=place, **how)


def machine_rows(folder: Path) -> tuple[list[str], bool]:
    """Say what compare finds in the pairs of profiles, between which nothing has changed."""
    alone, count, most = 0, 0, 0.0
    lines, met = ["| pair | row | ratio, 95 % | noise floor | time | memory |", "|--:|---|--:|--:|---|---|"], True
    sides = [read_records(folder / f"records.{side}.jsonl") for side in SIDES]
    for pair, (old, new) in enumerate(zip(sides[::2], sides[1::2], strict=True), start=1):
        found = compare(old, new)
        for c in found.changes:
            ratio = f"{c.ratio.value:.3f} ({c.ratio.low:.3f} to {c.ratio.high:.3f})"
            lines.append(f"| {pair} | {c.name} | {ratio} | {found.noise_floor:.1%} | {c.time} | {c.memory} |")
            met &= c.time not in {"faster", "slower"}
            alone, count = alone + c.ratio.excludes(1), count + 1
            most = max(most, abs((c.new_bytes or 1) / (c.old_bytes or 1) - 1))
    here = sides[0][0].environment
    said = f"{here.get('gpu') or here.get('cpu')}, {here.get('cpu_count')} cores, one thread; torch {here['torch']}"
    told = (
        f"The interval alone excludes 1 in {alone} of {count} rows. The limit of 15 % for a process's memory was "
        f"chosen before these figures, on six other processes; here the sides differ by up to {most:.0%}.\n"
    )
    return [f"{said}. Bar: no row faster or slower: {'met' if met else 'missed'}.\n", told, *lines], met


def simulated_rows(trials: int) -> tuple[list[str], bool]:
    """Make the tables of what was simulated; and whether all bars are met."""
    met = True
    lines = ["| nothing changed | interval alone | wrong verdicts | bar | |", "|---|--:|--:|--:|---|"]
    for name, simulate in NOTHING_CHANGED.items():
        found = share(simulate, trials=trials)
        wrong = found["faster"] + found["slower"]
        met &= wrong <= WRONG_BAR
        word = "met" if wrong <= WRONG_BAR else "missed"
        lines.append(f"| {name} | {found['interval']:.1%} | {wrong:.1%} | ≤ {WRONG_BAR:.0%} | {word} |")
    lines += [
        "",
        "Beyond what is promised, without a bar: a larger drift. Inside the sides it shows, where noise is small.\n",
    ]
    lines += ["| nothing changed | interval alone | wrong verdicts |", "|---|--:|--:|"]
    for total, noise in itertools.product((0.04, 0.06, 0.1), (0.002, 0.01)):
        found = share(drifting(noise, total=total), trials=trials)
        wrong = found["faster"] + found["slower"]
        name = f"drift of {total:.0%} over both sides, noise {noise:.1%}"
        lines.append(f"| {name} | {found['interval']:.1%} | {wrong:.1%} |")
    lines += ["", "| changed, noise 1 % | found | bar | |", "|---|--:|--:|---|"]
    for name, factor, verdict in (("5 % slower", 1.05, "slower"), ("5 % faster", 0.95, "faster")):
        found = share(with_process(0.0), factor=factor, trials=trials)
        met &= found[verdict] >= FOUND_BAR
        word = "met" if found[verdict] >= FOUND_BAR else "missed"
        lines.append(f"| {name} | {found[verdict]:.1%} | ≥ {FOUND_BAR:.0%} | {word} |")
    ours, bootstrap = coverage(trials=trials)
    said = (
        f"\nOf one side, whose processes differ by 2 % (sd), the 95 % interval holds the truth in {ours:.1%}; "
        f"a bootstrap over processes, then runs, would in {bootstrap:.1%}."
    )
    return [*lines, said], met


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, measure if asked, write the table, print it; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description="How often a verdict is wrong.")
    parser.add_argument("--machine", action="store_true", help="profile micro twice, three times over, as well")
    parser.add_argument("--trials", type=int, default=TRIALS, help="comparisons a row; fewer prove less")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.machine:
        measure(options.out)
    has_machine = (options.out / f"records.{SIDES[-1]}.jsonl").is_file()
    rows, met = simulated_rows(options.trials)
    off = 1.96 * np.sqrt(0.07 * 0.93 / options.trials)
    said = (
        f"{options.trials} comparisons a row, {PROCESSES} processes a side of {REPEATS} clips each; a share of 7 % is "
        f"known to ± {off:.1%} (95 %). {now()[:10]}; Python {platform.python_version()}, numpy {np.__version__}."
    )
    command = shlex.join(["python", "benchmarks/verdicts.py", *(["--machine"] if has_machine else [])])
    lines = ["# How often a verdict is wrong\n", said, f"`{command}`\n", *rows]
    if has_machine:
        rows, quiet = machine_rows(options.out)
        lines += ["\n## The same profile of micro twice\n", *rows]
        met &= quiet
    text = "\n".join([*lines, ""])
    (options.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
