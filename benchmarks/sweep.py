"""What a sweep saves over the loops that people write: 5 motion buckets × 3 seeds × 4 decode chunks on micro.

    python benchmarks/sweep.py                  # 60 runs each way; 25 minutes on two cores, which it needs alone
    python benchmarks/sweep.py --quick          # 4 short runs each way, to see that it works
    python benchmarks/sweep.py --driver         # how many runs a second the driver takes, with runs that make no clip

Three ways to the same 60 clips, with diffusers' defaults (25 steps, guidance 1 to 3): a loop around one pipeline
("plain loop"), a new Python process that loads the model for each clip, as a notebook per clip run by papermill does
("reload per run", without papermill's own time; every fifth is run, which takes all chunk sizes alike, and its seconds
are multiplied), and svdkit's sweep, its worker's start and load included. The sweep runs again at the end: the
difference of the two is the noise of this machine.

Writes bench_results/sweep/records.json and table.md (--driver: driver.json); exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Two threads of torch wait for each other and make the seconds of one run uncertain; all ways get one.
os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for svdkit where it is not installed

from svdkit.bench.record import now  # noqa: E402 - behind the line above
from svdkit.environment import summary  # noqa: E402
from svdkit.image import fit  # noqa: E402
from svdkit.models import find_model  # noqa: E402
from svdkit.settings import ClipSettings  # noqa: E402
from svdkit.sweep import plan_sweep, run_sweep, worker  # noqa: E402
from svdkit.sweep.ray_engine import run_ray  # noqa: E402
from svdkit.sweep.results import Results  # noqa: E402
from svdkit.sweep.worker import Outcome, Runner, work  # noqa: E402
from svdkit.units import format_seconds  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from svdkit.child import Channel
    from svdkit.sweep import Job

BARS = {"plain loop": 3.0, "reload per run": 10.0}
WAYS = ("sweep", "plain loop", "reload per run", "sweep again")
AXES = {"motion_bucket_id": [30, 80, 127, 180, 230], "seed": [1, 2, 3], "decode_chunk_size": [1, 2, 4, 8]}
QUICK = {"motion_bucket_id": [30, 230], "seed": [1], "decode_chunk_size": [4, 8]}
PHOTO = "rocket"


class Noop(Runner):
    """Makes no clip but all the rest: files of a clip's usual sizes, a record, and so the driver's whole work."""

    def load(self, job: Job) -> None:
        """Load nothing."""

    def run(self, job: Job) -> Outcome:
        """Give the files of a clip of 25 frames at 576×1024: 300 kB of video and 60 kB of poster."""
        names = {"clip": f"runs/{job.id}/clip.mp4", "poster": f"runs/{job.id}/poster.jpg"}
        record = job.record(status="ok", environment={}, samples={"timed": {"total": [0.0]}}, artifacts=names)
        return Outcome(record, {"clip.mp4": os.urandom(300_000), "poster.jpg": os.urandom(60_000)})

    def recover(self, error: BaseException) -> None:
        """Give no memory back."""


def combinations(axes: Mapping[str, Sequence[int]]) -> list[dict[str, int]]:
    """List the settings of every run."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def load_plainly() -> Any:
    """Load micro as diffusers' documentation does."""
    import torch
    from diffusers import StableVideoDiffusionPipeline

    kind = {"torch_dtype": torch.float32, "variant": "fp16"}  # as svdkit on a CPU: weights of 16 bits, computed in 32
    pipe = StableVideoDiffusionPipeline.from_pretrained(find_model("micro").folder, **kind)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_plainly(pipe: Any, settings: Mapping[str, int], *, steps: int, path: Path) -> None:
    """Make and save one clip as diffusers' documentation does."""
    import torch
    from diffusers.utils import export_to_video

    info = find_model("micro")
    image = fit(PHOTO, height=info.height, width=info.width).image
    values = {name: value for name, value in settings.items() if name != "seed"}
    generator = torch.Generator("cpu").manual_seed(settings["seed"])
    size = {"height": info.height, "width": info.width, "num_inference_steps": steps}
    frames = pipe(image, generator=generator, **size, **values).frames[0]
    export_to_video(frames, str(path), fps=7)


def ways_of(axes: Mapping[str, Sequence[int]], *, steps: int, every: int = 1) -> dict[str, Callable[[Path], Any]]:
    """Return a function a way; each makes all clips in an empty folder."""

    def plain(folder: Path) -> None:
        pipe = load_plainly()
        for number, settings in enumerate(combinations(axes)):
            make_plainly(pipe, settings, steps=steps, path=folder / f"{number}.mp4")

    def reload(folder: Path) -> None:
        for number, settings in list(enumerate(combinations(axes)))[::every]:
            one = json.dumps({**settings, "steps": steps, "path": str(folder / f"{number}.mp4")})
            subprocess.run([sys.executable, __file__, "--one", one], check=True, capture_output=True)

    def sweep(folder: Path) -> None:
        clip = ClipSettings(num_inference_steps=steps, max_guidance_scale=3.0)
        plan = plan_sweep(PHOTO, clip=clip, axes=axes, forecast=False)
        found = run_sweep(plan, results=folder / "results", quality=False, report=False, progress=False)
        if found.failed:
            raise SystemExit(f"{len(found.failed)} runs failed: {found.failed[0].error}")

    return dict(zip(WAYS, (sweep, plain, reload, sweep), strict=True))


def measure(ways: Mapping[str, Callable[[Path], Any]], *, rounds: int, every: int = 1) -> dict[str, list[float]]:
    """Time all ways in turn, in an order that turns round: seconds by way, round by round."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in list(ways)[:: -1 if number % 2 else 1]:
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                ways[way](Path(folder))
                took = time.perf_counter() - start
                seconds[way].append(took * every if way == "reload per run" else took)
                print(f"{way}: {format_seconds(seconds[way][-1])}", file=sys.stderr, flush=True)
    return seconds


def speedup(seconds: Mapping[str, Sequence[float]], way: str) -> float:
    """Say how many times longer a way takes than the sweep, of all rounds together; the sweep's two runs averaged."""
    sweeps = (sum(seconds["sweep"]) + sum(seconds["sweep again"])) / 2
    return sum(seconds[way]) / sweeps


def table(record: Mapping[str, Any]) -> str:
    """Write a record as a Markdown table, with what it was measured on above."""
    here, seconds = record["environment"], record["samples_seconds"]
    machine = f"{here['gpu'] or here['cpu']}, {here['cpu_count']} cores, {record['threads']} torch threads"
    machine += f"; Python {here['python']}, torch {here['torch']}, diffusers {here['diffusers']}"
    lines = [
        "# A sweep over the loops that people write\n",
        f"{machine}; micro, {record['runs']} runs of {record['steps']} steps; {record['date'][:10]}.",
        f"`{record['command']}`\n",
        "| | all runs | times the sweep | bar | |",
        "|---|--:|--:|--:|---|",
    ]
    for way in WAYS:
        bar, factor = BARS.get(way), speedup(seconds, way)
        verdict = "" if bar is None else "met" if factor >= bar else "missed"
        total = format_seconds(sum(seconds[way]) / len(seconds[way]))
        every = record.get("reload_every", 1)
        note = f" (every {every}th run, times {every})" if way == "reload per run" and every > 1 else ""
        lines.append(f"| {way}{note} | {total} | {factor:.2f} | {'' if bar is None else f'{bar:g}'} | {verdict} |")
    first, again = (sum(seconds[way]) for way in ("sweep", "sweep again"))
    rounds = len(seconds["sweep"])
    lines.append(
        f"\nEach way was measured {'once' if rounds == 1 else f'{rounds} times'}. The same sweep a second time took "
        f"{again / first - 1:+.1%}: by so much at least each ratio is uncertain, and a bar passed by less is not sure."
    )
    return "\n".join(lines) + "\n"


def measure_driver(runs: int, *, workers: int) -> dict[str, Any]:
    """Time the driver with runs that make no clip, by the local engine and by Ray: runs a second."""
    plan = plan_sweep(PHOTO, axes={"seed": list(range(runs))}, forecast=False)
    usual, worker.WORKER = worker.WORKER, "benchmarks.sweep:work_noop"
    os.environ["PYTHONPATH"] = str(ROOT)  # where the worker finds that
    found: dict[str, Any] = {"runs": runs, "workers": workers}
    try:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            run_sweep(plan, results=folder, report=False, progress=False)
            found["local_seconds"] = time.perf_counter() - start
    finally:
        worker.WORKER = usual
    with tempfile.TemporaryDirectory() as folder, Results(folder) as results:
        jobs = [_named(job, position) for position, job in enumerate(plan.jobs)]
        start, first = time.perf_counter(), 0.0
        for outcome in run_ray(jobs, timeout_seconds=60, workers=workers, runner=Noop):
            first = first or time.perf_counter()
            results.commit(*outcome)
        found |= {"ray_seconds": time.perf_counter() - first, "ray_start_seconds": first - start}
    return found


def work_noop(channel: Channel) -> None:
    """Be a worker that makes no clip."""
    work(channel, Noop())


def _named(job: Job, position: int) -> Job:
    model = {"name": "micro", "revision": "none", "weights": "trained"}
    return replace(job, id=f"{position:016x}", model=model, position=position, options={"command": ""})


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, and put together the record."""
    import torch

    axes, steps = (QUICK, 2) if options.quick else (AXES, options.steps)
    every = 1 if options.quick else options.reload_every
    seconds = measure(ways_of(axes, steps=steps, every=every), rounds=options.rounds, every=every)
    shown = f" --rounds {options.rounds} --steps {options.steps} --reload-every {every}"
    shown = " --quick" if options.quick else shown
    return {
        "schema_version": 1,
        "command": f"python benchmarks/sweep.py{shown}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "runs": len(combinations(axes)),
        "steps": steps,
        "reload_every": every,
        "axes": axes,
        "environment": summary(gpu=True),
        "threads": torch.get_num_threads(),
        "samples_seconds": seconds,
        "speedup": {way: speedup(seconds, way) for way in BARS},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the files, print the table; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description="svdkit's sweep against the loops that people write.")
    parser.add_argument("--quick", action="store_true", help="4 short runs each way; the bars do not count")
    parser.add_argument("--driver", action="store_true", help="measure the driver alone, with runs that make no clip")
    parser.add_argument("--runs", type=int, default=500, help="of --driver")
    parser.add_argument("--workers", type=int, default=2, help="of --driver, for Ray")
    parser.add_argument("--rounds", type=int, default=1, help="how often all ways are measured")
    parser.add_argument("--reload-every", type=int, default=5, help="reload for every so many runs only, and multiply")
    parser.add_argument("--steps", type=int, default=25, help="denoising steps")
    parser.add_argument("--out", type=Path, default=ROOT / "bench_results" / "sweep", help="folder of the results")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        steps, path = options.one.pop("steps"), Path(options.one.pop("path"))
        make_plainly(load_plainly(), options.one, steps=steps, path=path)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    if options.driver:
        found = {**measure_driver(options.runs, workers=options.workers), "environment": summary(), "date": now()}
        found["command"] = f"python benchmarks/sweep.py --driver --runs {options.runs} --workers {options.workers}"
        (options.out / "driver.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        for engine in ("local", "ray"):
            print(f"{engine}: {found['runs'] / found[f'{engine}_seconds']:.0f} runs a second")
        return 0
    record = run(options)
    text = table(record)
    if not options.quick:
        (options.out / "records.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (options.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return int(not options.quick and any(record["speedup"][way] < bar for way, bar in BARS.items()))


if __name__ == "__main__":
    sys.exit(main())
