"""What svdkit's generate() costs over one bare call of diffusers' pipeline: same model, settings, photo and seed.

    python benchmarks/overhead.py                  # the built-in model

Three ways run in turn, in an order that changes every round: the bare call, svdkit, and the bare call again, whose
ratio to the first is the noise of this machine. Ratios are of one round; the table shows their median and its bootstrap
95 % interval, by the clock and by processor time, which other programs disturb less. Fitting the photo is outside;
svdkit's progress display is inside, diffusers' is off.

Writes bench_results/overhead/records.json and table.md; exits with 1 when the median overhead is above the bar.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for tests.toy, and for svdkit where it is not installed

from svdkit.environment import summary  # noqa: E402 - behind the line above
from svdkit.generate import generate  # noqa: E402
from svdkit.generate.loop import execution_device, synchronize  # noqa: E402
from svdkit.image import Frame, fit  # noqa: E402
from svdkit.pipeline import load  # noqa: E402
from svdkit.settings import ClipSettings  # noqa: E402
from svdkit.units import format_seconds  # noqa: E402
from tests.toy import toy_pipeline  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BAR = 0.02
WAYS = ("bare", "svdkit", "bare again")


def ways_of(pipe: Any, frame: Frame, settings: ClipSettings) -> dict[str, Callable[[], Any]]:
    """Return a function a way; each gives the frames as a uint8 array when called."""
    arguments = {name: value for name, value in settings.to_dict().items() if name not in {"seed", "playback_fps"}}

    def bare() -> Any:
        generator = torch.Generator("cpu").manual_seed(settings.seed or 0)
        return np.stack([np.asarray(image) for image in pipe(frame.image, generator=generator, **arguments).frames[0]])

    return {"bare": bare, "svdkit": lambda: generate(pipe, frame, settings, progress="terminal").frames, WAYS[2]: bare}


def measure(ways: dict[str, Callable[[], Any]], *, repeats: int, device: Any) -> dict[str, dict[str, list[float]]]:
    """Time every way `repeats` times after one round that is not counted: seconds by clock and way, round by round."""
    frames = [way() for way in ways.values()]
    if not all(np.array_equal(frames[0], other) for other in frames[1:]):
        raise SystemExit("the ways gave different frames; their times cannot be compared")
    clocks = {"wall": time.perf_counter, "processor": time.process_time}
    seconds: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in ways} for clock in clocks}
    for repeat in range(repeats):
        for name in [*ways, *ways][repeat % 3 :][:3]:
            synchronize(device)
            start = {clock: read() for clock, read in clocks.items()}
            ways[name]()
            synchronize(device)
            for clock, read in clocks.items():
                seconds[clock][name].append(read() - start[clock])
    return seconds


def overhead(seconds: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """Compare round by round: median of the ratios less one (0.02 is 2 % slower), and its bootstrap 95 % interval."""
    ratios = np.asarray(seconds) / np.asarray(reference) - 1
    draws = np.random.default_rng(0).integers(len(ratios), size=(10_000, len(ratios)))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def table(record: dict[str, Any]) -> str:
    """Write a record as a Markdown table, with what it was measured on above."""
    here, settings, samples = record["environment"], record["settings"], record["samples_seconds"]["wall"]
    machine = here["gpu"] or f"{here['cpu']}, {here['cpu_count']} cores, {record['threads']} torch threads"
    versions = f"Python {here['python']}, torch {here['torch']}, diffusers {here['diffusers']}"
    size = f"{settings['num_frames']} frames of {settings['height']}×{settings['width']} (height×width)"
    steps = f"{settings['num_inference_steps']} steps, decode chunk {settings['decode_chunk_size']}"
    lines = [
        "# Overhead of generate() over one bare call of diffusers' pipeline\n",
        f"{machine}; {versions}; model {record['model']}, {size}, {steps}; {record['date'][:10]}.",
        f"`{record['command']}`\n",
        "| | a clip, median | overhead, median | 95 % interval | in processor time | 95 % interval | rounds |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for way in WAYS:
        found = [record["overhead"][clock].get(way) for clock in ("wall", "processor")]
        shares = [f"{each[0]:+.2%} | {each[1]:+.2%} to {each[2]:+.2%}" if each else "– | –" for each in found]
        clip = format_seconds(float(np.median(samples[way])))
        lines.append(f"| {way} | {clip} | {' | '.join(shares)} | {len(samples[way])} |")
    value, _, high = record["overhead"]["wall"]["svdkit"]
    verdict = "met" if high <= BAR else "met by the median only" if value <= BAR else "missed"
    return "\n".join([*lines, f"\nBar: at most {BAR:.0%}: {verdict}.\n"])


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, and put together the record."""
    pipe = toy_pipeline() if options.model == "toy" else load(options.model)
    pipe.set_progress_bar_config(disable=True)
    height, width = (64, 64) if options.model == "toy" else (pipe.svdkit.model.height, pipe.svdkit.model.width)
    frame = fit(options.photo, height=height, width=width)
    settings = ClipSettings(num_inference_steps=options.steps, seed=1)
    settings = settings.resolve(height=height, width=width, num_frames=pipe.unet.config.num_frames)
    seconds = measure(ways_of(pipe, frame, settings), repeats=options.repeats, device=execution_device(pipe))
    shown = f"--model {options.model} --photo {frame.source} --repeats {options.repeats} --steps {options.steps}"
    return {
        "schema_version": 1,
        "command": f"python benchmarks/overhead.py {shown}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": options.model,
        "settings": settings.to_dict(),
        "environment": summary(gpu=True),
        "threads": torch.get_num_threads(),
        "samples_seconds": seconds,
        "overhead": {
            clock: {way: overhead(times[way], times["bare"]) for way in WAYS[1:]} for clock, times in seconds.items()
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the files, print the table; 1 when the bar is missed."""
    parser = argparse.ArgumentParser(description="Overhead of svdkit's generate() over diffusers' own call.")
    parser.add_argument("--model", default="micro", help="as svdkit.load takes it, or toy")
    parser.add_argument("--photo", default="rocket", help="a sample photo or a file")
    parser.add_argument("--repeats", type=int, default=12, help="rounds that count")
    parser.add_argument("--steps", type=int, default=25, help="denoising steps")
    parser.add_argument("--out", type=Path, default=ROOT / "bench_results" / "overhead", help="folder of the results")
    options = parser.parse_args(arguments)
    record = run(options)
    text = table(record)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "records.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (options.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return int(record["overhead"]["wall"]["svdkit"][0] > BAR)


if __name__ == "__main__":
    sys.exit(main())
