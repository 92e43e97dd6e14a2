"""Clip quality against clips of known truth: photos moved, faded and spoilt by known amounts."""

from __future__ import annotations

import json
import time
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks import motion
from svdkit.bench import quality
from svdkit.errors import ClipError
from svdkit.image import sample_photo

HEIGHT, WIDTH, FRAMES = 72, 128, 8
FPS = 7.0


def film(*, pan=(0.0, 0.0), zoom: float = 1.0, degrees: float = 0.0, noise: float = 0.0) -> np.ndarray:
    """The cat, panned by `pan` pixels, magnified by `zoom` and turned counter-clockwise by `degrees` each frame.

    `noise` is its deviation in grey levels.
    """
    photo = np.asarray(sample_photo("cat").resize((2 * WIDTH, 2 * HEIGHT)))
    rng = np.random.default_rng(0)
    frames = []
    for index in range(FRAMES):
        matrix = cv2.getRotationMatrix2D((WIDTH, HEIGHT), degrees * index, zoom**index)
        matrix[:, 2] += (pan[0] * index - WIDTH / 2, pan[1] * index - HEIGHT / 2)
        frame = cv2.warpAffine(photo, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
        frames.append(np.clip(frame + noise * rng.standard_normal(frame.shape), 0, 255).astype(np.uint8))
    return np.stack(frames)


def test_psnr_of_a_known_error():
    """One grey level everywhere is 48.13 dB; equal pictures are infinitely alike; outside a mask nothing counts."""
    grey = np.full((4, 4, 3), 100, np.uint8)
    assert motion.psnr(grey, grey + 1) == pytest.approx(48.13, abs=0.01)
    assert motion.psnr(grey, grey) == float("inf")
    first, second = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)
    second[0, 0] = 255
    mask = np.array([[False, True], [True, True]])
    assert motion.psnr(first, second, mask) == float("inf")
    assert motion.psnr(first, second, ~mask) == 0


def test_motion_of_a_pan_and_camera_of_a_zoom():
    """It is the pan's length, and nearly nothing for a still clip; two empty pictures have no camera to speak of."""
    for pan in ((0.0, 0.0), (1.0, 0.0), (-1.5, 0.0), (0.0, 1.0), (0.5, -0.8)):
        assert motion.motion(film(pan=pan)) == pytest.approx(np.hypot(*pan), abs=0.2 if any(pan) else 0.02)
    frames, empty = film(zoom=1.05), np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    matrix = motion.camera(frames[0], frames[1])
    assert matrix[0, 0] / matrix[2, 2] == pytest.approx(1.05, abs=0.01)
    assert np.allclose(motion.camera(empty, empty), np.eye(3), atol=1e-3)


def test_last_frame_psnr_follows_the_camera():
    """A clip that pans away is still the same scene; without registration its PSNR would be low."""
    frames = film(pan=(1.5, 0.5))
    assert motion.psnr(frames[0], frames[-1]) < 18
    assert motion.last_frame_psnr(frames) > 25


@pytest.mark.parametrize("spoil", ["noise", "grey"])
def test_last_frame_psnr_is_low_when_the_scene_is_lost(spoil):
    """The bar of 18 dB tells a scene from noise and from grey."""
    frames = film(pan=(1.0, 0.0))
    rng = np.random.default_rng(0)
    lost = rng.integers(0, 256, frames.shape) if spoil == "noise" else np.full(frames.shape, 128)
    weight = np.linspace(0, 1, FRAMES)[:, None, None, None]
    faded = (frames * (1 - weight) + lost * weight).astype(np.uint8)
    assert motion.last_frame_psnr(faded) < 18


def test_warp_error_tells_a_smooth_clip_from_a_shuffled_and_a_noisy_one():
    """Same pictures in another order, or with noise: worse."""
    frames = film(pan=(2.0, 1.0))
    shuffled = frames[np.random.default_rng(0).permutation(FRAMES)]
    clips: Any = (frames, shuffled, film(pan=(2.0, 1.0), noise=20))
    smooth, *worse = (float(quality.measure_quality(clip, fps=FPS)["warp_error_grey_levels"] or 0) for clip in clips)
    assert smooth < 0.6 * min(worse)


def measured(frames: np.ndarray, **options):
    return quality.measure_quality(frames, fps=FPS, **options)


@pytest.mark.parametrize(("pan", "degrees"), [((1.0, 0.0), 0), ((0.0, -1.0), 90), ((-0.7, 0.7), -135)])
def test_speed_and_direction_are_those_of_the_pan(pan, degrees):
    """Speed in % of the width per second, up is positive, and everything is explained by the camera."""
    numbers = measured(film(pan=pan))
    rate = 100 * FPS / WIDTH
    assert numbers["motion_percent_width_per_second"] == pytest.approx(np.hypot(*pan) * rate, rel=0.05)
    assert numbers["direction_degrees"] == pytest.approx(degrees, abs=6)
    assert numbers["pan_x_percent_width_per_second"] == pytest.approx(pan[0] * rate, abs=0.02 * rate)
    assert numbers["pan_y_percent_width_per_second"] == pytest.approx(-pan[1] * rate, abs=0.02 * rate)
    assert numbers["zoom_percent_per_second"] == pytest.approx(0, abs=1)
    assert numbers["roll_degrees_per_second"] == pytest.approx(0, abs=0.5)
    assert numbers["camera_explained_fraction"] > 0.9
    assert numbers["residual_percent_width_per_second"] < 0.1 * rate


@pytest.mark.parametrize(("zoom", "degrees"), [(1.03, 1.5), (0.98, -2.0)])
def test_zoom_compounds_and_roll_has_its_sign(zoom, degrees):
    """3 % a frame at 7 frames a second is 23 % a second; counter-clockwise is positive; nothing else moves."""
    numbers = measured(film(zoom=zoom))
    assert numbers["zoom_percent_per_second"] == pytest.approx(100 * (zoom**FPS - 1), abs=1)
    assert abs(numbers["pan_x_percent_width_per_second"]) < 0.3
    assert measured(film(degrees=degrees))["roll_degrees_per_second"] == pytest.approx(degrees * FPS, rel=0.05)


def test_residual_motion_is_what_moves_before_a_still_camera():
    """A patch of a ninth of the picture at 2 pixels a frame; the camera stands still."""
    frames = film()
    patch = np.asarray(sample_photo("coffee").resize((3 * WIDTH, 3 * HEIGHT)))
    for index, frame in enumerate(frames):
        left = 20 + 2 * index
        frame[24:48, left : left + 43] = patch[100:124, 100:143]
    numbers = measured(frames)
    expected = 2 * (24 * 43) / (HEIGHT * WIDTH) * 100 * FPS / WIDTH
    assert numbers["residual_percent_width_per_second"] == pytest.approx(expected, rel=0.4)
    assert abs(numbers["pan_x_percent_width_per_second"]) < 0.1
    assert measured(film(pan=(2.0, 0.0)))["residual_percent_width_per_second"] < expected / 3


def test_no_camera_is_read_from_noise():
    """Flow that does not return from where it went is not fitted: None, not a number."""
    noise = np.random.default_rng(0).integers(0, 256, (4, HEIGHT, WIDTH, 3), np.uint8)
    numbers = measured(noise)
    assert numbers["pan_x_percent_width_per_second"] is None
    assert numbers["camera_explained_fraction"] < 0.3


def test_sharpness_and_its_loss_are_those_of_fading_stripes():
    """Contrast falling by 20 % a second over one second: the ratio is 0.8, the loss 20 %."""
    rows = 128 + 100 * 0.8 ** (np.arange(8) / FPS)[:, None] * np.sin(np.arange(WIDTH) * 0.8)
    numbers = measured(np.repeat(np.repeat(np.round(rows)[:, None, :, None], HEIGHT, 1), 3, 3).astype(np.uint8))
    assert numbers["sharpness_last_to_first_ratio"] == pytest.approx(0.8, abs=0.01)
    assert numbers["sharpness_loss_percent_per_second"] == pytest.approx(20, abs=1)
    flat = np.full((3, HEIGHT, WIDTH, 3), 128, np.uint8)
    assert measured(flat)["sharpness_last_to_first_ratio"] is None


def test_flicker_is_the_swing_and_not_the_trend():
    """Plus and minus 5 levels in turn gives 5; growing brighter by 5 a frame gives 0."""
    still = np.full((8, HEIGHT, WIDTH, 3), 100, np.uint8)
    swing = still + 5 * (np.arange(8) % 2 * 2 - 1)[:, None, None, None]
    trend = still + 5 * np.arange(8)[:, None, None, None]
    assert measured(swing.astype(np.uint8))["flicker_grey_levels"] == pytest.approx(5)
    assert measured(trend.astype(np.uint8))["flicker_grey_levels"] == pytest.approx(0)
    assert measured(still[:2])["flicker_grey_levels"] is None


def test_chunk_borders_show_as_a_ratio():
    """A step of brightness every 4 frames: above 1 for the true chunk size, not above 1 for a wrong one."""
    frames = film(pan=(1.0, 0.0))
    frames[4:] = np.clip(frames[4:].astype(int) + 12, 0, 255)
    assert measured(frames, decode_chunk_size=4)["chunk_border_ratio"] > 3
    assert measured(frames, decode_chunk_size=3)["chunk_border_ratio"] < 1.5
    assert measured(film(pan=(1.0, 0.0)), decode_chunk_size=4)["chunk_border_ratio"] == pytest.approx(1, abs=0.3)
    assert measured(frames, decode_chunk_size=8)["chunk_border_ratio"] is None
    assert measured(frames)["chunk_border_ratio"] is None


def test_likeness_to_the_photo_and_to_a_reference():
    """A constant error of 10 levels is 28.13 dB; equal is 100 dB and 1.0; blur costs structure."""
    frames = film(pan=(1.0, 0.0)).clip(0, 245)
    numbers = measured(frames + 10, photo=frames[0] + 10, reference=frames)
    assert numbers["first_frame_psnr_db"] == 100
    assert numbers["first_frame_ssim"] == pytest.approx(1)
    assert numbers["reference_psnr_db"] == pytest.approx(28.13, abs=0.01)
    assert 0.9 < numbers["reference_ssim"] < 1
    blurred = np.stack([cv2.GaussianBlur(frame, (9, 9), 3) for frame in frames])
    assert measured(blurred, reference=frames)["reference_ssim"] < 0.8
    assert measured(frames)["reference_psnr_db"] is None


def test_ssim_equals_scikit_images_own():
    """Small pictures are compared as they are, in grey."""
    from skimage.metrics import structural_similarity

    first, second = film(noise=5)[0], film(noise=25)[0]
    grey = [cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (first, second)]
    expected = structural_similarity(*grey, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    assert measured(np.stack([first, first]), photo=second)["first_frame_ssim"] == pytest.approx(expected, abs=1e-4)


def test_loop_gap_of_a_loop_and_of_a_clip_that_walks_away():
    """There and back is a loop, though the first frame is not repeated at its end."""
    forth = film(pan=(1.5, 0.0))
    loop = np.concatenate([forth, forth[-2:0:-1]])
    assert measured(loop)["loop_gap_ratio"] == pytest.approx(1, abs=0.1)
    assert measured(forth)["loop_gap_ratio"] > 2
    assert measured(np.repeat(forth[:1], 3, 0))["loop_gap_ratio"] is None


FLAGS = ("is_black", "is_grey", "is_frozen", "is_saturated")


@pytest.mark.parametrize(
    ("frames", "raised"),
    [
        (np.zeros((4, HEIGHT, WIDTH, 3), np.uint8), {"is_black", "is_frozen"}),
        (np.full((4, HEIGHT, WIDTH, 3), 128, np.uint8), {"is_grey", "is_frozen"}),
        (np.repeat(film()[:1], 4, 0), {"is_frozen"}),
        (np.where(film(pan=(1.0, 0.0)) > 90, 255, 0).astype(np.uint8), {"is_saturated"}),
        (film(pan=(1.0, 0.0)), set()),
        (film(pan=(0.3, 0.0)), set()),
    ],
    ids=["black", "grey", "frozen", "saturated", "fine", "slow"],
)
def test_flags_name_what_went_wrong_and_nothing_else(frames, raised):
    """Each fault has its flag; a good clip, a slow one too, has none."""
    numbers = measured(frames)
    assert {name for name in FLAGS if numbers[name]} == raised


def test_a_photo_on_white_is_not_saturated():
    """What the photo itself has at its limits is not the clip's fault."""
    photo = film()[0]
    photo[:, : WIDTH // 2] = 255
    clip = np.stack([photo, photo, photo])
    assert measured(clip)["is_saturated"]
    assert not measured(clip, photo=photo)["is_saturated"]


def test_numbers_are_plain_json_under_the_names_that_are_explained():
    """Every number has a meaning, in the same order; no NaN, no numpy type."""
    numbers = measured(film(), photo=sample_photo("cat").resize((WIDTH, HEIGHT)), decode_chunk_size=4)
    assert list(numbers) == list(quality.QUALITY)
    assert all(type(value) in {float, bool, type(None)} for value in numbers.values())
    json.dumps(numbers, allow_nan=False)


@pytest.mark.parametrize(
    ("frames", "options", "words"),
    [
        (film()[:1], {"fps": 7}, "at least 2 frames"),
        (film()[0], {"fps": 7}, r"frames are \(72, 128, 3\) uint8; give uint8 \(frames, height, width, 3\)"),
        (film().astype(np.float32), {"fps": 7}, "float32; give uint8"),
        (film(), {"fps": 0}, "fps is 0; give the frames a second"),
        (film(), {"fps": 7, "decode_chunk_size": 0}, "decode_chunk_size is 0; give the frames decoded at once"),
        (film(), {"fps": 7, "photo": film()[0, :-2]}, r"photo is \(70, 128, 3\) uint8.*fit\(\) the photo"),
        (film(), {"fps": 7, "reference": film()[:-1]}, "reference is .*compare clips of one size and length"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(frames, options, words):
    """What was given, what is needed, what to do."""
    with pytest.raises(ClipError, match=words):
        quality.measure_quality(frames, **options)


def test_a_full_size_clip_is_measured_in_a_few_seconds():
    """25 frames at 576x1024 take about 2.3 s of one core with everything asked; the bar leaves room for a busy one."""
    photo = np.asarray(sample_photo("cat").resize((1124, 676)))
    frames = np.stack([photo[2 * i : 2 * i + 576, 4 * i : 4 * i + 1024] for i in range(25)])
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        begin = time.process_time()
        numbers = measured(frames, photo=frames[0], reference=frames, decode_chunk_size=8)
        seconds = time.process_time() - begin
    finally:
        cv2.setNumThreads(threads)
    assert numbers["pan_x_percent_width_per_second"] == pytest.approx(-400 * FPS / 1024, rel=0.02)
    assert seconds < 6
