"""A pipeline that panels share: the same clips as generate, news on the way, one run at a time."""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svdkit.errors import Cancelled, ModelError, SettingsError
from svdkit.generate import generate
from svdkit.image import fit
from svdkit.models import find_model
from svdkit.pipeline import apply_technique, load, undo_technique
from svdkit.settings import LoadSettings
from svdkit.ui.news import News
from svdkit.ui.studio import Studio
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
    assert again.kinds == ["progress"]


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
    assert second.kinds == ["waiting", "progress"]
    assert "waiting" not in first.kinds


def test_studios_of_different_pipelines_do_not_wait_for_each_other(toy_pipe: Any) -> None:
    assert Studio(toy_pipe)._turns is Studio(toy_pipe)._turns
    assert Studio(toy_pipe)._turns is not Studio("micro")._turns
    assert Studio("micro")._turns is not Studio("micro")._turns


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
    assert told.kinds == ["loading", "progress"]
    gc.collect()
    assert studio.loaded  # what it loaded itself is its own
    assert studio.load.two_pass_guidance


def test_another_pipeline_is_kept() -> None:
    """svdkit did not load it, and could not do so again."""
    studio = Studio(toy_pipeline())
    gc.collect()
    assert run(studio).num_frames == 4
