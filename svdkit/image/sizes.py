"""Which frame sizes suit a model, from what it was trained on."""

from __future__ import annotations

import itertools
import math

# SVD works on sizes near its training size: area up to the trained one, aspect from 1:2 to 2:1. Published
# uses go down to 320 × 512, 0.28 of the trained area.
_LEAST_AREA_RATIO = 0.25
_MOST_AREA_RATIO = 1.1
_MOST_ASPECT = 2.0

# Eight for the VAE times eight for the UNet's three halvings: sides off this grid are padded inside the network.
_UNET_GRID = 64
_VAE_GRID = 8


def size_advice(*, height: int, width: int, trained_height: int, trained_width: int) -> str | None:
    """Say what to expect of a frame size that is far from the one a model was trained on.

    The limits are rules of thumb: area from a quarter to the whole of the trained one, aspect from 1:2 to 2:1, and
    multiples of 64 for a model that was trained on multiples of 64.

    Args:
        height: Pixels of the frame.
        width: Pixels of the frame.
        trained_height: Pixels of the frames the model was trained on.
        trained_width: Pixels of the frames the model was trained on.

    Returns:
        One or more sentences that name the nearest good size; None when there is nothing to say.

    Example:
        >>> size_advice(height=576, width=1024, trained_height=576, trained_width=1024) is None
        True
        >>> print(size_advice(height=256, width=256, trained_height=576, trained_width=1024))
        ... # doctest: +ELLIPSIS
        256×256 (height×width) is 0.11 of the area that the model was trained on (576×1024)...
    """
    grid = _UNET_GRID if trained_height % _UNET_GRID == trained_width % _UNET_GRID == 0 else _VAE_GRID
    ratio = height * width / (trained_height * trained_width)
    remarks = []
    if ratio > _MOST_AREA_RATIO:
        remarks.append(
            f"is {ratio:,.1f} × the area {{trained}}: expect repeated or frozen content, and much more memory"
        )
    elif ratio < _LEAST_AREA_RATIO:
        remarks.append(f"is {ratio:.2g} of the area {{trained}}: expect blur and flicker")
    if max(height / width, width / height) > _MOST_ASPECT:
        remarks.append("is longer than 2:1: expect little motion, or smearing at the ends")
    if height % grid or width % grid:
        remarks.append(f"is not in multiples of {grid}: expect weaker edges")
    if not remarks:
        return None
    trained = f"that the model was trained on ({trained_height}×{trained_width})"
    best_height, best_width = _nearest(
        height / width, min(max(ratio, _LEAST_AREA_RATIO), 1.0), trained_height * trained_width, grid
    )
    return (
        f"{height}×{width} (height×width) {'; it '.join(remarks).format(trained=trained)}. Nearest good size: "
        f"{best_height}×{best_width}. If you keep this one, noise_aug_strength from 0.05 to 0.1 may help."
    )


def _nearest(aspect: float, ratio: float, trained_area: int, grid: int) -> tuple[int, int]:
    """Find the size on the grid within the limits whose aspect and area are nearest to what was asked."""
    aspect = min(max(aspect, 1 / _MOST_ASPECT), _MOST_ASPECT)
    sides = range(grid, math.isqrt(int(trained_area * _MOST_ASPECT)) + 1, grid)

    def distance(size: tuple[int, int]) -> float:
        height, width = size
        return abs(math.log(height / width / aspect)) + abs(math.log(height * width / (trained_area * ratio))) / 4

    good = [
        (height, width)
        for height, width in itertools.product(sides, sides)
        if _LEAST_AREA_RATIO * trained_area <= height * width <= trained_area
        and 1 / _MOST_ASPECT <= height / width <= _MOST_ASPECT
    ]
    return min(good, key=distance)
