"""What a clip looks like while it is still noise: a straight line from latents to colours, no second model."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from svdkit.image import Frame

_SECONDS_BETWEEN = 0.5  # a picture costs some milliseconds, and a message to the browser
_LARGEST_SIGMA = 80.0  # above it there is nothing to see yet, and half precision cannot say what there is
_RIDGE = 1e-3  # keeps the fit defined while all cells are alike


class Preview:
    """Turns latents into small pictures on the way, at most two a second.

    The line is fitted anew for each picture: frame 0 is nearly the photo, so its latents and the photo's colours say
    what each latent channel means. That holds for any VAE, and needs no constants.

    Example:
        >>> preview = Preview(frame, fps=7)  # doctest: +SKIP
        >>> picture = preview.step(3, latents, sigmas=pipe.scheduler.sigmas)  # doctest: +SKIP
    """

    def __init__(self, frame: Frame, *, fps: float) -> None:
        self._photo, self._fps = frame.image, fps
        self._before: Any = None
        self._last = time.monotonic()

    def step(self, step: int, latents: Any, *, sigmas: Any) -> bytes | None:
        """Take the latents after a denoising step; give a picture when one is due.

        Args:
            step: From 1.
            latents: Tensor (1, frames, channels, cells high, cells wide).
            sigmas: Of the scheduler, one more than steps.

        Returns:
            An animated WebP, or None.
        """
        before, self._before = self._before, latents.detach().clone()
        high = float(sigmas[step - 1])
        if before is None or high > _LARGEST_SIGMA or time.monotonic() - self._last < _SECONDS_BETWEEN:
            return None
        clean = predicted(before, latents, high=high, low=float(sigmas[step]))
        picture = animate(colours(clean, self._photo), fps=self._fps)
        self._last = time.monotonic()
        return picture


def predicted(before: Any, after: Any, *, high: float, low: float) -> npt.NDArray[np.float32]:
    """Say where a step was heading: the clip without noise, as the network saw it at this step.

    An Euler step goes from ``before`` at ``high`` along a straight line that ends in the clean clip at sigma 0 (Karras
    et al. 2022, algorithm 1 without churn), so two points of it are enough.

    Args:
        before: Latents before the step, tensor (1, frames, channels, h, w).
        after: Latents after it.
        high: Sigma before the step.
        low: Sigma after it, below ``high``.

    Returns:
        float32 (frames, channels, h, w).
    """
    one, other = (part[0].float().cpu().numpy() for part in (before, after))
    clean: npt.NDArray[np.float32] = (high * other - low * one) / (high - low)
    return clean


def colours(latents: npt.NDArray[np.float32], photo: Image.Image) -> npt.NDArray[np.uint8]:
    """Give each latent cell a colour, by the linear map that fits frame 0 to the photo best.

    Args:
        latents: float32 (frames, channels, h, w).
        photo: RGB, of any size.

    Returns:
        uint8 (frames, h, w, 3).
    """
    frames, channels, height, width = latents.shape
    wanted = np.asarray(photo.resize((width, height), Image.Resampling.BOX), np.float32).reshape(-1, 3)
    cells = latents.transpose(0, 2, 3, 1).reshape(frames, -1, channels)
    cells = np.concatenate([cells, np.ones_like(cells[..., :1])], axis=-1)
    cells = np.nan_to_num(cells, nan=0.0, posinf=0.0, neginf=0.0)
    first = cells[0]
    square = first.T @ first + _RIDGE * len(first) * np.eye(channels + 1, dtype=np.float32)
    painted = cells @ np.linalg.solve(square, first.T @ wanted)
    pixels: npt.NDArray[np.uint8] = painted.clip(0, 255).round().astype(np.uint8)
    return pixels.reshape(frames, height, width, 3)


def animate(frames: npt.NDArray[np.uint8], *, fps: float) -> bytes:
    """Write frames as a small animated WebP that loops; uint8 (frames, h, w, 3)."""
    pictures = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": pictures[1:], "duration": round(1000 / fps), "loop": 0}
    pictures[0].save(buffer, "WEBP", quality=60, method=0, **more)
    return buffer.getvalue()
