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

from svdkit.errors import Cancelled, ModelError, SettingsError, SvdkitWarning
from svdkit.generate import generate
from svdkit.image import fit, sample_photo
from svdkit.models import find_model
from svdkit.pipeline import apply_technique, load, undo_technique
from svdkit.settings import LoadSettings
from svdkit.ui import studio as module
from svdkit.ui.studio import News, Preview, Studio, _animate, _colours, _predicted, _turn
from tests.toy import toy_pipeline, write_hub_folder
from tests.ui_toys import SETTINGS, TOY, Told, as_loaded, wait_for

FRAME = fit("rocket", height=64, width=64)


def run(studio: Studio, settings: Any = SETTINGS, *, tell: Any = id, stop: threading.Event | None = None) -> Any:
    return studio.run(FRAME, settings, tell=tell, stop=stop or threading.Event())


def stopping(stop: threading.Event, *, stage: str, step: int) -> Told:
    """Press stop when a stage has come so far."""

    def look(news: News) -> None:
        if news.progress is not None and (news.progress.stage, news.progress.step) == (stage, step):
            stop.set()

    return Told(look)


def test_the_clip_is_that_of_generate(toy_pipe: Any) -> None:
    """Bit for bit, with its provenance: telling and looking on change nothing."""
    clip = run(Studio(toy_pipe))
    same = generate(toy_pipe, FRAME, SETTINGS, progress=False)
    assert np.array_equal(clip.frames, same.frames)
    assert clip == same
    assert run(Studio(toy_pipe), SETTINGS.replace(seed=4)) != same


def test_a_model_is_loaded_when_the_first_clip_is_wanted() -> None:
    """News in their order; the second clip loads nothing."""
    studio, told = Studio("micro"), Told()
    assert not studio.loaded
    assert (studio.info.name, studio.load.dtype) == ("micro", "auto")
    frame, settings = fit("rocket", height=72, width=128), SETTINGS.replace(height=72, width=128)
    clip = studio.run(frame, settings, tell=told, stop=threading.Event())
    assert told.kinds[:2] == ["loading", "progress"]
    stages = [news.progress.stage for news in told.news if news.progress is not None]
    assert list(dict.fromkeys(stages)) == ["encode", "denoise", "decode"]
    assert told.steps("denoise") == [0, 1, 2]
    assert studio.loaded
    assert (studio.load.dtype, studio.load.device) == ("fp32", "cpu")
    again = Told()
    assert studio.run(frame, settings, tell=again, stop=threading.Event()) == clip
    assert "loading" not in again.kinds


def test_loading_happens_once_for_all_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    def load(*, settings: LoadSettings) -> Any:
        loads.append(settings)
        time.sleep(0.1)
        pipe = toy_pipeline()
        with as_loaded(pipe):
            report = pipe.svdkit
        pipe.svdkit = report
        return pipe

    monkeypatch.setattr("svdkit.pipeline.load", load)
    studio, pipes = Studio("micro"), list[Any]()
    threads = [threading.Thread(target=lambda: pipes.append(studio.prepare(id))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(loads) == 1
    assert len(pipes) == 3
    assert len(set(map(id, pipes))) == 1


def test_who_waits_for_another_ones_load_is_told(monkeypatch: pytest.MonkeyPatch, toy_pipe: Any) -> None:
    """The page's own process begins it before any tab asks; a tab says that the model is being loaded."""
    go_on, inside = threading.Event(), threading.Event()

    def load(**_: Any) -> Any:
        inside.set()
        go_on.wait(10)
        return toy_pipe

    monkeypatch.setattr("svdkit.pipeline.load", load)
    studio, told = Studio("micro"), Told()
    with as_loaded(toy_pipe):
        threads = [threading.Thread(target=studio.prepare, args=(tell,)) for tell in (id, told)]
        threads[0].start()
        inside.wait(10)
        threads[1].start()
        wait_for(lambda: told.kinds == ["loading"])
        go_on.set()
        for thread in threads:
            thread.join(10)
        studio.prepare(told)
    assert told.kinds == ["loading"]


def test_a_load_that_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch, toy_pipe: Any) -> None:
    """No network at the first clip, and a network at the second."""

    def fail(*, settings: LoadSettings) -> Any:
        raise ModelError("no network; connect, then try again")

    monkeypatch.setattr("svdkit.pipeline.load", fail)
    studio = Studio("micro")
    with pytest.raises(ModelError, match="no network; connect"):
        run(studio)
    assert not studio.loaded
    with as_loaded(toy_pipe):
        monkeypatch.setattr("svdkit.pipeline.load", lambda *, settings: toy_pipe)
        assert run(studio).num_frames == 4


def test_stop_between_steps_and_the_next_run_works(toy_pipe: Any) -> None:
    stop = threading.Event()
    told = stopping(stop, stage="denoise", step=2)
    with pytest.raises(Cancelled, match="stopped; nothing was kept of this clip"):
        run(Studio(toy_pipe), SETTINGS.replace(num_inference_steps=20), tell=told, stop=stop)
    assert told.steps("denoise")[-1] == 2
    assert told.steps("decode") == []
    assert run(Studio(toy_pipe)) == generate(toy_pipe, FRAME, SETTINGS, progress=False)


def test_stop_between_chunks_of_frames(toy_pipe: Any) -> None:
    stop = threading.Event()
    told = stopping(stop, stage="decode", step=1)
    with pytest.raises(Cancelled, match="nothing was kept"):
        run(Studio(toy_pipe), SETTINGS.replace(decode_chunk_size=1), tell=told, stop=stop)
    assert told.steps("decode") == [0, 1]


def test_a_stop_after_the_last_chunk_comes_too_late(toy_pipe: Any) -> None:
    """The clip is there by then: it would be a waste to throw it away."""
    stop = threading.Event()
    told = stopping(stop, stage="decode", step=4)
    clip = run(Studio(toy_pipe), SETTINGS.replace(decode_chunk_size=1), tell=told, stop=stop)
    assert stop.is_set()
    assert clip.num_frames == 4


def test_two_studios_of_one_pipeline_share_a_line(toy_pipe: Any) -> None:
    """The second is told its place, and runs only when the first has ended."""
    first_inside, go_on = threading.Event(), threading.Event()

    def hold(news: News) -> None:
        if news.progress is not None and news.progress.step == 1:
            first_inside.set()
            assert go_on.wait(10)

    first, second = Told(hold), Told()
    threads = [threading.Thread(target=run, args=(Studio(toy_pipe),), kwargs={"tell": first})]
    threads.append(threading.Thread(target=run, args=(Studio(toy_pipe),), kwargs={"tell": second}))
    threads[0].start()
    assert first_inside.wait(10)
    threads[1].start()
    wait_for(lambda: second.news)
    assert second.news == [News(kind="waiting", place=1)]
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert second.kinds[:2] == ["waiting", "progress"]
    assert "waiting" not in first.kinds


def test_studios_of_different_pipelines_do_not_wait_for_each_other(toy_pipe: Any) -> None:
    assert Studio(toy_pipe)._line is Studio(toy_pipe)._line
    assert Studio(toy_pipe)._line is not Studio("micro")._line
    assert Studio("micro")._line is not Studio("micro")._line


def test_a_run_that_fails_lets_the_next_one_in(toy_pipe: Any) -> None:
    studio = Studio(toy_pipe)
    with pytest.raises(SettingsError, match="64"):
        run(studio, SETTINGS.replace(height=128))
    assert run(studio).num_frames == 4


def test_what_a_studio_may_be_made_of(toy_pipe: Any) -> None:
    """A pipeline of svdkit or another, a name, or settings to load with."""
    assert Studio(toy_pipe).info.title == "a pipeline that svdkit did not load"
    assert Studio(toy_pipe).loaded
    with as_loaded(toy_pipe):
        assert Studio(toy_pipe).info == TOY
        assert Studio(toy_pipe).load.dtype == "fp32"
    assert Studio(toy_pipe).info.num_frames == 4  # its own, not the usual 25
    asked = LoadSettings(model="svd-xt", weights="random")
    assert Studio(asked).load == asked
    assert Studio(asked).info.num_frames == 25
    with pytest.raises(ModelError, match="svd-xxt"):
        Studio("svd-xxt")


def test_a_folders_pipeline_is_named_by_its_folder(tmp_path: Path) -> None:
    """What the panel writes as code and as a sweep must load: the report's last name alone would not."""
    folder = write_hub_folder(tmp_path / "my-svd")
    pipe = load(folder)
    assert pipe.svdkit.settings.model == "my-svd"
    studio = Studio(pipe)
    assert find_model(studio.model) == studio.info


def test_other_pipelines_are_named_as_they_were(toy_pipe: Any, tmp_path: Path) -> None:
    """A hub model by its id, though its files lie in a folder; micro by its name."""
    with as_loaded(toy_pipe):
        info = dataclasses.replace(TOY, name="someone/toy", hub_id="someone/toy", folder=tmp_path)
        settings = toy_pipe.svdkit.settings.replace(model=info.name)
        toy_pipe.svdkit = dataclasses.replace(toy_pipe.svdkit, model=info, settings=settings)
        assert Studio(toy_pipe).model == "someone/toy"
        micro = find_model("micro")
        settings = settings.replace(model="micro")
        toy_pipe.svdkit = dataclasses.replace(toy_pipe.svdkit, model=micro, settings=settings)
        assert Studio(toy_pipe).model == "micro"


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
    assert studio.loaded
    del pipe
    gc.collect()
    assert gone() is None
    assert not studio.loaded
    told = Told()
    assert np.array_equal(run(studio, tell=told).frames, clip.frames)
    assert told.kinds[:2] == ["loading", "progress"]
    gc.collect()
    assert studio.loaded  # what it loaded itself is its own
    assert studio.load.two_pass_guidance


def test_another_pipeline_is_kept() -> None:
    """svdkit did not load it, and could not do so again."""
    studio = Studio(toy_pipeline())
    gc.collect()
    assert run(studio).num_frames == 4


def told(place: int) -> None:
    pytest.fail(f"nobody was ahead, but it was told of {place}")


class Waiting:
    """A run on a thread of its own, which ends when the test says so."""

    def __init__(self, turns: list[object], log: list[str], name: str) -> None:
        self.places: list[int] = []
        self.stop, self.end, self.inside = threading.Event(), threading.Event(), False
        self.error: BaseException | None = None
        self._line, self._log, self._name = turns, log, name
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            with _turn(self._line, on_place=self.places.append, stop=self.stop):
                self.inside = True
                self._log.append(f"{self._name} begins")
                assert self.end.wait(10)
                self._log.append(f"{self._name} ends")
        except Cancelled as error:
            self.error = error

    def finish(self) -> None:
        self.end.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def line() -> tuple[list[Waiting], list[str]]:
    """Three runs that came in this order; the first runs."""
    turns, log, runs = list[object](), list[str](), list[Waiting]()
    for number, name in enumerate(("first", "second", "third")):
        runs.append(Waiting(turns, log, name))
        wait_for(lambda number=number: runs[number].inside or runs[number].places == [number])  # type: ignore[misc]
    return runs, log


def test_first_come_first_served(line: tuple[list[Waiting], list[str]]) -> None:
    """The last may be ready to end long before: it still waits, and no two are ever inside together."""
    runs, log = line
    for run in reversed(runs):
        run.end.set()
    for run in runs:
        run.finish()
    assert log == [f"{name} {what}" for name in ("first", "second", "third") for what in ("begins", "ends")]


def test_whoever_waits_is_told_each_place_once(line: tuple[list[Waiting], list[str]]) -> None:
    runs, _ = line
    assert [run.places for run in runs] == [[], [1], [2]]
    runs[0].finish()
    wait_for(lambda: runs[2].places == [2, 1])
    runs[1].finish()
    runs[2].finish()
    assert [run.places for run in runs] == [[], [1], [2, 1]]


def test_leaving_the_line_lets_the_others_go_on(line: tuple[list[Waiting], list[str]]) -> None:
    """The one who leaves never runs, and the one behind moves up."""
    runs, log = line
    runs[1].stop.set()
    runs[1].thread.join(10)
    assert isinstance(runs[1].error, Cancelled)
    assert str(runs[1].error) == "stopped while waiting for the run before"
    wait_for(lambda: runs[2].places == [2, 1])
    runs[0].finish()
    runs[2].finish()
    assert log == ["first begins", "first ends", "third begins", "third ends"]


def test_an_error_inside_frees_the_turn() -> None:
    turns, stop = list[object](), threading.Event()
    with pytest.raises(ZeroDivisionError), _turn(turns, on_place=print, stop=stop):
        raise ZeroDivisionError
    with _turn(turns, on_place=told, stop=stop):
        pass


def test_an_error_of_the_one_who_is_told_frees_the_place() -> None:
    """A panel whose page is gone may fail when it hears of its place."""
    turns, log = list[object](), list[str]()
    first = Waiting(turns, log, "first")
    wait_for(lambda: first.inside)

    def gone(place: int) -> None:
        raise ConnectionResetError(place)

    with pytest.raises(ConnectionResetError), _turn(turns, on_place=gone, stop=threading.Event()):
        pytest.fail("it was not its turn")
    first.finish()
    with _turn(turns, on_place=told, stop=threading.Event()):
        log.append("next")
    assert log[-1] == "next"


def test_a_stop_that_comes_too_late_does_not_matter_to_the_line() -> None:
    """Whoever has the turn keeps it: to stop is then the run's own affair."""
    stop = threading.Event()
    stop.set()
    with _turn([], on_place=told, stop=stop):
        reached = True
    assert reached


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


@pytest.mark.parametrize(("high", "low"), [(700.0, 412.5), (3.0, 1.0), (0.05, 0.0)])
def test_two_points_of_a_line_give_its_end(high: float, low: float) -> None:
    clean, direction = noise(1), noise(2)
    found = _predicted(clean + high * direction, clean + low * direction, high=high, low=low)
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


def test_the_photo_may_have_any_size() -> None:
    """It is averaged to one pixel a cell."""
    photo = Image.fromarray(PHOTO).resize((256, 144), Image.Resampling.NEAREST)
    small = np.asarray(photo.resize((32, 18), Image.Resampling.BOX))
    found = _colours(latents_of(small), photo)
    assert np.abs(found[0].astype(int) - small).max() <= 2


def test_a_photo_of_one_colour_is_no_riddle() -> None:
    """All cells alike would leave the line open; the ridge settles it near the colour."""
    photo = np.full((18, 32, 3), (200, 90, 30), np.uint8)
    found = _colours(latents_of(photo, photo), Image.fromarray(photo))
    assert np.abs(found.astype(int) - [200, 90, 30]).max() <= 2


def test_cells_that_are_not_numbers_do_no_harm() -> None:
    """Half precision can overflow in a bad run, and a run must not end because of its picture."""
    latents = latents_of(PHOTO, PHOTO)
    latents[1, :, :3] = np.nan
    found = _colours(latents, Image.fromarray(PHOTO))
    assert np.abs(found[1, 3:].astype(int) - PHOTO[3:]).max() <= 2


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_endless_cells_do_no_harm_either(value: float) -> None:
    """The first frame is what the line is fitted to; with one such cell it still gives pixels, without a warning."""
    latents = latents_of(PHOTO)
    latents[0, 0, 0, 0] = value
    assert _colours(latents, Image.fromarray(PHOTO)).shape == (1, 18, 32, 3)


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
    with Image.open(io.BytesIO(_animate(frames, fps=8))) as found:
        assert (found.format, found.size, getattr(found, "n_frames", 1)) == ("WEBP", (8, 6), 4)
        assert found.info["loop"] == 0
        found.seek(2)
        found.load()
        assert found.info["duration"] == 125
        assert abs(found.convert("RGB").getpixel((4, 3))[0] - 120) <= 3  # type: ignore[index]


def test_a_clip_is_not_lost_for_a_look_at_it(toy_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures end when one cannot be made, which is said once."""
    monkeypatch.setattr(Preview, "step", lambda *_, **__: 1 / 0)
    with pytest.warns(SvdkitWarning, match="no pictures on the way: division by zero") as said:
        assert run(Studio(toy_pipe)).num_frames == 4
    assert sum("no pictures" in str(one.message) for one in said) == 1


def test_a_real_run_gives_pictures_of_all_frames(toy_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_PICTURES", 0.0)
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
