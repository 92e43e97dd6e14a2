"""What svdkit's generate() costs over one bare call of diffusers' pipeline: same model, settings, photo and seed.

    python benchmarks/overhead.py                  # the built-in model
    python benchmarks/overhead.py --model toy      # a toy with random weights: does the script work?

Three ways are run in turn, in an order that changes every round, so that a machine that warms up or is shared treats
all alike: the bare call, svdkit, and the bare call again. The ratio of the two bare ones is the noise of this machine;
a claim inside it is none. Each ratio is of one round; the table shows the median and the bootstrap 95 % interval of the
median, by the clock and, on a CPU, also by the processor time used, which other programs disturb less. Fitting the
photo is outside; svdkit's progress display is inside, diffusers' is off.

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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for tests.toy, and for svdkit where it is not installed

from svdkit.environment import summary  # noqa: E402 - behind the line above
from svdkit.generate import generate  # noqa: E402
from svdkit.generate.loop import execution_device, synchronize  # noqa: E402
from svdkit.image import Frame, fit  # noqa: E402
from svdkit.settings import ClipSettings  # noqa: E402
from svdkit.units import format_seconds  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BAR = 0.02
WAYS = ("bare", "svdkit", "bare again")
_RESAMPLES = 10_000


def load_model(name: str) -> Any:
    """Load a model, or build the toy of the tests, which has random weights."""
    if name == "toy":
        from tests.toy import toy_pipeline

        return toy_pipeline()
    from svdkit.pipeline import load

    pipe = load(name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ways_of(pipe: Any, frame: Frame, settings: ClipSettings) -> dict[str, Callable[[], Any]]:
    """Return a function a way; each gives the frames as a uint8 array when called."""
    import torch

    arguments = settings.to_dict()
    del arguments["playback_fps"]
    seed = arguments.pop("seed")

    def bare() -> Any:
        images = pipe(frame.image, generator=torch.Generator("cpu").manual_seed(seed), **arguments).frames[0]
        return np.stack([np.asarray(image) for image in images])

    def with_svdkit() -> Any:
        return generate(pipe, frame, settings, progress="terminal").frames

    return {"bare": bare, "svdkit": with_svdkit, "bare again": bare}


def measure(ways: dict[str, Callable[[], Any]], *, repeats: int, device: Any) -> dict[str, dict[str, list[float]]]:
    """Time every way `repeats` times, one after the other, after one round that is not counted.

    Returns:
        Seconds by clock ("wall", "processor") and way, in the order of the rounds.

    Raises:
        SystemExit: when two ways give different frames: then their times are not comparable.
    """
    frames = [way() for way in ways.values()]
    if not all(np.array_equal(frames[0], other) for other in frames[1:]):
        raise SystemExit("the ways gave different frames; their times cannot be compared")
    clocks: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
    seconds: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in ways} for clock in clocks}
    for repeat in range(repeats):
        names = list(ways)
        for name in names[repeat % 3 :] + names[: repeat % 3]:
            synchronize(device)
            start = {clock: read() for clock, read in clocks.items()}
            ways[name]()
            synchronize(device)
            for clock, read in clocks.items():
                seconds[clock][name].append(read() - start[clock])
    return seconds


def overhead(seconds: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """Compare round by round.

    Args:
        seconds: Of one way, a value a round.
        reference: Of the other, in the same rounds.

    Returns:
        Median of the ratios less one, and the ends of its bootstrap 95 % interval; 0.02 is 2 % slower.
    """
    ratios = np.asarray(seconds) / np.asarray(reference) - 1
    draws = np.random.default_rng(0).integers(len(ratios), size=(_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def table(record: dict[str, Any]) -> str:
    """Write a record as a Markdown table, with what it was measured on above."""
    here, settings, samples = record["environment"], record["settings"], record["samples_seconds"]["wall"]
    machine = here["gpu"] or f"{here['cpu']}, {here['cpu_count']} cores, {record['threads']} torch threads"
    size = f"{settings['num_frames']} frames of {settings['height']}×{settings['width']} (height×width)"
    steps = f"{settings['num_inference_steps']} steps, decode chunk {settings['decode_chunk_size']}"
    versions = f"Python {here['python']}, torch {here['torch']}, diffusers {here['diffusers']}"
    lines = [
        "# Overhead of generate() over one bare call of diffusers' pipeline",
        "",
        f"{machine}; {versions}; model {record['model']}, {size}, {steps}; {record['date'][:10]}.",
        f"`{record['command']}`",
        "",
        "| | a clip, median | overhead, median | 95 % interval | in processor time | 95 % interval | rounds |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for way in WAYS:
        cells = [f"{way} | {format_seconds(float(np.median(samples[way])))}"]
        cells += [shares(record["overhead"][clock].get(way)) for clock in ("wall", "processor")]
        lines.append(f"| {' | '.join(cells)} | {len(samples[way])} |")
    value, _, high = record["overhead"]["wall"]["svdkit"]
    verdict = "met" if high <= BAR else "met by the median only" if value <= BAR else "missed"
    return "\n".join([*lines, "", f"Bar: at most {BAR:.0%}: {verdict}.", ""])


def shares(value: Sequence[float] | None) -> str:
    """Write a median and its interval in per cent, as two cells; empty ones where there is nothing to compare."""
    if value is None:
        return "– | –"
    median, low, high = value
    return f"{median:+.2%} | {low:+.2%} to {high:+.2%}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Overhead of svdkit's generate() over diffusers' own call.")
    parser.add_argument("--model", default="micro", help="as svdkit.load takes it, or toy")
    parser.add_argument("--photo", default="rocket", help="a sample photo or a file")
    parser.add_argument("--repeats", type=int, default=12, help="rounds that count")
    parser.add_argument("--steps", type=int, default=25, help="denoising steps")
    parser.add_argument("--height", type=int, help="pixels; the model's own when left out, 64 for the toy")
    parser.add_argument("--width", type=int, help="pixels")
    parser.add_argument("--out", type=Path, default=ROOT / "bench_results" / "overhead", help="folder of the results")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, and put together the record."""
    import torch

    pipe = load_model(options.model)
    report = getattr(pipe, "svdkit", None)
    height, width = (64, 64) if report is None else (report.model.height, report.model.width)
    frame = fit(options.photo, height=options.height or height, width=options.width or width)
    settings = ClipSettings(num_inference_steps=options.steps, seed=1).resolve(
        height=frame.height, width=frame.width, num_frames=pipe.unet.config.num_frames
    )
    seconds = measure(ways_of(pipe, frame, settings), repeats=options.repeats, device=execution_device(pipe))
    shown = f"--model {options.model} --photo {frame.source} --repeats {options.repeats} --steps {options.steps}"
    return {
        "schema_version": 1,
        "command": f"python benchmarks/overhead.py {shown} --height {frame.height} --width {frame.width}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": options.model,
        "settings": settings.to_dict(),
        "environment": summary(gpu=True),
        "threads": torch.get_num_threads(),
        "samples_seconds": seconds,
        "overhead": {
            clock: {way: overhead(samples[way], samples["bare"]) for way in WAYS if way != "bare"}
            for clock, samples in seconds.items()
        },
        "bar": BAR,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the files, print the table; 1 when the bar is missed."""
    options = parse(arguments)
    record = run(options)
    text = table(record)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "records.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (options.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return int(record["overhead"]["wall"]["svdkit"][0] > BAR)


if __name__ == "__main__":
    sys.exit(main())
