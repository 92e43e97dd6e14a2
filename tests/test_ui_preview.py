"""What a clip looks like on the way: the straight line of a step, colours of latents, at most two a second."""

from __future__ import annotations

import io
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from svdkit.image import fit, sample_photo
from svdkit.ui import preview as module
from svdkit.ui.preview import Preview, animate, colours, predicted
from svdkit.ui.studio import Studio
from tests.ui_toys import SETTINGS, Told

SHAPE = (1, 4, 4, 6, 8)  # one clip, frames, channels, cells high and wide


class Clock:
    """A clock that a test winds by hand, in place of time.monotonic."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def noise(seed: int) -> Any:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def pixels(*names: str, height: int = 18, width: int = 32) -> Any:
    """Mix a picture of all colours: red, green and blue each from a photo of its own."""
    photos = (sample_photo(name).resize((width, height), Image.Resampling.BOX) for name in names)
    return np.stack([np.asarray(photo)[..., channel] for channel, photo in enumerate(photos)], axis=-1)


PHOTO, OTHER = pixels("rocket", "coffee", "cat"), pixels("cat", "rocket", "coffee")


def latents_of(*pictures: Any) -> Any:
    """Map colours to four channels by one straight line, as a VAE nearly does; float32 (frames, 4, h, w)."""
    line = 3 * np.linalg.qr(np.random.default_rng(5).normal(size=(4, 3)))[0].T
    cells = np.stack(pictures).astype(np.float64) / 127.5 - 1
    return (cells @ line + [0.3, -0.2, 0.1, 0.7]).transpose(0, 3, 1, 2).astype(np.float32)


@pytest.mark.parametrize(("high", "low"), [(700.0, 412.5), (3.0, 1.0), (0.05, 0.0)])
def test_two_points_of_a_line_give_its_end(high: float, low: float) -> None:
    clean, direction = noise(1), noise(2)
    found = predicted(clean + high * direction, clean + low * direction, high=high, low=low)
    assert found.dtype == np.float32
    assert np.allclose(found, clean[0].numpy(), atol=1e-6 * max(1, high * 8))


def test_it_is_what_the_scheduler_of_svd_takes_the_clip_to_be() -> None:
    """diffusers' own Euler step with SVD's settings: the same as its ``pred_original_sample``, at every step."""
    from diffusers import EulerDiscreteScheduler

    from tests.toy import SCHEDULER

    scheduler = EulerDiscreteScheduler(**SCHEDULER)
    scheduler.set_timesteps(6)
    latents = noise(3) * scheduler.init_noise_sigma
    for step, timestep in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(latents, timestep)
        made = scheduler.step(noise(10 + step), timestep, latents)
        high, low = (float(sigma) for sigma in scheduler.sigmas[step : step + 2])
        found = predicted(latents, made.prev_sample, high=high, low=low)
        assert np.allclose(found, made.pred_original_sample[0].numpy(), atol=1e-5 * max(1, high))
        latents = made.prev_sample


def test_colours_are_found_from_the_first_frame_alone() -> None:
    """Frame 0 is the photo; another picture in frame 1 gets its own colours by the same line."""
    found = colours(latents_of(PHOTO, OTHER), Image.fromarray(PHOTO))
    assert found.dtype == np.uint8
    assert found.shape == (2, 18, 32, 3)
    assert np.abs(found[0].astype(int) - PHOTO).max() <= 2
    assert np.abs(found[1].astype(int) - OTHER).max() <= 3
    assert np.abs(PHOTO.astype(int) - OTHER).max() > 100


def test_the_photo_may_have_any_size() -> None:
    """It is averaged to one pixel a cell."""
    photo = Image.fromarray(PHOTO).resize((256, 144), Image.Resampling.NEAREST)
    small = np.asarray(photo.resize((32, 18), Image.Resampling.BOX))
    found = colours(latents_of(small), photo)
    assert np.abs(found[0].astype(int) - small).max() <= 2


def test_a_photo_of_one_colour_is_no_riddle() -> None:
    """All cells alike would leave the line open; the ridge settles it near the colour."""
    photo = np.full((18, 32, 3), (200, 90, 30), np.uint8)
    found = colours(latents_of(photo, photo), Image.fromarray(photo))
    assert np.abs(found.astype(int) - [200, 90, 30]).max() <= 2


def test_cells_that_are_not_numbers_do_no_harm() -> None:
    """Half precision can overflow in a bad run, and a run must not end because of its picture."""
    latents = latents_of(PHOTO, PHOTO)
    latents[1, :, :3] = np.nan
    found = colours(latents, Image.fromarray(PHOTO))
    assert np.abs(found[1, 3:].astype(int) - PHOTO[3:]).max() <= 2


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_endless_cells_do_no_harm_either(value: float) -> None:
    """The first frame is what the line is fitted to; with one such cell it still gives pixels, without a warning."""
    latents = latents_of(PHOTO)
    latents[0, 0, 0, 0] = value
    assert colours(latents, Image.fromarray(PHOTO)).shape == (1, 18, 32, 3)


def test_at_most_two_pictures_a_second(clock: Clock) -> None:
    """None at the first step, which has no point before it, and none within half a second of the last one."""
    preview = Preview(fit("rocket", height=48, width=64), fps=7)
    given = []
    for step in range(1, 21):
        clock.now += 0.2
        given.append(preview.step(step, noise(step), sigmas=[5.0 - 0.1 * one for one in range(21)]) is not None)
    assert [step for step, shown in enumerate(given, start=1) if shown] == [3, 6, 9, 12, 15, 18]


def test_no_picture_while_all_is_noise(clock: Clock) -> None:
    """Above sigma 80 there is nothing to see; the points before are kept all the same."""
    preview = Preview(fit("rocket", height=48, width=64), fps=7)
    sigmas = [700.0, 300.0, 80.5, 80.0, 2.0, 0.0]
    given = []
    for step in range(1, 6):
        clock.now += 1
        given.append(preview.step(step, noise(step), sigmas=sigmas) is not None)
    assert given == [False, False, False, True, True]


def test_the_run_may_change_its_latents_in_place(clock: Clock) -> None:
    """What was kept is a copy."""
    preview, latents = Preview(fit("rocket", height=48, width=64), fps=7), noise(1)
    clock.now += 1
    preview.step(1, latents, sigmas=[2.0, 1.0, 0.0])
    latents.zero_()
    assert torch.equal(preview._before, noise(1))


def test_a_picture_is_a_loop_at_the_clips_pace() -> None:
    frames = np.stack([np.full((6, 8, 3), 60 * one, np.uint8) for one in range(4)])
    with Image.open(io.BytesIO(animate(frames, fps=8))) as found:
        assert (found.format, found.size, getattr(found, "n_frames", 1)) == ("WEBP", (8, 6), 4)
        assert found.info["loop"] == 0
        found.seek(2)
        found.load()
        assert found.info["duration"] == 125
        assert abs(found.convert("RGB").getpixel((4, 3))[0] - 120) <= 3  # type: ignore[index]


def test_a_real_run_gives_pictures_of_all_frames(toy_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS_BETWEEN", 0.0)
    told = Told()
    frame = fit("rocket", height=64, width=64)
    Studio(toy_pipe).run(frame, SETTINGS.replace(num_inference_steps=8), tell=told, stop=threading.Event())
    pictures = [news.picture for news in told.news if news.kind == "picture"]
    assert 3 <= len(pictures) <= 7
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as found:
            assert (found.format, found.size, getattr(found, "n_frames", 1)) == ("WEBP", (8, 8), 4)
            for number in range(4):
                found.seek(number)
                found.load()
