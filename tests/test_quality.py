"""Clip quality against clips of known truth: photos moved by known amounts."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from svdkit.bench import quality
from svdkit.image import sample_photo

HEIGHT, WIDTH, FRAMES = 72, 128, 8


def film(*, pan: tuple[float, float] = (0.0, 0.0), zoom: float = 1.0, noise: float = 0.0) -> np.ndarray:
    """The cat, panned by `pan` pixels and magnified by `zoom` each frame; `noise` is its deviation in grey levels."""
    photo = np.asarray(sample_photo("cat").resize((2 * WIDTH, 2 * HEIGHT)))
    rng = np.random.default_rng(0)
    frames = []
    for index in range(FRAMES):
        scale = zoom**index
        matrix = np.array(
            [
                [scale, 0, WIDTH / 2 + pan[0] * index - scale * WIDTH],
                [0, scale, HEIGHT / 2 + pan[1] * index - scale * HEIGHT],
            ]
        )
        frame = cv2.warpAffine(photo, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
        frames.append(np.clip(frame + noise * rng.standard_normal(frame.shape), 0, 255).astype(np.uint8))
    return np.stack(frames)


def test_psnr_of_a_known_error():
    """One grey level everywhere is 48.13 dB; equal pictures are infinitely alike."""
    grey = np.full((4, 4, 3), 100, np.uint8)
    assert quality.psnr(grey, grey + 1) == pytest.approx(48.13, abs=0.01)
    assert quality.psnr(grey, grey) == float("inf")


def test_psnr_under_a_mask_sees_only_the_mask():
    """An error outside the mask does not count."""
    first, second = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)
    second[0, 0] = 255
    mask = np.array([[False, True], [True, True]])
    assert quality.psnr(first, second, mask) == float("inf")
    assert quality.psnr(first, second, ~mask) == 0


@pytest.mark.parametrize("pan", [(1.0, 0.0), (-1.5, 0.0), (0.0, 1.0), (0.5, -0.8)])
def test_direction_and_motion_of_a_pan(pan):
    """Mean flow is the pan, with its sign; its length is the motion."""
    frames = film(pan=pan)
    assert quality.direction(frames) == pytest.approx(pan, abs=0.15)
    assert quality.motion(frames) == pytest.approx(np.hypot(*pan), abs=0.2)


def test_a_still_clip_does_not_move():
    """The floor of the measure is far below the slowest bucket's motion."""
    assert quality.motion(film()) < 0.02


def test_camera_finds_a_zoom():
    """The homography of a 5 % zoom magnifies by 1.05."""
    frames = film(zoom=1.05)
    matrix = quality.camera(frames[0], frames[1])
    assert matrix[0, 0] / matrix[2, 2] == pytest.approx(1.05, abs=0.01)


def test_camera_gives_the_identity_where_nothing_can_be_fitted():
    """Two empty pictures have no motion to speak of."""
    empty = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert np.allclose(quality.camera(empty, empty), np.eye(3), atol=1e-3)


def test_last_frame_psnr_follows_the_camera():
    """A clip that pans away is still the same scene; without registration its PSNR would be low."""
    frames = film(pan=(1.5, 0.5))
    assert quality.psnr(frames[0], frames[-1]) < 18
    assert quality.last_frame_psnr(frames) > 25


@pytest.mark.parametrize("spoil", ["noise", "grey"])
def test_last_frame_psnr_is_low_when_the_scene_is_lost(spoil):
    """The bar of 18 dB tells a scene from noise and from grey."""
    frames = film(pan=(1.0, 0.0))
    rng = np.random.default_rng(0)
    lost = rng.integers(0, 256, frames.shape) if spoil == "noise" else np.full(frames.shape, 128)
    weight = np.linspace(0, 1, FRAMES)[:, None, None, None]
    faded = (frames * (1 - weight) + lost * weight).astype(np.uint8)
    assert quality.last_frame_psnr(faded) < 18


def test_warp_error_tells_a_smooth_clip_from_a_shuffled_and_a_noisy_one():
    """Same pictures in another order, or with noise: worse."""
    frames = film(pan=(2.0, 1.0))
    shuffled = frames[np.random.default_rng(0).permutation(FRAMES)]
    assert quality.warp_error(frames) < 0.6 * quality.warp_error(shuffled)
    assert quality.warp_error(frames) < 0.6 * quality.warp_error(film(pan=(2.0, 1.0), noise=20))
