"""A pipeline that panels share: the clips of generate, news and pictures on the way, one run at a time, in turn."""

from __future__ import annotations

import dataclasses
import gc
import io
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from svdkit.errors import Cancelled, ModelError, SvdkitWarning
from svdkit.generate import generate
from svdkit.image import fit, sample_photo
from svdkit.models import find_model
from svdkit.pipeline import apply_technique, load, undo_technique
from svdkit.settings import LoadSettings
from svdkit.ui import studio as module
from svdkit.ui.studio import Preview, Studio, _colours, _predicted, _turn
from tests.toy import toy_pipeline, write_hub_folder
from tests.ui_toys import SETTINGS, TOY, Told, as_loaded, silent, wait_for

FRAME = fit("rocket", height=64, width=64)


def run(studio: Studio, settings: Any = SETTINGS, *, frame: Any = FRAME, tell: Any = silent, stop: Any = bool) -> Any:
    return studio.run(frame, settings, tell=tell, stop=stop)


def test_the_clip_is_that_of_generate(toy_pipe: Any) -> None:
    """Bit for bit, with its provenance: telling and looking on change nothing."""
    clip = run(Studio(toy_pipe))
    same = generate(toy_pipe, FRAME, SETTINGS, progress=False)
    assert np.array_equal(clip.frames, same.frames)
    assert clip == same
    assert run(Studio(toy_pipe), SETTINGS.replace(seed=4)) != same


def test_a_model_is_loaded_when_the_first_clip_is_wanted() -> None:
    """News in their order; the second clip loads nothing."""
    studio, told, again = Studio("micro"), Told(), Told()
    assert (studio.info.name, studio.load.dtype) == ("micro", "auto")
    frame, settings = fit("rocket", height=72, width=128), SETTINGS.replace(height=72, width=128)
    clip = run(studio, settings, frame=frame, tell=told)
    stages = [kind for kind in dict.fromkeys(told.kinds) if kind != "picture"]  # of which a slow machine has time for
    assert stages == ["loading", "encode", "denoise", "decode"]
    assert told.steps("denoise") == [0, 1, 2]
    assert (studio.load.dtype, studio.load.device) == ("fp32", "cpu")
    assert run(studio, settings, frame=frame, tell=again) == clip
    assert "loading" not in again.kinds


def test_a_model_is_loaded_once_for_all_who_ask(monkeypatch: pytest.MonkeyPatch, toy_pipe: Any) -> None:
    """Who waits for another one's load, such as that of the page's own process, is told that it is being loaded."""
    go_on, inside, loads, pipes = threading.Event(), threading.Event(), list[Any](), list[Any]()

    def load(*, settings: LoadSettings) -> Any:
        loads.append(settings)
        inside.set()
        go_on.wait(10)
        return toy_pipe

    monkeypatch.setattr("svdkit.pipeline.load", load)
    studio, told = Studio("micro"), Told()
    threads = [threading.Thread(target=lambda tell=tell: pipes.append(studio.prepare(tell))) for tell in (silent, told)]
    threads[0].start()
    inside.wait(10)
    threads[1].start()
    wait_for(lambda: told.kinds == ["loading"])
    go_on.set()
    for thread in threads:
        thread.join(10)
    studio.prepare(told)
    assert (len(loads), pipes, told.kinds) == (1, [toy_pipe] * 2, ["loading"])


def test_a_load_that_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch, toy_pipe: Any) -> None:
    """No network at the first clip, and a network at the second."""

    def fail(*, settings: LoadSettings) -> Any:
        raise ModelError("no network; connect, then try again")

    monkeypatch.setattr("svdkit.pipeline.load", fail)
    studio = Studio("micro")
    with pytest.raises(ModelError, match="no network; connect"):
        run(studio)
    with as_loaded(toy_pipe):
        monkeypatch.setattr("svdkit.pipeline.load", lambda *, settings: toy_pipe)
        assert run(studio).num_frames == 4


@pytest.mark.parametrize(("stage", "step"), [("denoise", 2), ("decode", 1), ("decode", 4)])
def test_stop_between_steps_and_chunks_of_frames(toy_pipe: Any, stage: str, step: int) -> None:
    """The next run works; a stop after the last chunk comes too late: it would be a waste to throw the clip away."""
    stop = threading.Event()
    told = Told(lambda kind, *, step=None, **_: stop.set() if (kind, step) == (stage, end) else None)
    end, settings = step, SETTINGS.replace(num_inference_steps=8, decode_chunk_size=1)
    if end == 4:
        assert run(Studio(toy_pipe), settings, tell=told, stop=stop.is_set).num_frames == 4
    else:
        with pytest.raises(Cancelled, match="stopped; nothing was kept of this clip"):
            run(Studio(toy_pipe), settings, tell=told, stop=stop.is_set)
    assert (stop.is_set(), told.news[-1][0], told.steps(stage)[-1]) == (True, stage, end)
    assert run(Studio(toy_pipe)) == generate(toy_pipe, FRAME, SETTINGS, progress=False)


def test_two_studios_of_one_pipeline_share_a_line(toy_pipe: Any) -> None:
    """The second is told its place, and runs only when the first has ended."""
    first_inside, go_on = threading.Event(), threading.Event()

    def hold(_: str, *, step: int = 0, **__: Any) -> None:
        if step == 1:
            first_inside.set()
            assert go_on.wait(10)

    first, second = Told(hold), Told()
    threads = [
        threading.Thread(target=run, args=(Studio(toy_pipe),), kwargs={"tell": tell}) for tell in (first, second)
    ]
    threads[0].start()
    assert first_inside.wait(10)
    threads[1].start()
    wait_for(lambda: second.news)
    assert second.news == [("waiting", {"place": 1})]
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert second.kinds[:2] == ["waiting", "encode"]
    assert "waiting" not in first.kinds
    studios = [Studio(of) for of in (toy_pipe, toy_pipe, "micro", "micro")]
    assert len({id(studio._line) for studio in studios}) == 3


def test_what_a_studio_may_be_made_of(toy_pipe: Any) -> None:
    """A pipeline of svdkit or another, a name, or settings to load with."""
    assert Studio(toy_pipe).info.title == "a pipeline that svdkit did not load"
    own = Studio(toy_pipeline())
    gc.collect()
    assert run(own).num_frames == 4  # it is kept: svdkit could not load it again
    with as_loaded(toy_pipe):
        assert Studio(toy_pipe).info == TOY
        assert Studio(toy_pipe).load.dtype == "fp32"
    assert Studio(toy_pipe).info.num_frames == 4  # its own, not the usual 25
    asked = LoadSettings(model="svd-xt", weights="random")
    assert Studio(asked).load == asked
    assert Studio(asked).info.num_frames == 25
    with pytest.raises(ModelError, match="svd-xxt"):
        Studio("svd-xxt")


def test_pipelines_are_named_so_that_they_load(toy_pipe: Any, tmp_path: Path) -> None:
    """A folder by its path, of which a report keeps the last name; a hub model by its id."""
    pipe = load(write_hub_folder(tmp_path / "my-svd"))
    assert pipe.svdkit.settings.model == "my-svd"
    assert find_model(Studio(pipe).model) == Studio(pipe).info
    with as_loaded(toy_pipe):
        hub = dataclasses.replace(TOY, name="someone/toy", hub_id="someone/toy", folder=tmp_path)
        for info in (hub, find_model("micro")):
            settings = toy_pipe.svdkit.settings.replace(model=info.name)
            toy_pipe.svdkit = dataclasses.replace(toy_pipe.svdkit, model=info, settings=settings)
            assert Studio(toy_pipe).model == info.name


def test_the_settings_are_those_of_now(toy_pipe: Any) -> None:
    """A clip that did not fit has switched a technique on: what is forecast after it has it too."""
    with as_loaded(toy_pipe):
        studio = Studio(toy_pipe)
        assert not studio.load.two_pass_guidance
        apply_technique(toy_pipe, "two-pass-guidance")
        assert studio.load.two_pass_guidance
        undo_technique(toy_pipe, "two-pass-guidance")


def test_a_pipeline_of_svdkit_goes_with_its_variable(tmp_path: Path) -> None:
    """ipywidgets keeps every panel, and two models may not fit; the clip that is wanted after all loads it again."""
    pipe = load(write_hub_folder(tmp_path / "my-svd"), two_pass_guidance=True)
    studio, gone = Studio(pipe), weakref.ref(pipe)
    clip = run(studio)
    del pipe
    gc.collect()
    assert gone() is None
    told, again = Told(), Told()
    assert np.array_equal(run(studio, tell=told).frames, clip.frames)
    gc.collect()
    run(studio, tell=again)  # what it loaded itself is its own
    assert (told.kinds[0], again.kinds[0], studio.load.two_pass_guidance) == ("loading", "encode", True)


def test_first_come_first_served() -> None:
    """No two are inside together, though the last is ready to end first; whoever waits is told each place once.

    The one who leaves never runs, and the one behind moves up.
    """
    turns, log, left = list[object](), list[str](), list[str]()
    places: list[list[int]] = [[], [], []]
    stops, ends = ([threading.Event() for _ in range(3)] for _ in range(2))

    def run(number: int) -> None:
        try:
            with _turn(turns, tell=lambda _, place: places[number].append(place), stop=stops[number].is_set):
                log.append(f"{number} begins")
                assert ends[number].wait(10)
                log.append(f"{number} ends")
        except Cancelled as error:
            left.append(str(error))

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(3)]
    for number, thread in enumerate(threads):
        thread.start()
        wait_for(lambda number=number: log if number == 0 else places[number])  # type: ignore[misc]
    stops[1].set()
    wait_for(lambda: places[2] == [2, 1])
    for end in (ends[2], ends[0]):
        end.set()
    for thread in threads:
        thread.join(10)
    assert log == ["0 begins", "0 ends", "2 begins", "2 ends"]
    assert (places, left, turns) == ([[], [1], [2, 1]], ["stopped while waiting for the run before"], [])


def test_an_error_frees_the_place() -> None:
    """Of a run; or of one who is told of a place, such as a panel whose page is gone. Whoever has the turn keeps it."""
    ahead = object()
    turns, log = [ahead], list[str]()

    def gone(kind: str, *, place: int) -> None:
        raise ConnectionResetError(kind, place)

    with pytest.raises(ConnectionResetError), _turn(turns, tell=gone, stop=bool):
        pytest.fail("it was not its turn")
    turns.remove(ahead)
    with pytest.raises(ZeroDivisionError), _turn(turns, tell=gone, stop=bool):
        raise ZeroDivisionError
    with _turn(turns, tell=gone, stop=lambda: True):
        log.append("next")
    assert (log, turns) == (["next"], [])


SHAPE = (1, 4, 4, 6, 8)  # one clip, frames, channels, cells high and wide


class Clock:
    """A clock that a test winds by hand, in place of time.monotonic."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=time.sleep))


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
        found = _predicted(latents, made.prev_sample, high=high, low=low)
        assert np.allclose(found, made.pred_original_sample[0].numpy(), atol=1e-5 * max(1, high))
        latents = made.prev_sample


def test_colours_are_found_from_the_first_frame_alone() -> None:
    """Frame 0 is the photo; another picture in frame 1 gets its own colours by the same line."""
    found = _colours(latents_of(PHOTO, OTHER), Image.fromarray(PHOTO))
    assert found.dtype == np.uint8
    assert found.shape == (2, 18, 32, 3)
    assert np.abs(found[0].astype(int) - PHOTO).max() <= 2
    assert np.abs(found[1].astype(int) - OTHER).max() <= 3
    assert np.abs(PHOTO.astype(int) - OTHER).max() > 100


@pytest.mark.parametrize("photo", [np.full((18, 32, 3), (200, 90, 30), np.uint8), PHOTO], ids=["one colour", "large"])
def test_the_photo_may_have_any_size_or_one_colour(photo: Any) -> None:
    """It is averaged to one pixel a cell; cells that are all alike would leave the line open."""
    large = Image.fromarray(photo).resize((256, 144), Image.Resampling.NEAREST)
    small = np.asarray(large.resize((32, 18), Image.Resampling.BOX))
    assert np.abs(_colours(latents_of(small), large)[0].astype(int) - small).max() <= 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_cells_that_are_not_numbers_do_no_harm(value: float) -> None:
    """Half precision can overflow in a bad run, and a run must not end because of its picture."""
    latents = latents_of(PHOTO, PHOTO)
    latents[1, :, :3] = value
    found = _colours(latents, Image.fromarray(PHOTO))
    assert np.abs(found[1, 3:].astype(int) - PHOTO[3:]).max() <= 2
    latents[0, 0, 0, 0] = value  # of the frame that the line is fitted to
    assert _colours(latents, Image.fromarray(PHOTO)).shape == (2, 18, 32, 3)


@pytest.mark.parametrize(
    ("sigmas", "seconds", "expected"),
    [
        ([5.0 - 0.1 * one for one in range(14)], 0.2, [3, 6, 9, 12]),
        ([700.0, 300.0, 80.5, 80.0, 2.0, 0.0], 1.0, [4, 5]),
    ],
    ids=["two a second", "not while all is noise"],
)
def test_when_there_is_a_picture(clock: Clock, sigmas: list[float], seconds: float, expected: list[int]) -> None:
    """None at the first step, which has no point before it, nor above sigma 80, where there is nothing to see."""
    preview, given = Preview(fit("rocket", height=48, width=64), fps=7), list[int]()
    for step in range(1, len(sigmas)):
        clock.now += seconds
        given += [step] if preview.step(step, noise(step), sigmas=sigmas) else []
    assert given == expected


def test_the_run_may_change_its_latents_in_place(clock: Clock) -> None:
    """What was kept is a copy."""
    preview, latents = Preview(fit("rocket", height=48, width=64), fps=7), noise(1)
    clock.now += 1
    preview.step(1, latents, sigmas=[2.0, 1.0, 0.0])
    latents.zero_()
    assert torch.equal(preview._before, noise(1))


def test_a_clip_is_not_lost_for_a_look_at_it(toy_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures end when one cannot be made, which is said once."""
    monkeypatch.setattr(Preview, "step", lambda *_, **__: 1 / 0)
    with pytest.warns(SvdkitWarning, match="no pictures on the way: division by zero") as said:
        assert run(Studio(toy_pipe)).num_frames == 4
    assert sum("no pictures" in str(one.message) for one in said) == 1


def test_a_real_run_gives_pictures_of_all_frames(toy_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each a loop at the clip's pace."""
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_PICTURES", 0.0)
    told = Told()
    run(Studio(toy_pipe), SETTINGS.replace(num_inference_steps=8, playback_fps=8.0), tell=told)
    pictures = [values["data"] for kind, values in told.news if kind == "picture"]
    assert 3 <= len(pictures) <= 7
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as found:
            assert (found.format, found.size, getattr(found, "n_frames", 1)) == ("WEBP", (8, 8), 4)
            found.seek(2)
            found.load()
            assert (found.info["loop"], found.info["duration"]) == (0, 125)
