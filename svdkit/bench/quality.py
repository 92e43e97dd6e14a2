"""What a clip shows, in numbers, from its pixels alone: motion, smoothness, likeness.

``measure_quality`` gives all numbers of a clip under names that carry their units, ``QUALITY`` says what they mean.

For motion, frames are scaled so that their shorter side has 288 pixels: DIS needs texture, and a full frame takes four
times as long for the same answer. Lengths are kept as shares of the width, so nothing depends on that scale.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from svdkit.errors import ClipError

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

    Frames = npt.NDArray[np.uint8]
    Grey = npt.NDArray[np.uint8]
    Flow = npt.NDArray[np.float32]

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
    picture = None if photo is None else _same_shape(np.asarray(photo), frames[:1].shape[1:], "photo")
    other = None if reference is None else _same_shape(reference, frames.shape, "reference")
    steps = [_step(*pair) for pair in itertools.pairwise(_working(frames))]
    errors = [one.warp_error for one in steps]
    to_photo = (None, None) if picture is None else _likeness(frames[:1], picture[None])
    to_other = (None, None) if other is None else _likeness(frames, other)
    numbers: dict[str, float | bool | None] = {
        **_travel(steps, fps=fps),
        **_sharpness(frames, fps=fps),
        "flicker_grey_levels": _flicker(frames.mean(axis=(1, 2, 3))),
        "warp_error_grey_levels": float(np.sqrt(np.mean(np.square(errors)))),
        "chunk_border_ratio": _border_ratio(errors, chunk=decode_chunk_size),
        **dict(zip(("first_frame_psnr_db", "first_frame_ssim"), to_photo, strict=True)),
        "loop_gap_ratio": _loop_gap(frames),
        **dict(zip(("reference_psnr_db", "reference_ssim"), to_other, strict=True)),
        **_flags(frames, photo=picture),
    }
    return {name: numbers[name] for name in QUALITY}


def _check(frames: Frames, fps: float, chunk: int | None) -> None:
    shape: tuple[int, ...] = getattr(frames, "shape", ())
    if len(shape) != 4 or shape[3] != 3 or shape[0] < 2 or min(shape[1:3]) < 16 or frames.dtype != np.uint8:
        given = f"{shape} {getattr(frames, 'dtype', type(frames).__name__)}"
        raise ClipError(f"frames are {given}; give uint8 (frames, height, width, 3), at least 2 frames of 16x16 pixels")
    if not 0 < fps < float("inf"):
        raise ClipError(f"fps is {fps!r}; give the frames a second at which the clip plays, above 0")
    if chunk is not None and chunk < 1:
        raise ClipError(f"decode_chunk_size is {chunk!r}; give the frames decoded at once, at least 1, or None")


def _same_shape(given: Frames, shape: tuple[int, ...], name: str) -> Frames:
    if given.shape != shape or given.dtype != np.uint8:
        cure = "fit() the photo to the clip's size" if name == "photo" else "compare clips of one size and length"
        raise ClipError(f"{name} is {given.shape} {given.dtype}, the clip needs {shape} uint8; {cure}")
    return given


class _Step(NamedTuple):
    """From one frame to the next, lengths in widths of the frame."""

    median: float  # length of the flow
    mean: tuple[float, float]  # the flow, x to the right and y down
    pan: tuple[float, float] | None  # what happens to the centre of the picture; None without a fit
    log_zoom: float
    roll: float  # radians, counter-clockwise as seen
    inliers: float  # share of the points that the camera explains
    rest: float | None  # mean length of the flow minus the camera's
    warp_error: float  # RMS of this frame and the one before it moved along the flow, grey levels


def _working(frames: npt.NDArray[np.uint8]) -> list[Grey]:
    """Turn RGB frames (frames, height, width, 3) into grey ones at the size that flow is estimated at."""
    import cv2

    height, width = frames.shape[1:3]
    scale = _SHORT_SIDE / min(height, width)
    size = (round(width * scale), round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return [cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=way) for frame in frames]


def _step(first: Grey, second: Grey) -> _Step:
    """Measure what happens between two grey frames of one size."""
    import cv2

    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    there, back = dis.calc(first, second, None), dis.calc(second, first, None)
    height, width = first.shape
    grid = np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), axis=-1)
    moved = cv2.remap(first, grid + back, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    error = cv2.norm(moved, second, cv2.NORM_L2) / np.sqrt(moved.size)
    mean = there.reshape(-1, 2).mean(0) / width
    fit = _fit(grid, there, back)
    length = float(np.median(cv2.magnitude(there[..., 0], there[..., 1]))) / width
    return _Step(length, (float(mean[0]), float(mean[1])), *fit, float(error))


def _fit(grid: Flow, there: Flow, back: Flow) -> tuple[tuple[float, float] | None, float, float, float, float | None]:
    """Fit a camera to the points that return: pan, log zoom, roll, inliers, rest."""
    import cv2

    height, width = there.shape[:2]
    end = grid + there
    returned = cv2.remap(back, end, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=np.inf)
    points = (slice(_STEP // 2, None, _STEP), slice(_STEP // 2, None, _STEP))
    good = np.linalg.norm(there[points] + returned[points], axis=-1) < _RETURN_PIXELS
    start, stop = grid[points][good], end[points][good]
    if good.mean() < _TRUSTED:
        return None, 0.0, 0.0, 0.0, None
    matrix, inliers = cv2.findHomography(start, stop, cv2.USAC_MAGSAC, _INLIER_PIXELS)
    if matrix is None:
        return None, 0.0, 0.0, 0.0, None
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    pan, log_zoom, roll = _read(matrix, centre)
    camera = cv2.perspectiveTransform(start[None], matrix)[0]
    rest = float(np.linalg.norm(stop - camera, axis=-1).mean()) / width
    return (pan[0] / width, pan[1] / width), log_zoom, roll, float(inliers.mean() * good.mean()), rest


def _read(matrix: npt.NDArray[np.float64], centre: npt.NDArray[np.float64]) -> tuple[tuple[float, float], float, float]:
    """Read where a homography takes the centre (pixels), and its log zoom and roll (radians) there."""
    x, y, w = matrix @ [*centre, 1.0]
    place = np.array([x, y]) / w
    local = (matrix[:2, :2] - np.outer(place, matrix[2, :2])) / w  # the Jacobian at the centre
    roll = -np.arctan2(local[1, 0] - local[0, 1], local[0, 0] + local[1, 1])  # y runs down
    log_zoom = np.log(max(abs(np.linalg.det(local)), 1e-12)) / 2
    return (float(place[0] - centre[0]), float(place[1] - centre[1])), float(log_zoom), float(roll)


def _travel(steps: list[_Step], *, fps: float) -> dict[str, float | None]:
    """Add steps up to the numbers of a clip: rates a second, lengths in % of the width, angles in degrees.

    The camera's are None when fewer than half of the steps could be fitted: what is left would not speak for the clip.
    """
    rate = 100 * fps
    x, y = np.mean([one.mean for one in steps], axis=0) * rate
    found = [one for one in steps if one.pan is not None]
    numbers: dict[str, float | None] = {
        "motion_percent_width_per_second": float(np.mean([one.median for one in steps])) * rate,
        "direction_degrees": float(np.degrees(np.arctan2(-y, x))) if np.hypot(x, y) > _STILL else None,
        "camera_explained_fraction": float(np.mean([one.inliers for one in steps])),
    }
    names = ("pan_x_percent_width", "pan_y_percent_width", "zoom_percent", "roll_degrees", "residual_percent_width")
    values: list[float | None] = [None] * len(names)
    if 2 * len(found) >= len(steps):
        pan = np.mean([one.pan for one in found], axis=0) * rate  # type: ignore[arg-type]
        zoom = 100 * np.expm1(fps * np.mean([one.log_zoom for one in found]))
        roll = np.degrees(fps * np.mean([one.roll for one in found]))
        rest = np.mean([one.rest for one in found]) * rate
        values = [float(pan[0]), -float(pan[1]), float(zoom), float(roll), float(rest)]
    return numbers | {f"{name}_per_second": value for name, value in zip(names, values, strict=True)}


def _likeness(first: Frames, second: Frames) -> tuple[float, float]:
    """PSNR (dB, at most 100) and mean SSIM (−1 to 1, of grey) of two clips (frames, height, width, 3) of one shape."""
    pairs = list(zip(first, second, strict=True))
    error = float(np.mean([_rms(*pair) ** 2 for pair in pairs]))
    decibels = _EQUAL_DB if error == 0 else min(_EQUAL_DB, 10 * float(np.log10(255**2 / error)))
    return decibels, float(np.mean([_ssim(*pair) for pair in pairs]))


def _ssim(first: Frames, second: Frames) -> float:
    """SSIM with Wang's Gaussian window (11 pixels) and his averaging down of large pictures."""
    import cv2
    from skimage.metrics import structural_similarity

    height, width = first.shape[:2]
    shrink = max(1, round(min(height, width) / _SSIM_SIDE))
    size = (width // shrink, height // shrink)
    grey = [
        cv2.resize(cv2.cvtColor(one, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA) for one in (first, second)
    ]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(*(one.astype(np.float32) for one in grey), data_range=255, **options))


def _sharpness(frames: Frames, *, fps: float) -> dict[str, float | None]:
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


def _flicker(brightness: npt.NDArray[np.float64]) -> float | None:
    """How far mean brightness swings about its local trend, in grey levels; None under 3 frames.

    A swing of ±a from frame to frame gives a; a steady rise gives 0: half of the RMS distance of a frame to the middle
    of its neighbours.
    """
    if len(brightness) < 3:
        return None
    bends = brightness[1:-1] - (brightness[:-2] + brightness[2:]) / 2
    return float(np.sqrt(np.mean(bends**2))) / 2


def _border_ratio(errors: list[float], *, chunk: int | None) -> float | None:
    """Median change across decode-chunk borders over the median one inside chunks, after motion is taken out."""
    border = errors[chunk - 1 :: chunk] if chunk else []
    inner = [error for i, error in enumerate(errors, start=1) if chunk and i % chunk]
    if not inner or not border or np.median(inner) < 1e-6:
        return None
    return float(np.median(border) / np.median(inner))


def _loop_gap(frames: Frames) -> float | None:
    """RMS difference of the last frame to the first over the median one of neighbours; None if nothing changes."""
    usual = float(np.median([_rms(*pair) for pair in itertools.pairwise(frames)]))
    return _rms(frames[-1], frames[0]) / usual if usual > 1e-6 else None


def _rms(first: Frames, second: Frames) -> float:
    import cv2

    return float(cv2.norm(first, second, cv2.NORM_L2) / np.sqrt(first.size))


def _flags(frames: Frames, *, photo: Frames | None) -> dict[str, bool]:
    """Say whether a clip went wrong; a flag is up when it holds for at least half of the frames."""
    import cv2

    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    black = np.array([_percentile(one, 99) < _BLACK_LEVEL for one in grey])
    flat = np.array([float(cv2.meanStdDev(one)[1].item()) < _FLAT_LEVELS for one in grey])
    clipped = np.array([_clipped(frame) for frame in frames]) - (0 if photo is None else _clipped(photo))
    return {
        "is_black": bool(black.mean() >= 0.5),
        "is_grey": bool((flat & ~black).mean() >= 0.5),
        "is_frozen": max(_rms(frame, frames[0]) for frame in frames) < _FROZEN_LEVELS,
        "is_saturated": bool(((clipped > _CLIPPED_SHARE) & ~black).mean() >= 0.5),
    }


def _percentile(grey: Frames, percent: float) -> int:
    counts = np.cumsum(np.bincount(grey.ravel(), minlength=256))
    return int(np.searchsorted(counts, percent / 100 * grey.size))


def _clipped(frame: Frames) -> float:
    """Share of the channel values that are 0 or 255."""
    counts = np.bincount(frame.ravel(), minlength=256)
    return float(counts[0] + counts[255]) / frame.size
