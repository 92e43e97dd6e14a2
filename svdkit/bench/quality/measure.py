"""All numbers of a clip at once."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from svdkit.bench.quality.look import border_ratio, flags, flicker, likeness, loop_gap, sharpness
from svdkit.bench.quality.travel import step, travel, working
from svdkit.errors import ClipError

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

    Frames = npt.NDArray[np.uint8]

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
    steps = [step(*pair) for pair in itertools.pairwise(working(frames))]
    errors = [one.warp_error for one in steps]
    to_photo = (None, None) if picture is None else likeness(frames[:1], picture[None])
    to_other = (None, None) if other is None else likeness(frames, other)
    numbers: dict[str, float | bool | None] = {
        **travel(steps, fps=fps),
        **sharpness(frames, fps=fps),
        "flicker_grey_levels": flicker(frames.mean(axis=(1, 2, 3))),
        "warp_error_grey_levels": float(np.sqrt(np.mean(np.square(errors)))),
        "chunk_border_ratio": border_ratio(errors, chunk=decode_chunk_size),
        **dict(zip(("first_frame_psnr_db", "first_frame_ssim"), to_photo, strict=True)),
        "loop_gap_ratio": loop_gap(frames),
        **dict(zip(("reference_psnr_db", "reference_ssim"), to_other, strict=True)),
        **flags(frames, photo=picture),
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
