"""Does a photo come alive in the built-in micro model? Its bars, measured.

    OMP_NUM_THREADS=1 python benchmarks/micro.py   # some 20 minutes on two cores; writes bench_results/micro/

The three sample photos and five painted worlds that were not trained on, eight seeds each, at the default settings
unless a row says otherwise. Motion is measured with DIS flow and homographies (`benchmarks/motion.py`). Exits with 1
when a bar is missed.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

import svdkit
from svdkit.bench.table import hardware
from svdkit.environment import summary

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks import motion  # noqa: E402
from training.scenes import film, look, picture, world_of  # noqa: E402 - behind the line above

PHOTOS = ("rocket", "coffee", "cat")
WORLDS = {f"world {number}": 10**6 + number for number in range(5)}
BUCKETS = (20, 60, 100, 140, 180, 220)
STEPS, REFERENCE_STEPS, TIMED_STEPS = (4, 10, 25), 100, 25
SHOWN = (0, 4, 9, 13)  # frames of the README's strip
GUIDED = 3.0

Clips = dict[tuple[str, int], svdkit.Clip]  # by picture and seed
Row = tuple[str, float, str, bool, str]
_POOL: ProcessPoolExecutor | None = None


@dataclass(frozen=True)
class Sample:
    """How much is measured: the whole by default, less in the tests."""

    pictures: tuple[str, ...] = (*PHOTOS, *WORLDS)
    seeds: Sequence[int] = range(1, 9)
    buckets: Sequence[int] = BUCKETS
    settings: svdkit.ClipSettings = field(default_factory=svdkit.ClipSettings)

    def clips(self, pipe: Any, *, seeds: Sequence[int] | None = None, **changes: Any) -> Clips:
        """Make a clip of every picture with every seed."""
        pairs = [*itertools.product(self.pictures, self.seeds if seeds is None else seeds)]
        asked = [(name, self.settings.replace(seed=seed, **changes)) for name, seed in pairs]
        return dict(zip(pairs, each(_make if _POOL else partial(_make, pipe=pipe), asked), strict=True))


def each(function: Callable[[Any], Any], values: Iterable[Any]) -> list[Any]:
    """Call a function with each value, by the processes of the pool where there is one."""
    if _POOL is None:
        return [*map(function, values)]
    return [*_POOL.map(function, values)]


def _make(asked: tuple[str, svdkit.ClipSettings], pipe: Any = None) -> svdkit.Clip:
    """Make a clip, with the pipe of this process where none is given."""
    return svdkit.generate(pipe or _pipe_here(), photo(asked[0]), asked[1], progress=False)


@functools.cache
def _pipe_here() -> Any:
    return svdkit.load("micro")


def photo(name: str) -> Any:
    """A sample's name, or the pixels of a world."""
    return Image.fromarray(picture(WORLDS[name])) if name in WORLDS else name


def measure(pipe: Any, sample: Sample) -> pd.DataFrame:
    """Measure every bar on the clips of `sample`; one row each: what, value, bar, met, detail."""
    clips = sample.clips(pipe)
    by_bucket = {bucket: sample.clips(pipe, motion_bucket_id=bucket) for bucket in sample.buckets}
    rows = [
        *_motion(by_bucket, clips), *_picture(clips), _kinds(clips), _seeds(clips), _smoothness(clips),
        _convergence(pipe, sample), _saturation(pipe, sample), _seconds(pipe, sample),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["what", "value", "bar", "met", "detail"])


def _motion(by_bucket: dict[int, Clips], clips: Clips) -> list[Row]:
    fast = [clip.frames for bucket, made in by_bucket.items() if bucket >= 100 for clip in made.values()]
    fast = each(explained, fast)
    far = {bucket: float(np.median(each(displacement, made.values()))) for bucket, made in by_bucket.items()}
    usual = dict(zip(clips, each(displacement, clips.values()), strict=True))
    ranks = float(pd.DataFrame(far.items()).rank().corr().loc[0, 1])
    detail = "; ".join(f"{bucket}: {value:.1f} %" for bucket, value in far.items())
    quartiles = " to ".join(f"{value:.2f}" for value in np.percentile(fast, [25, 75]))
    told = "displacement of the last frame, % of the width"
    return [
        _row(
            "camera-like motion: share of the flow's energy that one homography explains, median at buckets ≥ 100",
            np.median(fast), least=0.7, detail=f"middle half {quartiles}",
        ),
        _row(f"{told}, median at bucket 127 and fps 7", np.median([*usual.values()]), least=4, most=12,
             detail=_by_picture(usual)),
        _row(f"{told} against buckets, Spearman of the medians", ranks, least=0.9, detail=detail),
        _row(f"{told}: bucket {max(far)} ÷ bucket {min(far)}", far[max(far)] / far[min(far)], least=4, detail=detail),
    ]  # fmt: skip


def _picture(clips: Clips) -> list[Row]:
    last = {key: motion.last_frame_psnr(clip.frames) for key, clip in clips.items()}
    photos = {name: np.mean([v for (one, _), v in last.items() if one == name]) for name, _ in clips if name in PHOTOS}
    edges = {key: _gradient(clip.frames[-1]) / _gradient(clip.frames[0]) for key, clip in clips.items()}
    first = {key: motion.psnr(clip.frames[0], np.asarray(clip.photo)) for key, clip in clips.items()}
    kept = "last frame registered to frame 0 by the estimated motion, PSNR on the overlap, dB"
    return [
        _row(f"{kept}: mean", _mean(last), least=22, detail=_by_picture(last)),
        _row(f"{kept}: lowest mean of a photo", min(photos.values()), least=19, detail=""),
        _row("edges: mean gradient of the last frame ÷ frame 0's, mean", _mean(edges), least=0.7, most=1.2,
             detail=_by_picture(edges)),
        _row("frame 0 against the fitted photo, mean PSNR, dB", _mean(first), least=25, detail=_by_picture(first)),
    ]  # fmt: skip


def _kinds(clips: Clips) -> Row:
    found = Counter(kind(clip) for clip in clips.values())
    share = max(found.values()) / len(clips)
    detail = "; ".join(f"{name} {count}" for name, count in found.most_common())
    what = "kinds of motion: share of the most frequent (at least three kinds, else 1)"
    return _row(what, share if len(found) >= 3 else 1.0, most=0.6, detail=detail)


def _seeds(clips: Clips) -> Row:
    last: dict[str, list[Any]] = {}
    for (name, _), clip in clips.items():
        last.setdefault(name, []).append(clip.frames[-1].astype(float))
    apart = {(name, 0): np.mean([np.abs(a - b).mean() for a, b in itertools.combinations(made, 2)])
             for name, made in last.items()}  # fmt: skip
    what = "seeds differ: mean absolute difference of two seeds' last frames, of 255"
    return _row(what, _mean(apart), least=3, detail=_by_picture(apart))


def _smoothness(clips: Clips) -> Row:
    made = next(iter(clips.values()))
    far = np.median(each(displacement, clips.values())) / 100 * made.width
    true = {name: unrest(true_pan(name, pixels=round(far), num_frames=made.num_frames)) for name, _ in clips}
    found = each(unrest, [clip.frames for clip in clips.values()])
    ratios = {(name, seed): value / true[name] for (name, seed), value in zip(clips, found, strict=True)}
    what = f"unrest: squared second difference along the motion ÷ that of true pans by {far:.0f} px, median"
    return _row(what, np.median([*ratios.values()]), most=1.5, detail=_by_picture(ratios))


def _convergence(pipe: Any, sample: Sample) -> Row:
    seeds = sample.seeds[:1]
    reference = sample.clips(pipe, seeds=seeds, num_inference_steps=REFERENCE_STEPS)
    scores = {}
    for steps in STEPS:
        made = sample.clips(pipe, seeds=seeds, num_inference_steps=steps)
        scores[steps] = float(np.mean([motion.psnr(made[key].frames, reference[key].frames) for key in made]))
    least = min(b - a for a, b in itertools.pairwise(scores.values()))
    detail = "; ".join(f"{steps} steps: {value:.1f} dB" for steps, value in scores.items())
    what = f"{', '.join(map(str, STEPS))} steps against {REFERENCE_STEPS}: smallest rise of the mean PSNR, dB"
    return _row(what, least, least=0.01, detail=detail)


def _saturation(pipe: Any, sample: Sample) -> Row:
    made = sample.clips(pipe, seeds=sample.seeds[:1], min_guidance_scale=1.0, max_guidance_scale=GUIDED)
    change = {key: _colour(clip.frames[-1]) / _colour(clip.frames[0]) - 1 for key, clip in made.items()}
    what = f"guidance 1 to {GUIDED:g}: change of mean saturation from frame 0 to the last, mean of the sizes"
    return _row(what, np.mean(np.abs([*change.values()])), most=0.1, detail=_by_picture(change))


def _seconds(pipe: Any, sample: Sample) -> Row:
    settings = sample.settings.replace(seed=1, num_inference_steps=TIMED_STEPS)
    clips = {name: _make((name, settings), pipe) for name in sample.pictures}  # one at a time, nothing beside it
    seconds = [sum(clip.provenance.stage_seconds.values()) for clip in clips.values() if clip.provenance]
    made = next(iter(clips.values()))
    what = f"{len(made.frames)} frames of {made.height}×{made.width} in {TIMED_STEPS} steps: median seconds"
    return _row(what, np.median(seconds), most=20, detail=f"slowest {max(seconds):.1f}")


def explained(frames: Any) -> float:
    """Share of the flow's energy, 0 to 1, that one homography per frame pair explains, where flow and return agree."""
    height, width = frames.shape[1:3]
    y, x = np.mgrid[2:height:2, 2:width:2]
    points = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)
    left, all_of_it = 0.0, 1e-9
    for first, second in itertools.pairwise(frames):
        there, back = motion.flow(first, second), motion.flow(second, first)
        moved = there[y, x].reshape(-1, 2)
        ends = points + moved
        returned = cv2.remap(back, *np.split(ends, 2, axis=1), cv2.INTER_LINEAR, borderValue=(99, 99)).reshape(-1, 2)
        good = np.linalg.norm(moved + returned, axis=1) < 0.5
        if good.sum() < 16:
            continue
        matrix, _ = cv2.findHomography(4 * points[good], 4 * ends[good], cv2.USAC_MAGSAC, motion.INLIER_PIXELS)
        matrix = np.eye(3) if matrix is None else matrix
        fitted = cv2.perspectiveTransform(4 * points[good][None], matrix)[0] / 4 - points[good]
        left += float(((moved[good] - fitted) ** 2).sum())
        all_of_it += float((moved[good] ** 2).sum())
    return max(0.0, 1 - left / all_of_it)


def whole_motion(clip: svdkit.Clip) -> Any:
    """The homography from frame 0 to the last frame: those from frame to frame, multiplied."""
    total = np.eye(3)
    for first, second in itertools.pairwise(clip.frames):
        total = motion.camera(first, second) @ total
    return total


def displacement(clip: svdkit.Clip) -> float:
    """How far the last frame is from the first: mean over the picture, in % of the width."""
    grid = np.stack(np.meshgrid(np.linspace(0, clip.width - 1, 9), np.linspace(0, clip.height - 1, 7)), -1)
    points = grid.reshape(1, -1, 2)
    moved = cv2.perspectiveTransform(points, whole_motion(clip))
    return float(100 * np.linalg.norm(moved - points, axis=-1).mean() / clip.width)


def kind(clip: svdkit.Clip) -> str:
    """What the picture does most: moves to a side, grows or shrinks."""
    matrix = whole_motion(clip)
    middle = np.array([[[(clip.width - 1) / 2, (clip.height - 1) / 2]]])
    right, down = (cv2.perspectiveTransform(middle, matrix) - middle)[0, 0]
    grown = 0.3 * clip.width * np.log(max(abs(np.linalg.det(matrix[:2, :2] / matrix[2, 2])), 1e-6)) / 2
    names = (("moves right", "moves left"), ("moves down", "moves up"), ("grows", "shrinks"))
    axis = int(np.argmax(np.abs([right, down, grown])))
    return names[axis][int([right, down, grown][axis] < 0)]


def unrest(frames: Any) -> float:
    """Mean squared second difference in time, taken along the motion: 0 for a picture that only moves."""
    height, width = frames.shape[1:3]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    values = []
    for before, now, after in zip(frames, frames[1:], frames[2:], strict=False):
        around = []
        for other in (before, after):
            way = motion.flow(now, other)
            around.append(cv2.remap(other.astype(np.float32), x + way[..., 0], y + way[..., 1], cv2.INTER_CUBIC))
        inside = np.s_[4:-4, 12:-12]
        values.append(float(((around[0] - 2 * now.astype(np.float32) + around[1])[inside] ** 2).mean()))
    return float(np.mean(values))


def true_pan(name: str, *, pixels: int, num_frames: int) -> Any:
    """A picture under a camera that moves sideways by so many pixels in all: what a perfect model could make of it."""
    if name in WORLDS:
        first = look(np.random.default_rng([WORLDS[name], 1]), world_of(WORLDS[name]))
        return film(world_of(WORLDS[name]), first, move=1, step=pixels / (num_frames - 1), num_frames=num_frames)
    fine, height, width = 4, 72, 128  # cut out of four times the size, then averaged down: steps of a quarter pixel
    wide = np.asarray(svdkit.fit(name, height=height * fine, width=(width + pixels) * fine).image)
    starts = np.linspace(0, pixels * fine, num_frames).round().astype(int)
    views = [wide[:, start : start + width * fine] for start in starts]
    return np.stack([cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA) for view in views])


def _gradient(frame: Any) -> float:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(float)
    return float(np.hypot(*np.gradient(grey)).mean())


def _colour(frame: Any) -> float:
    return float(cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)[..., 1].mean())


def _row(what: str, value: Any, *, least: float | None = None, most: float | None = None, detail: str = "") -> Row:
    met = (least is None or value >= least) and (most is None or value <= most)
    bar = f"{least:g} to {most:g}" if least is not None and most is not None else ""
    return what, round(float(value), 3), bar or (f"≥ {least:g}" if most is None else f"≤ {most:g}"), bool(met), detail


def _mean(values: dict[tuple[str, int], Any]) -> float:
    return float(np.mean([*values.values()]))


def _by_picture(values: dict[tuple[str, int], Any]) -> str:
    names = dict.fromkeys(name for name, _ in values)
    means = {name: np.mean([value for (one, _), value in values.items() if one == name]) for name in names}
    lowest, highest = min(values.values()), max(values.values())
    return "; ".join(f"{name} {value:.2f}" for name, value in means.items()) + f"; all {lowest:.2f} to {highest:.2f}"


def main() -> int:
    """Measure, write record, table and pictures, print the table; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "bench_results" / "micro", help="folder of the results")
    parser.add_argument("--workers", type=int, default=2, help="processes; each is to have one torch thread")
    parser.add_argument("--pictures-only", action="store_true", help="measure nothing: make strip.png and clips.webp")
    options = parser.parse_args()
    started = time.perf_counter()
    pipe = svdkit.load("micro")
    options.out.mkdir(parents=True, exist_ok=True)
    show(pipe, options.out)
    if options.pictures_only:
        return 0
    global _POOL
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as _POOL:
        rows = measure(pipe, Sample())
    record = {
        "schema_version": 1,
        "command": "OMP_NUM_THREADS=1 python benchmarks/micro.py",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": {"name": "micro", "revision": pipe.svdkit.revision, "weights": pipe.svdkit.weights},
        "environment": summary(),
        "seconds": round(time.perf_counter() - started),
        "rows": rows.to_dict("records"),
    }
    (options.out / "records.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (options.out / "table.md").write_text(table(record), encoding="utf-8")
    print(table(record))
    return int(not rows["met"].all())


def show(pipe: Any, folder: Path) -> None:
    """The README's pictures: a labelled strip of the three photos' clips, and beside it the same clips in motion."""
    clips = Sample(pictures=PHOTOS, settings=svdkit.ClipSettings(motion_bucket_id=180)).clips(pipe, seeds=[1])
    rows = [[_labelled(np.asarray(clip.photo), "photo"), *(_labelled(clip.frames[at], f"frame {at}") for at in SHOWN)]
            for clip in clips.values()]  # fmt: skip
    Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows])).save(folder / "strip.png")
    moving = np.concatenate([clip.frames for clip in clips.values()], axis=1)  # one above the other, like the rows
    pictures = [Image.fromarray(_larger(frame)) for frame in [*moving, *moving[-2:0:-1]]]  # there and back again
    pictures[0].save(folder / "clips.webp", save_all=True, append_images=pictures[1:], duration=143, loop=0, quality=80)


def _larger(frame: Any) -> Any:
    return cv2.resize(frame, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)


def _labelled(frame: Any, text: str) -> Any:
    large = _larger(frame)
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(large, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, thickness, cv2.LINE_AA)
    return large


def table(record: dict[str, Any]) -> str:
    """The record as Markdown: what it was measured on, then a line a bar."""
    here = record["environment"]
    lines = [
        "# The micro model's bars",
        "",
        (
            f"Model micro, revision {record['model']['revision']}, {record['model']['weights']} weights; "
            f"{hardware(here)}; "
            f"torch {here['torch']}, diffusers {here['diffusers']}; {record['date'][:10]}; "
            f"`{record['command']}` ({record['seconds'] // 60} min)."
        ),
        "",
        "| what | value | bar | | detail |",
        "|---|--:|--:|---|---|",
    ]
    for row in record["rows"]:
        cells = (row["what"], f"{row['value']:g}", row["bar"], "met" if row["met"] else "**missed**", row["detail"])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
