"""How a clip looks: likeness, sharpness, flicker, chunk borders, loop, and the flags of clips that went wrong."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Frames = npt.NDArray[np.uint8]

EQUAL_DB = 100.0  # what equal pictures get: JSON has no infinity
SSIM_SIDE = 256  # SSIM is meant for pictures whose shorter side is about this: Wang's ssim.m averages larger ones down
BLACK_LEVEL, FLAT_LEVELS, FROZEN_LEVELS, CLIPPED_SHARE = 16, 4.0, 1.0, 0.3  # limits of the flags; see QUALITY


def likeness(first: Frames, second: Frames) -> tuple[float, float]:
    """PSNR (dB, at most 100) and mean SSIM (−1 to 1, of grey) of two clips (frames, height, width, 3) of one shape."""
    pairs = list(zip(first, second, strict=True))
    error = float(np.mean([_rms(*pair) ** 2 for pair in pairs]))
    decibels = EQUAL_DB if error == 0 else min(EQUAL_DB, 10 * float(np.log10(255**2 / error)))
    return decibels, float(np.mean([_ssim(*pair) for pair in pairs]))


def _ssim(first: Frames, second: Frames) -> float:
    """SSIM with Wang's Gaussian window (11 pixels) and his averaging down of large pictures."""
    import cv2
    from skimage.metrics import structural_similarity

    height, width = first.shape[:2]
    shrink = max(1, round(min(height, width) / SSIM_SIDE))
    size = (width // shrink, height // shrink)
    grey = [
        cv2.resize(cv2.cvtColor(one, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA) for one in (first, second)
    ]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(*(one.astype(np.float32) for one in grey), data_range=255, **options))


def sharpness(frames: Frames, *, fps: float) -> dict[str, float | None]:
    """Fine detail (deviation of the Laplacian) of the last frame against frame 0, and its loss per second."""
    import cv2

    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    detail = [float(cv2.meanStdDev(cv2.Laplacian(one, cv2.CV_32F))[1].item()) for one in grey]
    if min(detail) < 0.1:  # rounding to whole grey levels alone makes more
        return {"sharpness_last_to_first_ratio": None, "sharpness_loss_percent_per_second": None}
    slope = float(np.polyfit(np.arange(len(detail)) / fps, np.log(detail), 1)[0])
    return {
        "sharpness_last_to_first_ratio": detail[-1] / detail[0],
        "sharpness_loss_percent_per_second": -100 * float(np.expm1(slope)),
    }


def flicker(brightness: npt.NDArray[np.float64]) -> float | None:
    """How far mean brightness swings about its local trend, in grey levels; None under 3 frames.

    A swing of ±a from frame to frame gives a; a steady rise gives 0: half of the RMS distance of a frame to the middle
    of its neighbours.
    """
    if len(brightness) < 3:
        return None
    bends = brightness[1:-1] - (brightness[:-2] + brightness[2:]) / 2
    return float(np.sqrt(np.mean(bends**2))) / 2


def border_ratio(errors: list[float], *, chunk: int | None) -> float | None:
    """Median change across decode-chunk borders over the median one inside chunks, after motion is taken out.

    Args:
        errors: One number for each pair of neighbours, as ``Step.warp_error``.
        chunk: Frames decoded at once; None if not known.
    """
    if chunk is None:
        return None
    inner = [error for i, error in enumerate(errors, start=1) if i % chunk]
    border = [error for i, error in enumerate(errors, start=1) if i % chunk == 0]
    if not inner or not border or np.median(inner) < 1e-6:
        return None
    return float(np.median(border) / np.median(inner))


def loop_gap(frames: Frames) -> float | None:
    """RMS difference of the last frame to the first over the median one of neighbours; None if nothing changes."""
    usual = float(np.median([_rms(*pair) for pair in itertools.pairwise(frames)]))
    return _rms(frames[-1], frames[0]) / usual if usual > 1e-6 else None


def _rms(first: Frames, second: Frames) -> float:
    import cv2

    return float(cv2.norm(first, second, cv2.NORM_L2) / np.sqrt(first.size))


def flags(frames: Frames, *, photo: Frames | None) -> dict[str, bool]:
    """Say whether a clip went wrong; a flag is up when it holds for at least half of the frames."""
    import cv2

    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    black = np.array([_percentile(one, 99) < BLACK_LEVEL for one in grey])
    flat = np.array([float(cv2.meanStdDev(one)[1].item()) < FLAT_LEVELS for one in grey])
    clipped = np.array([_clipped(frame) for frame in frames]) - (0 if photo is None else _clipped(photo))
    return {
        "is_black": bool(black.mean() >= 0.5),
        "is_grey": bool((flat & ~black).mean() >= 0.5),
        "is_frozen": max(_rms(frame, frames[0]) for frame in frames) < FROZEN_LEVELS,
        "is_saturated": bool(((clipped > CLIPPED_SHARE) & ~black).mean() >= 0.5),
    }


def _percentile(grey: Frames, percent: float) -> int:
    counts = np.cumsum(np.bincount(grey.ravel(), minlength=256))
    return int(np.searchsorted(counts, percent / 100 * grey.size))


def _clipped(frame: Frames) -> float:
    """Share of the channel values that are 0 or 255."""
    counts = np.bincount(frame.ravel(), minlength=256)
    return float(counts[0] + counts[255]) / frame.size
