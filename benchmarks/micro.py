"""Is the built-in micro model good enough that a person sees the photo move? Its bars, measured.

    python benchmarks/micro.py            # about 9 minutes on two cores; writes bench_results/micro/

Three sample photos, four seeds, the default settings unless a row says otherwise. Motion is measured with DIS flow and
homographies (`svdkit/bench/quality/`). Exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image

import svdkit
from svdkit.bench import quality
from svdkit.environment import summary

ROOT = Path(__file__).resolve().parents[1]
STEPS = (4, 10, 25)
REFERENCE_STEPS = 100
PANS = (8, 16)  # pixels in all, sideways

Clips = dict[tuple[str, int], svdkit.Clip]  # by photo and seed
Row = tuple[str, float, str, bool, str]


@dataclass(frozen=True)
class Sample:
    """How much is measured: the whole by default, less in the tests."""

    photos: tuple[str, ...] = ("rocket", "coffee", "cat")
    seeds: Sequence[int] = (1, 2, 3, 4)
    buckets: Sequence[int] = (20, 60, 100, 140, 180, 220)
    direction_seeds: Sequence[int] = range(100, 116)
    settings: svdkit.ClipSettings = svdkit.ClipSettings()  # noqa: RUF009 - frozen

    def pairs(self) -> list[tuple[str, int]]:
        """Every photo with every seed."""
        return [(photo, seed) for photo in self.photos for seed in self.seeds]

    def clip(self, pipe: Any, photo: str, **changes: Any) -> svdkit.Clip:
        """Make one clip."""
        return svdkit.generate(pipe, photo, self.settings.replace(**changes), progress=False)


def measure(pipe: Any, sample: Sample) -> pd.DataFrame:
    """Measure every bar on the clips of `sample`; one row each: what, value, bar, met, detail."""
    clips = {(photo, seed): sample.clip(pipe, photo, seed=seed) for photo, seed in sample.pairs()}
    rows = [*_likeness(clips), _smoothness(pipe, sample, clips), *_motion(pipe, sample), *_directions(pipe, sample)]
    rows += [_convergence(pipe, sample), _seconds(clips)]
    return pd.DataFrame(rows, columns=["what", "value", "bar", "met", "detail"])


def _likeness(clips: Clips) -> list[Row]:
    first = {key: quality.psnr(clip.frames[0], np.asarray(clip.photo)) for key, clip in clips.items()}
    last = {key: quality.last_frame_psnr(clip.frames) for key, clip in clips.items()}
    after = "last frame brought back to frame 0 by the camera's estimated motion, mean PSNR on the overlap, dB"
    return [
        _row("frame 0 against the fitted photo, mean PSNR, dB", _mean(first), at_least=24, detail=_by_photo(first)),
        _row(after, _mean(last), at_least=18, detail=_by_photo(last)),
    ]


def _smoothness(pipe: Any, sample: Sample, clips: Clips) -> Row:
    ratios = {key: _roughness(clip.frames) for key, clip in clips.items()}
    made = next(iter(clips.values()))
    size = {"num_frames": made.num_frames, "height": made.height, "width": made.width}
    pans = [true_pan(photo, pixels=pixels, **size) for photo in sample.photos for pixels in PANS]
    true, coded = (np.mean([*map(_roughness, each)]) for each in (pans, [through_vae(pipe, pan) for pan in pans]))
    known = (
        f"true pans of the photos by {' and '.join(map(str, PANS))} px {true:.2f}, through the autoencoder {coded:.2f}"
    )
    what = "warp error ÷ that of the same frames shuffled, mean"
    return _row(what, _mean(ratios), at_most=0.5, detail=f"{_by_photo(ratios)}; {known}")


def _roughness(frames: Any) -> float:
    order = np.random.default_rng(0).permutation(len(frames))
    return quality.warp_error(frames) / quality.warp_error(frames[order])


def true_pan(photo: str, *, pixels: int, num_frames: int, height: int, width: int) -> Any:
    """A photo under a camera that moves sideways by so many pixels in all: what a perfect model could make of it."""
    fine = 4  # cut out of four times the size, then averaged down: no interpolation, and steps of a quarter pixel
    wide = np.asarray(svdkit.fit(photo, height=height * fine, width=(width + pixels) * fine).image)
    starts = np.linspace(0, pixels * fine, num_frames).round().astype(int)
    views = [wide[:, start : start + width * fine] for start in starts]
    return np.stack([cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA) for view in views])


@torch.no_grad()
def through_vae(pipe: Any, frames: Any) -> Any:
    """uint8 (frames, height, width, 3), encoded and decoded again: no clip of the model can be truer."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).to(pipe.vae.dtype) / 127.5 - 1
    latents = pipe.vae.encode(pixels).latent_dist.mode()
    decoded = pipe.vae.decode(latents, num_frames=len(frames)).sample
    return ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def _motion(pipe: Any, sample: Sample) -> list[Row]:
    values = pd.DataFrame(
        [
            (bucket, quality.motion(sample.clip(pipe, photo, seed=seed, motion_bucket_id=bucket).frames))
            for bucket in sample.buckets
            for photo, seed in sample.pairs()
        ],
        columns=["bucket", "motion"],
    )
    means = values.groupby("bucket")["motion"].mean()
    ranks = float(means.reset_index().rank().corr().loc["bucket", "motion"])
    each = float(values.rank().corr().loc["bucket", "motion"])
    detail = "; ".join(f"{bucket}: {value:.2f} px a frame" for bucket, value in means.items())
    what = "flow against motion_bucket_id, Spearman of the means"
    return [_row(what, ranks, at_least=0.9, detail=f"{detail}; over single clips {each:.2f}")]


def _directions(pipe: Any, sample: Sample) -> list[Row]:
    photo, seeds = sample.photos[0], sample.direction_seeds
    clips = [sample.clip(pipe, photo, seed=seed, motion_bucket_id=180) for seed in seeds]
    found = np.array([quality.direction(clip.frames) for clip in clips])
    rows = []
    for axis, name in enumerate(("horizontal", "vertical")):
        rarer = min(int((found[:, axis] > 0).sum()), int((found[:, axis] < 0).sum()))
        detail = " ".join(f"{value:+.2f}" for value in found[:, axis]) + " px a frame"
        rows.append(
            _row(f"{name} motion over {len(seeds)} seeds: clips of the rarer sign", rarer, at_least=1, detail=detail)
        )
    return rows


def _convergence(pipe: Any, sample: Sample) -> Row:
    scores = dict.fromkeys(STEPS, 0.0)
    for photo in sample.photos:
        reference = sample.clip(pipe, photo, seed=sample.seeds[0], num_inference_steps=REFERENCE_STEPS)
        for steps in STEPS:
            clip = sample.clip(pipe, photo, seed=sample.seeds[0], num_inference_steps=steps)
            scores[steps] += quality.psnr(clip.frames, reference.frames) / len(sample.photos)
    least_rise = min(b - a for a, b in itertools.pairwise(scores.values()))
    detail = "; ".join(f"{steps} steps: {value:.1f} dB" for steps, value in scores.items())
    what = f"{', '.join(map(str, STEPS))} steps against {REFERENCE_STEPS}: smallest rise of the mean PSNR, dB"
    return _row(what, least_rise, at_least=0.01, detail=detail)


def _seconds(clips: Clips) -> Row:
    seconds = [sum(clip.provenance.stage_seconds.values()) for clip in clips.values() if clip.provenance]
    made = next(iter(clips.values()))
    what = f"{len(made.frames)} frames of {made.height}×{made.width}: median seconds"
    return _row(what, np.median(seconds), at_most=60, detail=f"slowest {max(seconds):.1f}")


def _row(
    what: str, value: Any, *, at_least: float | None = None, at_most: float | None = None, detail: str = ""
) -> Row:
    met = bool(value >= at_least) if at_least is not None else bool(value <= at_most)
    bar = f"≥ {at_least:g}" if at_least is not None else f"≤ {at_most:g}"
    return what, round(float(value), 3), bar, met, detail


def _mean(values: dict[tuple[str, int], float]) -> float:
    return float(np.mean([*values.values()]))


def _by_photo(values: dict[tuple[str, int], float]) -> str:
    photos = dict.fromkeys(photo for photo, _ in values)
    means = {photo: _mean({key: value for key, value in values.items() if key[0] == photo}) for photo in photos}
    lowest, highest = min(values.values()), max(values.values())
    return "; ".join(f"{photo} {value:.2f}" for photo, value in means.items()) + f"; {lowest:.2f} to {highest:.2f}"


def main() -> int:
    """Measure, write the record and the table, print the table; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "bench_results" / "micro", help="folder of the results")
    options = parser.parse_args()
    started = time.perf_counter()
    pipe = svdkit.load("micro")
    rows = measure(pipe, Sample())
    record = {
        "schema_version": 1,
        "command": "python benchmarks/micro.py",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": {"name": "micro", "revision": pipe.svdkit.revision, "weights": pipe.svdkit.weights},
        "environment": summary(),
        "seconds": round(time.perf_counter() - started),
        "rows": rows.to_dict("records"),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "records.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (options.out / "table.md").write_text(table(record), encoding="utf-8")
    strip(pipe, Sample()).save(options.out / "strip.png")
    print(table(record))
    return int(not rows["met"].all())


def strip(pipe: Any, sample: Sample) -> Image.Image:
    """The README's picture: each sample photo beside frames 0, 4, 8 and 13 of its clip, at twice the size."""
    rows = []
    for photo in sample.photos:
        clip = sample.clip(pipe, photo, seed=sample.seeds[0], motion_bucket_id=180)
        rows.append(np.concatenate([np.asarray(clip.photo), *clip.frames[[0, 4, 8, 13]]], axis=1))
    picture = Image.fromarray(np.concatenate(rows))
    return picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.BICUBIC)


def table(record: dict[str, Any]) -> str:
    """The record as Markdown: what it was measured on, then a line a bar."""
    here = record["environment"]
    lines = [
        "# The micro model's bars",
        "",
        (
            f"Model micro, revision {record['model']['revision']}, {record['model']['weights']} weights; "
            f"{here['cpu']}, {here['cpu_count']} cores; "
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
