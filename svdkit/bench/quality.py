"""What a clip shows, in numbers, from its pixels alone: motion, smoothness, likeness.

``measure_quality`` gives all numbers of a clip under names that carry their units, ``QUALITY`` says what they mean.

For motion, frames are scaled so that their shorter side has 288 pixels: DIS needs texture, and a full frame takes four
times as long for the same answer. Lengths are kept as shares of the width, so nothing depends on that scale.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from svdkit.errors import ClipError

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

    Frames = npt.NDArray[np.uint8]
    Numbers = npt.NDArray[np.floating[Any]]

__all__ = ["QUALITY", "measure_quality"]

QUALITY: dict[str, str] = {
    "motion_percent_width_per_second": "how fast the middle pixel moves: median flow",
    "direction_degrees": "where the picture moves on the whole: 0 right, 90 up; None when it stands still",
    "camera_explained_fraction": "share of the picture, 0 to 1, that moves as one camera would move it",
    "pan_x_percent_width_per_second": "how fast the camera's motion carries the picture's centre to the right",
    "pan_y_percent_width_per_second": "the same, upwards, in % of the width too",
    "zoom_percent_per_second": "growth of the picture: 10 is 1.1 times larger after a second, below 0 it shrinks",
    "roll_degrees_per_second": "turning of the picture, counter-clockwise above 0",
    "residual_percent_width_per_second": "what the camera does not explain: mean speed of the rest of the flow",
    "sharpness_last_to_first_ratio": "fine detail of the last frame over frame 0's; 1 keeps it, noise counts as detail",
    "sharpness_loss_percent_per_second": "how fast fine detail fades, below 0 it grows",
    "flicker_grey_levels": "swing of mean brightness about its trend, of 255",
    "warp_error_grey_levels": "RMS of each frame and the one before it moved along the flow: high when a clip jumps",
    "chunk_border_ratio": "change across decode-chunk borders over change inside, motion taken out; 1 is seamless",
    "first_frame_psnr_db": "likeness of frame 0 to the photo; 100 when equal",
    "first_frame_ssim": "the same by structure, −1 to 1",
    "loop_gap_ratio": "step from the last frame to the first over the usual step; 1 loops without a jump",
    "reference_psnr_db": "likeness of the clip to the reference run; 100 when equal",
    "reference_ssim": "the same by structure, −1 to 1",
    "is_black": "99 % of the pixels are darker than 16 of 255",
    "is_grey": "nothing to see: grey levels deviate by less than 4, and not black",
    "is_frozen": "no frame differs from frame 0 by more than 1 grey level (RMS)",
    "is_saturated": "more than 30 % of the values are 0 or 255, beyond the photo's own, and not black",
}
"""Name of each number → what it means; its unit is in the name. Flags hold for at least half of the frames."""

_SHORT_SIDE = 288  # pixels that flow is estimated at
_STEP = 6  # every 6th pixel both ways takes part in the homography: 4,000 points of a 16:9 frame
_TRUSTED = 0.3  # a fit counts if at least this share of the points returns to its start: facts from 200 px pans
_INLIER_PIXELS = 1.0  # largest reprojection error of a point that the homography explains
_RETURN_PIXELS = 1.0  # the forward-backward check
_STILL = 0.05  # % of the width per second: below it a direction would be noise
_EQUAL_DB = 100.0  # what equal pictures get: JSON has no infinity
_SSIM_SIDE = 256  # SSIM is meant for pictures whose shorter side is about this: Wang's ssim.m averages larger ones down
_BLACK_LEVEL, _FLAT_LEVELS, _FROZEN_LEVELS, _CLIPPED_SHARE = 16, 4.0, 1.0, 0.3  # limits of the flags; see QUALITY


def measure_quality(
    frames: Frames,
    *,
    fps: float,
    photo: Frames | Image.Image | None = None,
    reference: Frames | None = None,
    decode_chunk_size: int | None = None,
) -> dict[str, float | bool | None]:
    """Measure a clip from its pixels; :data:`QUALITY` says what each number means.

    Flow is estimated at a shorter side of 288 pixels, so a clip of 25 frames at 576x1024 takes about 2 s of one core.

    Args:
        frames: uint8 RGB (frames, height, width, 3), at least 2 frames, sides of at least 16 pixels.
        fps: Frames a second at which the clip plays, above 0.
        photo: The fitted photo, as large as the frames; None leaves out the likeness of frame 0.
        reference: Frames of the same shape, of a run to compare with; None leaves out that comparison.
        decode_chunk_size: Frames decoded at once; None leaves out the borders.

    Returns:
        The names of ``QUALITY``, in its order: floats, bools for the flags, None where there is nothing to measure.

    Raises:
        ClipError: A shape or rate does not fit.

    Example:
        >>> measure_quality(np.zeros((2, 16, 16, 3), np.uint8), fps=7)["is_black"]
        True
    """
    _check(frames, fps, decode_chunk_size)
    picture = _same_shape(photo, frames[:1].shape[1:], "photo")
    other = _same_shape(reference, frames.shape, "reference")
    grey = _grey(frames)
    steps = np.array([_step(*pair) for pair in itertools.pairwise(_scaled(grey))])
    errors = steps[:, 3]
    numbers = [  # in the order of QUALITY, NaN where there is nothing to measure
        *_travel(steps, fps=fps),
        *_sharpness(grey, fps=fps),
        _flicker(frames.mean(axis=(1, 2, 3))),
        np.sqrt(np.mean(errors**2)),
        _border_ratio(errors, chunk=decode_chunk_size),
        *_likeness(frames[:1], None if picture is None else picture[None]),
        _loop_gap(frames),
        *_likeness(frames, other),
    ]
    values = [*(None if np.isnan(value) else float(value) for value in numbers), *_flags(frames, grey, photo=picture)]
    return dict(zip(QUALITY, values, strict=True))


def _check(frames: Frames, fps: float, chunk: int | None) -> None:
    shape: tuple[int, ...] = getattr(frames, "shape", ())
    if len(shape) != 4 or shape[3] != 3 or shape[0] < 2 or min(shape[1:3]) < 16 or frames.dtype != np.uint8:
        given = f"{shape} {getattr(frames, 'dtype', type(frames).__name__)}"
        raise ClipError(f"frames are {given}; give uint8 (frames, height, width, 3), at least 2 frames of 16x16 pixels")
    if not 0 < fps < float("inf"):
        raise ClipError(f"fps is {fps!r}; give the frames a second at which the clip plays, above 0")
    if chunk is not None and chunk < 1:
        raise ClipError(f"decode_chunk_size is {chunk!r}; give the frames decoded at once, at least 1, or None")


def _same_shape(given: Any, shape: tuple[int, ...], name: str) -> Frames | None:
    if given is None:
        return None
    found: Frames = np.asarray(given)
    if found.shape != shape or found.dtype != np.uint8:
        cure = "fit() the photo to the clip's size" if name == "photo" else "compare clips of one size and length"
        raise ClipError(f"{name} is {found.shape} {found.dtype}, the clip needs {shape} uint8; {cure}")
    return found


def _grey(frames: Iterable[Frames]) -> Frames:
    import cv2

    return np.array([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])


def _scaled(grey: Frames) -> list[Any]:
    """Bring grey frames to the size that flow is estimated at."""
    import cv2

    height, width = grey.shape[1:]
    scale = _SHORT_SIDE / min(height, width)
    size = (round(width * scale), round(height * scale))
    return [cv2.resize(one, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC) for one in grey]


def _step(first: Frames, second: Frames) -> list[float]:
    """Measure what happens between two grey frames of one size, lengths in widths of the frame.

    Length of the flow (median), the flow to the right and down (mean), RMS of the second frame and the first moved
    along the flow (grey levels), then what ``_camera`` gives.
    """
    import cv2

    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    there, back = dis.calc(first, second, None), dis.calc(second, first, None)
    height, width = first.shape
    grid = np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), axis=-1)
    moved = cv2.remap(first, grid + back, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    length = float(np.median(cv2.magnitude(there[..., 0], there[..., 1]))) / width
    return [length, *there.reshape(-1, 2).mean(0) / width, _rms(moved, second), *_camera(grid, there, back)]


def _camera(grid: Numbers, there: Numbers, back: Numbers) -> list[float]:
    """Fit a camera to the points that return.

    Share of all points that it explains; where it takes the centre of the picture, to the right and down; log zoom and
    roll (radians, counter-clockwise as seen) there; mean length of the flow minus the camera's. NaN without a fit.
    """
    import cv2

    height, width = there.shape[:2]
    end = grid + there
    returned = cv2.remap(back, end, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=np.inf)
    points = (slice(_STEP // 2, None, _STEP), slice(_STEP // 2, None, _STEP))
    good = np.linalg.norm(there[points] + returned[points], axis=-1) < _RETURN_PIXELS
    start, stop = grid[points][good], end[points][good]
    trusted = good.mean() >= _TRUSTED
    matrix, inliers = cv2.findHomography(start, stop, cv2.USAC_MAGSAC, _INLIER_PIXELS) if trusted else (None, good)
    if matrix is None:
        return [0.0, *[np.nan] * 5]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    *place, depth = matrix @ [*centre, 1.0]
    place = np.array(place) / depth
    local = (matrix[:2, :2] - np.outer(place, matrix[2, :2])) / depth  # the Jacobian at the centre
    log_zoom = np.log(max(abs(np.linalg.det(local)), 1e-12)) / 2
    roll = -np.arctan2(local[1, 0] - local[0, 1], local[0, 0] + local[1, 1])  # y runs down
    rest = float(np.linalg.norm(stop - cv2.perspectiveTransform(start[None], matrix)[0], axis=-1).mean()) / width
    return [inliers.mean() * good.mean(), *(place - centre) / width, log_zoom, roll, rest]


def _travel(steps: Numbers, *, fps: float) -> list[float]:
    """Add steps up to the numbers of a clip: rates a second, lengths in % of the width, angles in degrees.

    The camera's are NaN when fewer than half of the steps could be fitted: what is left would not speak for the clip.
    """
    rate = 100 * fps
    speed, x, y, _, explained = steps[:, :5].mean(axis=0)
    found = steps[~np.isnan(steps[:, 5]), 5:]
    right, down, log_zoom, roll, rest = found.mean(axis=0) if 2 * len(found) >= len(steps) else [np.nan] * 5
    direction = np.degrees(np.arctan2(-y, x)) if np.hypot(x, y) * rate > _STILL else np.nan
    zoom = 100 * np.expm1(fps * log_zoom)
    camera = [right * rate, -down * rate, zoom, np.degrees(fps * roll), rest * rate]
    return [speed * rate, direction, explained, *camera]


def _likeness(first: Frames, second: Frames | None) -> list[float]:
    """PSNR (dB, at most 100) and mean SSIM (−1 to 1, of grey) of two clips (frames, height, width, 3) of one shape."""
    if second is None:
        return [np.nan, np.nan]
    pairs = list(zip(first, second, strict=True))
    error = np.mean([_rms(*pair) ** 2 for pair in pairs])
    decibels = _EQUAL_DB if error == 0 else min(_EQUAL_DB, 10 * np.log10(255**2 / error))
    return [decibels, float(np.mean([_ssim(*pair) for pair in pairs]))]


def _ssim(first: Frames, second: Frames) -> float:
    """SSIM with Wang's Gaussian window (11 pixels) and his averaging down of large pictures."""
    import cv2
    from skimage.metrics import structural_similarity

    height, width = first.shape[:2]
    shrink = max(1, round(min(height, width) / _SSIM_SIDE))
    size = (width // shrink, height // shrink)
    grey = [cv2.resize(one, size, interpolation=cv2.INTER_AREA).astype(np.float32) for one in _grey([first, second])]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(*grey, data_range=255, **options))


def _sharpness(grey: Frames, *, fps: float) -> list[float]:
    """Fine detail (deviation of the Laplacian) of the last frame against frame 0, and its loss per second."""
    import cv2

    detail = [float(cv2.Laplacian(one, cv2.CV_32F).std(dtype=float)) for one in grey]
    if min(detail) < 0.1:  # rounding to whole grey levels alone makes more
        return [np.nan, np.nan]
    slope = np.polyfit(np.arange(len(detail)) / fps, np.log(detail), 1)[0]
    return [detail[-1] / detail[0], -100 * np.expm1(slope)]


def _flicker(brightness: Numbers) -> float:
    """How far mean brightness swings about its local trend, in grey levels; NaN under 3 frames.

    A swing of ±a from frame to frame gives a; a steady rise gives 0: half of the RMS distance of a frame to the middle
    of its neighbours.
    """
    bends = brightness[1:-1] - (brightness[:-2] + brightness[2:]) / 2
    return float(np.sqrt(np.mean(bends**2))) / 2 if len(bends) else np.nan


def _border_ratio(errors: Numbers, *, chunk: int | None) -> float:
    """Median change across decode-chunk borders over the median one inside chunks, after motion is taken out."""
    at_border = np.arange(1, len(errors) + 1) % (chunk or 1) == 0
    border, inner = errors[at_border], errors[~at_border]
    if not len(inner) or not len(border) or np.median(inner) < 1e-6:
        return np.nan
    return float(np.median(border) / np.median(inner))


def _loop_gap(frames: Frames) -> float:
    """RMS difference of the last frame to the first over the median one of neighbours; NaN if nothing changes."""
    usual = float(np.median([_rms(*pair) for pair in itertools.pairwise(frames)]))
    return _rms(frames[-1], frames[0]) / usual if usual > 1e-6 else np.nan


def _rms(first: Frames, second: Frames) -> float:
    import cv2

    return float(cv2.norm(first, second, cv2.NORM_L2) / np.sqrt(first.size))


def _flags(frames: Frames, grey: Frames, *, photo: Frames | None) -> list[bool]:
    """Say whether a clip went wrong: black, grey, frozen, saturated; each holds for at least half of the frames."""
    black = (grey < _BLACK_LEVEL).mean(axis=(1, 2)) >= 0.99
    flat = np.array([one.std() < _FLAT_LEVELS for one in grey])
    clipped = _clipped(frames) - (0 if photo is None else _clipped(photo)) > _CLIPPED_SHARE
    frozen = max(_rms(frame, frames[0]) for frame in frames) < _FROZEN_LEVELS
    return [bool(np.mean(held) >= 0.5) for held in (black, flat & ~black, frozen, clipped & ~black)]


def _clipped(pixels: Frames) -> Any:
    """Share of the channel values of a picture, or of each of several, that are 0 or 255."""
    return ((pixels == 0) | (pixels == 255)).mean(axis=(-3, -2, -1))
