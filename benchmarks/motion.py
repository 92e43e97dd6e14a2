"""Motion and likeness of pictures and clips of any size, in pixels and decibels, from their pixels alone.

Motion comes from dense optical flow (DIS, Kroeger et al. 2016, arXiv 1603.03590) and a homography fitted to it, which
is exact for a camera that turns and zooms without moving. Small pictures are enlarged first: DIS matches patches of
8 pixels and finds little to match in a frame 72 pixels high.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Frames = npt.NDArray[np.uint8]
    Matrix = npt.NDArray[np.float64]

FLOW_HEIGHT = 288  # pictures below this height are enlarged to about it before flow is estimated
INLIER_PIXELS = 1.0  # largest reprojection error, in enlarged pixels, of a point that the homography explains


def psnr(first: Frames, second: Frames, mask: npt.NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures or clips of one shape, in dB; infinite when equal.

    Args:
        first: uint8, any shape ending in 3 channels.
        second: the same shape.
        mask: where to compare, the shape without the channels; everywhere if None.

    Example:
        >>> psnr(np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8))
        0.0
    """
    error = (first.astype(np.float64) - second.astype(np.float64)) ** 2
    mean = float(error.mean() if mask is None else error[mask].mean())
    return float("inf") if mean == 0 else round(10 * float(np.log10(255**2 / mean)), 4)


def flow(first: Frames, second: Frames) -> npt.NDArray[np.float32]:
    """Where each pixel of `first` goes in `second`: float32, shape (height, width, 2), x then y, in pixels.

    Args:
        first: uint8, shape (height, width, 3).
        second: uint8, the same shape.
    """
    import cv2

    height, width = first.shape[:2]
    factor = max(1, round(FLOW_HEIGHT / height))
    size = (width * factor, height * factor)
    grey = [
        cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_CUBIC)
        for picture in (first, second)
    ]
    dense = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(grey[0], grey[1], None)
    small = cv2.resize(dense, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small / factor, dtype=np.float32)


def motion(frames: Frames) -> float:
    """How far a clip's pixels travel from frame to frame: the mean length of the flow, in pixels a frame.

    Args:
        frames: uint8, shape (frames, height, width, 3), at least two frames.
    """
    return float(np.mean([np.linalg.norm(flow(a, b), axis=-1).mean() for a, b in itertools.pairwise(frames)]))


def camera(first: Frames, second: Frames) -> Matrix:
    """The 3x3 homography that best takes `first`'s pixels to `second`'s; the identity when nothing can be fitted."""
    import cv2

    height, width = first.shape[:2]
    y, x = np.mgrid[2:height:4, 2:width:4]
    points = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float64)
    moved = points + flow(first, second)[y, x].reshape(-1, 2)
    scale = max(1, round(FLOW_HEIGHT / height))
    matrix, _ = cv2.findHomography(points * scale, moved * scale, cv2.USAC_MAGSAC, INLIER_PIXELS)
    if matrix is None:
        return np.eye(3)
    shrink = np.diag([1 / scale, 1 / scale, 1.0])
    return np.asarray(shrink @ matrix @ np.linalg.inv(shrink))


def last_frame_psnr(frames: Frames) -> float:
    """How well the last frame, brought back by the camera's estimated motion, still shows frame 0, in dB.

    Homographies are fitted frame to frame and multiplied; the PSNR is taken where both frames have pixels. A clip
    whose scene dissolves into noise or grey scores low whatever its motion.

    Args:
        frames: uint8, shape (frames, height, width, 3), at least two frames.
    """
    import cv2

    height, width = frames.shape[1:3]
    total = np.eye(3)
    for first, second in itertools.pairwise(frames):
        total = camera(first, second) @ total
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    back = cv2.warpPerspective(frames[-1], total, (width, height), flags=flags)
    whole = np.ones((height, width), np.uint8)
    overlap = cv2.warpPerspective(whole, total, (width, height), flags=flags) > 0
    overlap = cv2.erode(overlap.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return psnr(frames[0], back, overlap) if overlap.any() else 0.0
