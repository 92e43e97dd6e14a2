"""How a clip moves: the flow from frame to frame, what a camera explains of it, and what is left.

Frames are scaled so that their shorter side has 288 pixels: DIS needs texture, and a full frame takes four times as
long for the same answer. Lengths are kept as shares of the width, so nothing depends on that scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from svdkit.bench.quality.estimate import INLIER_PIXELS

if TYPE_CHECKING:
    import numpy.typing as npt

    Grey = npt.NDArray[np.uint8]
    Flow = npt.NDArray[np.float32]

SHORT_SIDE = 288  # pixels that flow is estimated at
STEP = 6  # every 6th pixel both ways takes part in the homography: 4,000 points of a 16:9 frame
TRUSTED = 0.3  # a fit counts if at least this share of the points returns to where it came from: facts from 200 px pans
RETURN_PIXELS = 1.0  # the forward-backward check
STILL = 0.05  # % of the width per second: below it a direction would be noise


class Step(NamedTuple):
    """From one frame to the next, lengths in widths of the frame."""

    median: float  # length of the flow
    mean: tuple[float, float]  # the flow, x to the right and y down
    pan: tuple[float, float] | None  # what happens to the centre of the picture; None without a fit
    log_zoom: float
    roll: float  # radians, counter-clockwise as seen
    inliers: float  # share of the points that the camera explains
    rest: float | None  # mean length of the flow minus the camera's
    warp_error: float  # RMS of this frame and the one before it moved along the flow, grey levels


def working(frames: npt.NDArray[np.uint8]) -> list[Grey]:
    """Turn RGB frames (frames, height, width, 3) into grey ones at the size that flow is estimated at."""
    import cv2

    height, width = frames.shape[1:3]
    scale = SHORT_SIDE / min(height, width)
    size = (round(width * scale), round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return [cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=way) for frame in frames]


def step(first: Grey, second: Grey) -> Step:
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
    return Step(length, (float(mean[0]), float(mean[1])), *fit, float(error))


def _fit(grid: Flow, there: Flow, back: Flow) -> tuple[tuple[float, float] | None, float, float, float, float | None]:
    """Fit a camera to the points that return: pan, log zoom, roll, inliers, rest."""
    import cv2

    height, width = there.shape[:2]
    end = grid + there
    returned = cv2.remap(back, end, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=np.inf)
    points = (slice(STEP // 2, None, STEP), slice(STEP // 2, None, STEP))
    good = np.linalg.norm(there[points] + returned[points], axis=-1) < RETURN_PIXELS
    start, stop = grid[points][good], end[points][good]
    if good.mean() < TRUSTED:
        return None, 0.0, 0.0, 0.0, None
    matrix, inliers = cv2.findHomography(start, stop, cv2.USAC_MAGSAC, INLIER_PIXELS)
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


def travel(steps: list[Step], *, fps: float) -> dict[str, float | None]:
    """Add steps up to the numbers of a clip: rates a second, lengths in % of the width, angles in degrees.

    The camera's are None when fewer than half of the steps could be fitted: what is left would not speak for the clip.
    """
    rate = 100 * fps
    x, y = np.mean([one.mean for one in steps], axis=0) * rate
    found = [one for one in steps if one.pan is not None]
    numbers: dict[str, float | None] = {
        "motion_percent_width_per_second": float(np.mean([one.median for one in steps])) * rate,
        "direction_degrees": float(np.degrees(np.arctan2(-y, x))) if np.hypot(x, y) > STILL else None,
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
