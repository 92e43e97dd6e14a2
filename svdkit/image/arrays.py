"""Numbers → picture: which arrays are photos, and what to do about those that are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from svdkit.errors import ImageError

_ALLOWED = (
    "An array is a photo when it is height × width, or height × width × 1, 3 (RGB) or 4 (RGBA), "
    "of uint8, uint16 or floats from 0 to 1."
)

# Resampling and colour maths leave floats a rounding error outside 0..1: that is no reason to refuse them.
_FLOAT_SLACK = 1e-3


def array_to_image(values: Any, *, max_pixels: int) -> Image.Image:
    """Turn an array into a picture of 8 bits a channel.

    Args:
        values: Height × width, or height × width × 1, 3 or 4; uint8 (0..255), uint16 (0..65535) or floats (0..1).
            Anything that numpy can read without a copy will do.
        max_pixels: The most pixels allowed, height × width.

    Returns:
        A picture of mode L, RGB or RGBA, the same height and width.

    Raises:
        ImageError: The shape, the number type or the range is not that of a photo.

    Example:
        >>> array_to_image(np.zeros((4, 6, 3), dtype=np.uint8), max_pixels=100).size
        (6, 4)
    """
    array = _as_array(values)
    _check_shape(array, max_pixels)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(_as_bytes(array)))


def _as_array(values: Any) -> npt.NDArray[Any]:
    """Read the numbers; a tensor on a GPU, for one, says here that it cannot be read."""
    try:
        return np.asarray(values)
    except Exception as error:  # the object is the caller's: its __array__ can raise anything
        raise ImageError(
            f"{type(values).__name__} cannot be read as an array ({error}). {_ALLOWED} Convert it first: a tensor "
            "with .cpu().numpy()."
        ) from error


def _check_shape(array: npt.NDArray[Any], max_pixels: int) -> None:
    """Refuse shapes that are not a photo's, and say how to get one from the likeliest mistakes."""
    shape = " × ".join(map(str, array.shape)) or "no dimensions"
    given = f"an array of {shape} ({array.dtype})"
    if array.ndim not in {2, 3} or (array.ndim == 3 and array.shape[2] not in {1, 3, 4}):
        cure = "Give one photo of that shape."
        if array.ndim == 3 and array.shape[0] in {1, 3, 4}:
            cure = "The channels come first here: reorder with array.transpose(1, 2, 0)."
        elif array.ndim == 4:
            cure = "This looks like several pictures: give one, such as array[0]."
        raise ImageError(f"{given} is not a photo. {_ALLOWED} {cure}")
    if not array.size:
        raise ImageError(f"{given} is empty. {_ALLOWED} Check how it was cut out.")
    if array.shape[0] * array.shape[1] > max_pixels:
        raise ImageError(
            f"{given} is too large: at most {max_pixels:,} pixels are allowed. Make it smaller first, for example "
            "array[::2, ::2]."
        )


def _as_bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Scale every allowed number type to 0..255, to the nearest."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.newbyteorder("=") == np.uint16:
        # 65535 / 255 = 257 exactly, so white stays white; + 128 rounds to the nearest.
        scaled: npt.NDArray[np.uint8] = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return scaled
    if array.dtype.kind != "f":
        raise ImageError(
            f"an array of {array.dtype} is ambiguous: its full scale is not known. {_ALLOWED} Convert it first, for "
            "example array.astype(np.uint8) for values from 0 to 255."
        )
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise ImageError(
            f"an array of {array.dtype} holds NaN or infinite values. {_ALLOWED} Replace them first, for example with "
            "np.nan_to_num(array)."
        )
    if low < -_FLOAT_SLACK or high > 1 + _FLOAT_SLACK:
        raise ImageError(
            f"an array of {array.dtype} runs from {low:.4g} to {high:.4g}. {_ALLOWED} Scale it first, for example "
            "array / 255, or (array + 1) / 2 for values from -1 to 1."
        )
    rounded: npt.NDArray[np.uint8] = np.rint(array.clip(0, 1) * 255).astype(np.uint8)
    return rounded
