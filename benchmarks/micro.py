"""Is the built-in micro model good enough that a person sees the photo move? Its bars, measured.

    python benchmarks/micro.py            # about 15 minutes on two cores; writes bench_results/micro/

Three sample photos, four seeds, the default settings unless a row says otherwise. Motion is measured with DIS flow and
homographies (`svdkit/bench/quality.py`). Exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

import svdkit
from svdkit.bench import quality
from svdkit.environment import summary

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (1, 2, 3, 4)
BUCKETS = (20, 60, 100, 140, 180, 220)
STEPS = (4, 10, 25)
REFERENCE_STEPS = 100
DIRECTION_SEEDS = range(100, 116)


def measure(
    pipe: Any, *, seeds: Sequence[int] = SEEDS, direction_seeds: Sequence[int] = DIRECTION_SEEDS
) -> pd.DataFrame:
    """Measure every bar; one row each: what, value, bar, met, detail.

    Args:
        pipe: of `svdkit.load("micro")`.
        seeds: of every photo.
        direction_seeds: seeds of the first photo, for the directions of motion.
    """
    clips = {(photo, seed): _clip(pipe, photo, seed=seed) for photo in svdkit.sample_photos() for seed in seeds}
    rows = [*_likeness(clips), _smoothness(clips), *_motion(pipe, seeds), *_directions(pipe, direction_seeds)]
    rows += [_convergence(pipe, seeds), _seconds(clips)]
    return pd.DataFrame(rows, columns=["what", "value", "bar", "met", "detail"])


def _clip(pipe: Any, photo: str, **changes: Any) -> svdkit.Clip:
    return svdkit.generate(pipe, photo, svdkit.ClipSettings(**changes), progress=False)


def _likeness(clips: dict[tuple[str, int], svdkit.Clip]) -> list[tuple[Any, ...]]:
    first = {key: quality.psnr(clip.frames[0], np.asarray(clip.photo)) for key, clip in clips.items()}
    last = {key: quality.last_frame_psnr(clip.frames) for key, clip in clips.items()}
    return [
        _row("frame 0 against the fitted photo, mean PSNR, dB", _mean(first), at_least=24, detail=_by_photo(first)),
        _row(
            "last frame brought back to frame 0 by the camera's estimated motion, mean PSNR on the overlap, dB",
            _mean(last),
            at_least=18,
            detail=_by_photo(last),
        ),
    ]


def _smoothness(clips: dict[tuple[str, int], svdkit.Clip]) -> tuple[Any, ...]:
    order = np.random.default_rng(0).permutation(len(next(iter(clips.values())).frames))
    ratios = {
        key: quality.warp_error(clip.frames) / quality.warp_error(clip.frames[order]) for key, clip in clips.items()
    }
    what = "warp error ÷ that of the same frames shuffled, mean"
    return _row(what, _mean(ratios), at_most=0.5, detail=_by_photo(ratios))


def _motion(pipe: Any, seeds: Sequence[int]) -> list[tuple[Any, ...]]:
    values = pd.DataFrame(
        [
            (bucket, quality.motion(_clip(pipe, photo, seed=seed, motion_bucket_id=bucket).frames))
            for bucket in BUCKETS
            for photo in svdkit.sample_photos()
            for seed in seeds
        ],
        columns=["bucket", "motion"],
    )
    means = values.groupby("bucket")["motion"].mean()
    detail = "; ".join(f"{bucket}: {value:.2f} px a frame" for bucket, value in means.items())
    each = float(values.corr(method="spearman").loc["bucket", "motion"])
    return [
        _row("flow against motion_bucket_id, Spearman of the means", _spearman(means), at_least=0.9, detail=detail),
        _row("the same over single clips, Spearman (no bar)", each, at_least=-1),
    ]


def _spearman(means: pd.Series[float]) -> float:
    return float(np.corrcoef(np.argsort(np.argsort(means.to_numpy())), range(len(means)))[0, 1])


def _directions(pipe: Any, seeds: Sequence[int]) -> list[tuple[Any, ...]]:
    found = np.array(
        [quality.direction(_clip(pipe, "rocket", seed=seed, motion_bucket_id=180).frames) for seed in seeds]
    )
    rows = []
    for axis, name in enumerate(("horizontal", "vertical")):
        smaller = min(int((found[:, axis] > 0).sum()), int((found[:, axis] < 0).sum()))
        detail = " ".join(f"{value:+.2f}" for value in found[:, axis])
        rows.append(
            _row(
                f"{name} directions over {len(seeds)} seeds: clips of the rarer sign",
                smaller,
                at_least=1,
                detail=detail,
            )
        )
    return rows


def _convergence(pipe: Any, seeds: Sequence[int]) -> tuple[Any, ...]:
    scores = dict.fromkeys(STEPS, 0.0)
    for photo in svdkit.sample_photos():
        reference = _clip(pipe, photo, seed=seeds[0], num_inference_steps=REFERENCE_STEPS)
        for steps in STEPS:
            clip = _clip(pipe, photo, seed=seeds[0], num_inference_steps=steps)
            scores[steps] += quality.psnr(clip.frames, reference.frames) / len(svdkit.sample_photos())
    least_rise = min(b - a for a, b in zip(scores.values(), [*scores.values()][1:], strict=False))
    detail = "; ".join(f"{steps} steps: {value:.1f} dB" for steps, value in scores.items())
    what = f"{', '.join(map(str, STEPS))} steps against {REFERENCE_STEPS}: smallest rise of the mean PSNR, dB"
    return _row(what, least_rise, at_least=0.01, detail=detail)


def _seconds(clips: dict[tuple[str, int], svdkit.Clip]) -> tuple[Any, ...]:
    seconds = [sum(clip.provenance.stage_seconds.values()) for clip in clips.values() if clip.provenance]
    return _row(
        "14 frames, 25 steps, 72×128: median seconds",
        np.median(seconds),
        at_most=60,
        detail=f"slowest {max(seconds):.1f}",
    )


def _row(
    what: str, value: Any, *, at_least: float | None = None, at_most: float | None = None, detail: str = ""
) -> tuple[Any, ...]:
    met = bool(value >= at_least) if at_least is not None else bool(value <= at_most)
    bar = f"≥ {at_least:g}" if at_least is not None else f"≤ {at_most:g}"
    return what, round(float(value), 3), "–" if at_least == -1 else bar, met, detail


def _mean(values: dict[tuple[str, int], float]) -> float:
    return float(np.mean([*values.values()]))


def _by_photo(values: dict[tuple[str, int], float]) -> str:
    means = {
        photo: np.mean([value for key, value in values.items() if key[0] == photo]) for photo in svdkit.sample_photos()
    }
    return "; ".join(f"{photo} {value:.2f}" for photo, value in means.items()) + f"; worst {min(values.values()):.2f}"


def main() -> int:
    """Measure, write the record and the table, print the table; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "bench_results" / "micro", help="folder of the results")
    options = parser.parse_args()
    started = time.perf_counter()
    pipe = svdkit.load("micro")
    rows = measure(pipe)
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
    strip(pipe).save(options.out / "strip.png")
    print(table(record))
    return int(not rows["met"].all())


def strip(pipe: Any) -> Image.Image:
    """The README's picture: each sample photo beside frames 0, 4, 8 and 13 of its clip, at twice the size."""
    rows = []
    for photo in svdkit.sample_photos():
        clip = _clip(pipe, photo, seed=SEEDS[0], motion_bucket_id=180)
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
