"""Small clips for tests: a moving gradient, with the provenance a clip of micro has."""

from __future__ import annotations

from typing import Any

import numpy as np

from svdkit.clip import Clip, Provenance
from svdkit.image import fit

SETTINGS = {
    "seed": 1,
    "motion_bucket_id": 127,
    "num_inference_steps": 25,
    "noise_aug_strength": 0.02,
    "min_guidance_scale": 1.0,
    "max_guidance_scale": 3.0,
}


def moving(num_frames: int = 4, *, height: int = 32, width: int = 48) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return smooth frames in which everything moves, uint8 (frames, height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    frames = [
        np.stack([255 * x / width, 255 * y / height, 128 + 100 * np.sin((x + y + 4 * t) / 9)], axis=-1)
        for t in range(num_frames)
    ]
    return np.stack(frames).astype(np.uint8)


def provenance(**changes: Any) -> Provenance:
    """Return what a clip of micro says about itself, with changes."""
    values: dict[str, Any] = {
        "kind": "micro",
        "settings": SETTINGS,
        "load": {"model": "micro", "dtype": "fp32"},
        "conditioning": {"fps": 6, "motion_bucket_id": 127, "noise_aug_strength": 0.02},
        "model": {"name": "micro", "revision": "abc", "weights": "trained"},
        "image": fit("rocket", height=32, width=48).to_dict(),
        "stage_seconds": {"encode": 0.1, "denoise": 2.5, "decode": 0.2},
        "environment": {"python": "3.11", "torch": "2.13.0"},
    }
    return Provenance(**values | changes)


def micro_clip(num_frames: int = 4, **changes: Any) -> Clip:
    """Return a clip as ``generate`` would, without running a model."""
    photo = fit("rocket", height=32, width=48).image
    values: dict[str, Any] = {"fps": 7, "provenance": provenance(), "photo": photo}
    return Clip(moving(num_frames), **values | changes)
