"""The whole panel without a browser: from a photo to a clip, drafts, languages, errors, and what it keeps to itself."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import gc
import html
import json
import re
import sys
import threading
import weakref
from collections.abc import Iterator
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import svdkit
from svdkit.errors import Cancelled, ImageError, ModelError, SettingsError
from svdkit.forecast import predict
from svdkit.forecast.cards import CARD_GIB, Card
from svdkit.generate import generate
from svdkit.image import sample_photo, sample_photos
from svdkit.settings import ClipSettings
from svdkit.ui import panel as module
from svdkit.ui.panel import Panel
from svdkit.ui.panel import panel as make_panel
from svdkit.ui.parts import texts as all_texts
from svdkit.ui.studio import APP, Studio, serve
from tests.toy import write_hub_folder
from tests.ui_toys import IPYWIDGETS, as_loaded, close_all, jpeg, plain, put, state, tree, wait_for


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same machine everywhere; no test reads or writes the user's cache, or what an app left in the environment."""
    close_all()
    monkeypatch.setenv("SVDKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(APP, raising=False)
    monkeypatch.setattr(
        predict, "_this_machine", lambda _device: (Card("a machine of the tests", 16 * CARD_GIB), "cpu")
    )


@pytest.fixture
def pipe(toy_pipe: Any) -> Iterator[Any]:
    with as_loaded(toy_pipe):
        yield toy_pipe


@pytest.fixture
def panel(pipe: Any, tmp_path: Path) -> Panel:
    """A panel of the toy, with clips of two steps; runs are threads."""
    made = make_panel(pipe, folder=tmp_path / "clips", background=True)
    made.form.fields["num_inference_steps"].value = 2
    made.form.fields["seed"].value = 7
    return made


def finish(panel: Panel) -> str:
    """Wait for the end of a run; give the line of state."""
    wait_for(lambda: not panel.runner.busy, seconds=30)
    if panel.runner.thread is not None:
        panel.runner.thread.join(10)  # it enables the buttons, and looks at the form once more
    return plain(panel.runner.state.value)


def settings_of(panel: Panel) -> list[dict[str, Any]]:
    """The settings of the clips that are kept."""
    return [made.about.settings for made in panel.results.made]


def texts(panel: Panel) -> list[tuple[str, str]]:
    """Every text a person may see or hear: (where, text)."""
    names = ("description", "value", "placeholder", "tooltip", *(("description_tooltip",) if IPYWIDGETS < 8 else ()))
    found = []
    for widget in tree(panel.widget):
        kind = type(widget).__name__
        for name in names:
            value = getattr(widget, name, None)
            if isinstance(value, str) and value and not (name == "value" and kind in {"Text", "Textarea", "Dropdown"}):
                value = re.sub(r"data:[^\"]+", "", value)
                found.append((f"{kind}.{name}", value))
        if kind == "Accordion":
            found += [("Accordion.title", widget.get_title(number)) for number in range(len(widget.children))]
        if kind == "Dropdown" and widget is not panel.language:
            found += [("Dropdown.option", label) for label in widget._options_labels]
    return found


def english_in(text: str) -> list[str]:
    """Names of the English texts that stand in a text: whole, or a telling piece of one with blanks."""
    found = []
    for name, text_of in all_texts()["texts"].items():
        english, chinese = text_of["en"], text_of["zh"]
        pieces = [piece for piece in re.split(r"\{\w+\}|<[^>]+>", english) if len(piece.strip()) > 6]
        if english != chinese and (text == english or any(piece in html.unescape(text) for piece in pieces)):
            found.append(name)
    return found


def test_from_a_photo_to_a_clip(panel: Panel, pipe: Any) -> None:
    """The clip of generate, bit for bit; it plays, is listed, counts for the forecast, and can be saved."""
    assert panel.make()
    assert re.fullmatch(r"Done in [\d.]+ m?s\.", finish(panel)), panel.runner.state.value
    (made,) = panel.results.made
    settings = ClipSettings(num_inference_steps=2, seed=7, num_frames=4, height=64, width=64)
    same = generate(pipe, sample_photos()[0], settings, progress=False)
    assert np.array_equal(made.clip.frames, same.frames)
    assert made.photo.name == sample_photos()[0]
    assert "data:video/mp4" in panel.results.player.value
    assert len(panel.outlook._records) == 1
    panel.results.save.click()
    assert "Saved as" in panel.results.saved.value
    assert repr(panel) == "Panel(toy, 1 clips)"


def test_in_the_foreground_it_is_there_when_the_click_is_over(pipe: Any) -> None:
    """As on Colab: the buttons can be pressed again, but for the clicks made during the run, which arrive after it."""
    panel = make_panel(pipe, folder=None, background=False)
    said = [text for _, text in texts(panel)]
    assert any("Here a run is stopped by interrupting the kernel" in text for text in said)
    assert any("clear photo and clips before you share it" in text for text in said)
    panel.form.fields["num_inference_steps"].value = 1
    panel.form.lock.value = False

    async def clicks() -> None:
        panel.start.click()
        seed = panel.form.fields["seed"].value
        panel.start.click()
        panel.form.fields["num_inference_steps"].value = 2
        assert (panel.runner.busy, panel.start.disabled, len(panel.results.made)) == (False, False, 1)
        assert panel.form.fields["seed"].value == seed
        await asyncio.sleep(0.5)
        panel.start.click()

    asyncio.run(clicks())
    assert len(panel.results.made) == 2


def test_a_pipeline_that_svdkit_did_not_load(toy_pipe: Any) -> None:
    """One's own: there is no forecast for it, and clips all the same."""
    panel = make_panel(toy_pipe, folder=None, background=False)
    panel.make(ClipSettings(num_inference_steps=2, seed=1, num_frames=4, height=64, width=64))
    assert "Done in" in panel.runner.state.value, plain(panel.runner.state.value)
    assert len(panel.results.made) == 1
    assert "no forecast" in panel.outlook.text.value


def test_the_buttons_rest_while_it_runs_and_stop_keeps_nothing(panel: Panel) -> None:
    """A second click starts nothing; afterwards all can be pressed again, and the settings are as they were."""
    panel.form.fields["num_inference_steps"].value = 100
    before = panel.form.settings
    panel.start.click()
    wait_for(lambda: "denoising" in panel.runner.state.value)
    assert (panel.start.disabled, panel.drafts.disabled, panel.runner.stop.disabled) == (True, True, False)
    assert not panel.make()
    assert not panel.make_drafts()
    panel.runner.stop.click()
    assert finish(panel) == "Stopped. Nothing was kept; the settings are as they were."
    assert (panel.start.disabled, panel.drafts.disabled, panel.runner.stop.disabled) == (False, False, True)
    assert (panel.results.made, panel.form.settings) == ([], before)
    panel.form.fields["num_inference_steps"].value = 2
    panel.start.click()
    assert finish(panel).startswith("Done in")
    assert len(panel.results.made) == 1


@pytest.fixture
def asked(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ClipSettings]]:
    """Frames and settings that the studio is asked for, which makes nothing of them."""
    found = list[tuple[Any, ClipSettings]]()

    def run(frame: Any, settings: ClipSettings, **_: Any) -> Any:
        found.append((frame, settings))
        raise RuntimeError("looked")

    monkeypatch.setattr(panel.studio, "run", run)
    return found


def test_the_seed_is_kept_or_drawn(panel: Panel, asked: list[tuple[Any, ClipSettings]]) -> None:
    """As the box beside it says; what was drawn stands in the form, so that the clip can be made again."""
    seeds = list[int]()
    for kept in (True, False, False):
        panel.form.lock.value = kept
        panel.make()
        finish(panel)
        seeds.append(panel.form.settings.seed or 0)
    assert [settings.seed for _, settings in asked] == seeds
    assert (seeds[0], len(set(seeds))) == (7, 3)


def test_drafts_may_be_small(panel: Panel, asked: list[tuple[Any, ClipSettings]]) -> None:
    """Half the size in multiples of 8, and never more steps than the clip itself has; finished, it is whole."""
    panel.small.value = True
    panel.make_drafts()
    finish(panel)
    ((frame, draft),) = asked
    assert (frame.height, frame.width, draft.height, draft.width, draft.num_inference_steps) == (32, 32, 32, 32, 2)
    full = ClipSettings(height=72, width=128, num_inference_steps=25)
    assert panel._draft_of(full) == full.replace(height=32, width=64, num_inference_steps=8)
    panel.small.value = False
    assert panel._draft_of(full) == full.replace(num_inference_steps=8)


def test_what_is_pressed_while_drafts_are_made_changes_none_of_them(
    panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither their size nor their settings; nor does a draft's "Finish" put its settings into the form meanwhile."""
    run = panel.studio.run

    def change_and_run(*given: Any, **more: Any) -> Any:
        panel.small.value = True
        panel.form.set(motion_bucket_id=9, num_inference_steps=33)
        panel._finish(panel.photo.photo, ClipSettings(num_inference_steps=44), None)
        return run(*given, **more)

    monkeypatch.setattr(panel.studio, "run", change_and_run)
    monkeypatch.setattr(module, "_DRAFTS", 2)
    panel.make_drafts()
    finish(panel)
    made = settings_of(panel)
    assert [(settings["height"], settings["motion_bucket_id"]) for settings in made] == [(64, 127)] * 2
    assert panel.form.settings.num_inference_steps == 33


def test_four_drafts_and_one_of_them_finished(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four seeds, the form's first, with few steps, told by number; a button makes that seed's clip with all steps.

    Of the photo it was made of, whatever stands in the form by then.
    """
    monkeypatch.setattr(module, "_DRAFT_STEPS", 1)
    panel.form.lock.value = False
    seen = list[str]()
    panel.runner.state.observe(lambda change: seen.append(plain(change["new"])), "value")
    assert panel.make_drafts()
    assert finish(panel).startswith("Done in")
    for number in range(1, 5):
        assert any(text.startswith(f"draft {number} of 4 · denoising") for text in seen)
    seeds = [settings["seed"] for settings in settings_of(panel)]
    assert (len(set(seeds)), seeds[0]) == (4, 7)
    assert {settings["num_inference_steps"] for settings in settings_of(panel)} == {1}
    assert [button.description for button in panel.results.drafts.children] == [f"Finish seed {seed}" for seed in seeds]
    assert panel.results.player.value.startswith("<iframe ")
    panel.photo.sample.value = "cat"
    panel.photo.mode.value = "pad"
    draft = panel.results.made[2]
    panel.results.drafts.children[2].click()
    finish(panel)
    made = panel.results.made[-1]
    assert (made.about.settings["seed"], made.about.settings["num_inference_steps"]) == (seeds[2], 2)
    assert made.photo is draft.photo
    assert made.about.image == draft.about.image
    assert (panel.form.settings.seed, panel.form.lock.value) == (seeds[2], True)


def test_settings_that_do_not_go_together(panel: Panel) -> None:
    """The error stands in the panel at once, no clip is made, and it goes when it is mended; a size is taken."""
    panel.form.fields["max_guidance_scale"].value = 1
    panel.form.fields["min_guidance_scale"].value = 3
    problem = "min_guidance_scale=3 with max_guidance_scale=1: diffusers switches guidance off"
    said = panel.outlook.text.value
    assert 'role="alert"' in said
    assert problem in plain(said)
    for button in (panel.start, panel.drafts):
        button.click()
        assert finish(panel) == "Ready."
        assert problem in plain(panel.runner.error.value)
    assert panel.results.made == []
    panel.form.set(height=128)
    assert panel.photo.size == {"height": 128, "width": 64}
    panel.form.fields["max_guidance_scale"].value = 3
    assert problem not in panel.outlook.text.value
    panel.form.set(height=64)
    assert panel.make()
    assert panel.runner.error.value == ""
    panel.runner.ask_to_stop()
    finish(panel)


def test_a_change_is_told_to_all_once(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The photo is fitted to another size; what fits is put into the form; a preset changes many fields at once."""
    panel.form.fields["width"].value = 80
    assert panel.photo.size == {"height": 64, "width": 80}
    panel.form.sizes[0].click()
    assert panel.photo.size == panel.form.size == {"height": 64, "width": 64}
    panel.form.preset.value = "comfyui"
    panel.outlook.fitting = {"decode_chunk_size": 1}
    panel.outlook.apply.click()
    assert panel.form.settings.decode_chunk_size == 1
    assert panel.form.preset.value == "custom", "the preset can be taken again"
    asked = list[ClipSettings]()
    monkeypatch.setattr(panel.outlook, "show", lambda: asked.append(panel.form.settings))
    panel.form.preset.value = "comfyui"
    panel.form.fields["fps"].value = 9
    assert [clip.fps for clip in asked] == [6, 9]


def test_another_language_writes_everything_anew(panel: Panel) -> None:
    """With clips, drafts and a comparison on the page: no English is left among the texts."""
    panel.make()
    finish(panel)
    panel.form.fields["num_inference_steps"].value = 1
    panel.make_drafts()
    finish(panel)
    assert [text for _, text in texts(panel) if english_in(text)]
    panel.language.value = "zh"
    left = [(where, english_in(text)) for where, text in texts(panel) if english_in(text)]
    assert left == []
    assert panel.start.description == "生成视频"
    assert 'data-language="zh"' in panel.title.value
    panel.language.value = "en"
    assert panel.start.description == "Make the clip"


def test_an_upload_stays_with_its_owner(panel: Panel) -> None:
    """Its name is nowhere, its bytes neither; the small picture is the one trace, and the clip that was asked for.

    Clearing leaves nothing: only the sample's picture, and no recipe.
    """
    data = jpeg(sample_photo("cat").resize((500, 400)))
    put(panel.photo.upload, "anna-on-holiday.jpg", data)
    panel.make()
    finish(panel)
    held, seen = state(), panel.photo.picture.value[-400:]
    (made,) = panel.results.made
    for where in (held, json.dumps(made.about.to_dict()), panel.results.code.value, repr(made)):
        assert "anna" not in where
    for start in range(0, len(data) - 3000, 3000):
        assert base64.b64encode(data[start : start + 300]).decode() not in held
    assert (made.photo.name, bool(panel.photo.upload.value)) == ("", False)
    pictures = r"data:image/(?:jpeg|png|webp);base64,"
    assert len(re.findall(pictures, held)) == 2  # what will be cut, and the poster of the clip
    panel.forget.click()
    left = state()
    assert not any(trace in left for trace in ("data:video", "ClipSettings(", seen))
    assert len(re.findall(pictures, left)) == 1
    assert (panel.results.made, panel.photo.name) == ([], sample_photos()[0])


def test_a_panel_on_the_page_keeps_neither_the_pipeline_nor_what_was_cleared(tmp_path: Path) -> None:
    """ipywidgets keeps the panel for as long as the kernel lives; the next model needs the memory."""
    pipe = svdkit.load(write_hub_folder(tmp_path / "my-svd"))
    panel = make_panel(pipe, folder=None, background=True)
    panel.form.fields["num_inference_steps"].value = 1
    put(panel.photo.upload, "anna.jpg", jpeg(sample_photo("cat")))
    panel.make_drafts()
    finish(panel)
    alive = [weakref.ref(part) for made in panel.results.made for part in (made.clip, made.photo.image)]
    assert len(alive) == 8
    panel.forget.click()
    alive.append(weakref.ref(pipe))
    del pipe
    gc.collect()
    assert [part() for part in alive] == [None] * 9


def test_no_text_of_a_user_becomes_a_tag(panel: Panel, tmp_path: Path) -> None:
    """A file with a hostile name, through a whole run."""
    path = tmp_path / "<img src=x onerror=alert(1)>.png"
    sample_photo("cat").save(path)
    panel.photo.source.value = str(path)
    panel.make()
    finish(panel)
    pages = [widget.value for widget in tree(panel.widget) if type(widget).__name__ == "HTML"]
    assert not any("onerror" in page for page in pages)
    assert str(path) in panel.results.code.value


def test_what_given_settings_leave_open_is_as_in_the_form(panel: Panel) -> None:
    """Size, frames and seed; what follows from others, such as the playback fps, follows from those given."""
    panel.form.set(num_frames=3, decode_chunk_size=3)
    assert panel.make(ClipSettings(num_inference_steps=1, fps=9))
    assert finish(panel).startswith("Done in"), panel.runner.error.value
    assert panel.make(ClipSettings(num_inference_steps=1, num_frames=2, seed=5))
    assert finish(panel).startswith("Done in"), panel.runner.error.value
    first, second = settings_of(panel)
    names = ("height", "width", "num_frames", "fps", "playback_fps", "seed")
    assert [first[name] for name in names] == [64, 64, 3, 9, 9, 7]
    assert [second[name] for name in names] == [64, 64, 2, 7, 7, 5]


class TestMake:
    def test_micro_is_the_one_without_a_pipeline(self) -> None:
        """Nothing is loaded for it; random weights are said."""
        panel = make_panel()
        assert (panel.studio.info.name, panel.studio.load.dtype) == ("micro", "auto")
        assert "The built-in model" in panel.title.value
        loaded = make_panel(svdkit.LoadSettings(model="micro", weights="random"))
        assert "Random weights: time and memory are real, the clip is noise." in loaded.title.value

    def test_it_is_a_name_of_svdkit_and_shows_itself(self) -> None:
        from IPython.utils.capture import capture_output

        panel = svdkit.panel()
        assert type(panel) is Panel
        with capture_output() as captured:  # there is no notebook here, so IPython prints
            panel._ipython_display_()
        assert "HTML object" in captured.stdout
        assert "VBox(" in captured.stdout

    def test_what_it_does_not_know(self) -> None:
        with pytest.raises(SettingsError, match="language='de' is not one of the panel's; give 'en'"):
            make_panel(language="de")
        with pytest.raises(ModelError, match="svd-xxt"):
            make_panel("svd-xxt")

    @pytest.mark.parametrize(("kind", "background"), [("colab", False), ("jupyter", True), ("terminal", True)])
    def test_where_runs_are_threads(self, kind: str, background: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "notebook_kind", lambda: kind)
        assert make_panel().runner.background == background
        assert make_panel(background=True).runner.background

    def test_in_an_app_it_takes_the_apps_pipeline(self, pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Language, price and currency too, unless the call says otherwise; a pipeline of one's own comes first."""
        pipe.svdkit = dataclasses.replace(pipe.svdkit, settings=pipe.svdkit.settings.replace(model="micro"))
        listener = Listener(("127.0.0.1", 0))
        threading.Thread(target=serve, args=(Studio(pipe), listener, b"key"), daemon=True).start()
        about = {"port": listener.address[1], "key": b"key".hex(), "language": "zh", "hourly_price": 2.5}
        monkeypatch.setenv(APP, json.dumps({**about, "currency": "CNY"}))
        panel = make_panel(folder=None)
        assert type(panel.studio).__name__ == "RemoteStudio"
        assert (panel.language.value, panel.outlook.price.value) == ("zh", 2.5)
        assert panel.outlook.price.description == "每小时价格 CNY"
        assert finish(panel) == "就绪。"
        assert panel.make(ClipSettings(num_inference_steps=1, seed=1, num_frames=4, height=64, width=64))
        assert finish(panel).startswith("完成")
        assert len(panel.results.made) == 1
        other = make_panel(folder=None, language="en", hourly_price=0, currency="EUR")
        assert (other.language.value, other.outlook.price.value) == ("en", 0)
        assert other.outlook.price.description == "EUR an hour"
        assert type(make_panel(pipe).studio).__name__ == "Studio"


def test_it_shows_itself_in_a_notebook() -> None:
    """A real kernel: first style and script, which know this panel by its class, then the widgets."""
    import nbclient
    from nbformat.v4 import new_code_cell, new_notebook

    code = "import svdkit\n\npanel = svdkit.panel()\npanel"
    notebook = new_notebook(cells=[new_code_cell(code), new_code_cell("print(panel.widget._dom_classes[1])")])
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    style, widgets = notebook.cells[0].outputs
    (class_,) = (output.text.strip() for output in notebook.cells[1].outputs)
    assert re.fullmatch("svdkit-[0-9a-f]{12}", class_)
    page = style.data["text/html"]
    assert page.startswith("<style>")
    assert ".svdkit-panel" in page
    script = page.partition("<script>")[2]
    assert class_ in script
    assert "PANEL" not in script
    assert "application/vnd.jupyter.widget-view+json" in widgets.data
    assert not re.search(r"(src|href)=.https?://|@import|url\(http", page)


@pytest.mark.parametrize("how", [Cancelled("stopped"), KeyboardInterrupt()], ids=["stop", "interrupt"])
def test_drafts_made_before_a_stop_stay_and_can_be_finished(
    panel: Panel, how: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt is how one stops on Colab; to say that nothing was kept, above two drafts, would be wrong."""
    run, calls = panel.studio.run, list[int]()

    def stopped(*given: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise how
        return run(*given, **more)

    monkeypatch.setattr(panel.studio, "run", stopped)
    panel.make_drafts()
    assert finish(panel).startswith("Stopped. What was finished before is below")
    assert (len(panel.results.made), len(panel.results.drafts.children)) == (2, 2)
    panel.make()
    assert finish(panel).startswith("Done in")


@pytest.mark.parametrize(("button", "clears_at"), [("start", 1), ("drafts", 2), ("drafts", 4)])
def test_what_ends_after_clearing_stays_away(
    panel: Panel, button: str, clears_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip may be done at the moment of the click: neither it nor the drafts before it come back to the page."""
    make, calls = panel.studio.run, list[int]()

    def run(*given: Any, **how: Any) -> Any:
        clip = make(*given, **how)
        calls.append(1)
        if len(calls) == clears_at:
            panel.forget.click()
        return clip

    monkeypatch.setattr(panel.studio, "run", run)
    getattr(panel, button).click()
    assert finish(panel).startswith("Stopped. Nothing was kept")
    assert len(calls) == clears_at
    assert (panel.results.made, panel.results.drafts.children) == ([], ())
    assert "data:video" not in "".join(value for _, value in texts(panel))
    assert plain(panel.results.player.value) == "The clip will be here."
    panel.make()
    assert finish(panel).startswith("Done in")
    assert len(panel.results.made) == 1


def test_no_clip_is_made_of_the_photo_before(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    """While an address is read, which may take its time: the panel says so; any other photo can be taken meanwhile."""
    go_on = threading.Event()

    def read(photo: Any) -> Any:
        if not str(photo).startswith("https"):
            return sample_photo(photo)
        assert go_on.wait(10)
        if "wrong" in photo:
            raise ImageError("nobody answers")
        return sample_photo("cat")

    monkeypatch.setattr(sys.modules["svdkit.ui.form"], "read_image", read)
    for name, error in {"https://a.test/cat.jpg": "", "https://a.test/wrong": "nobody answers"}.items():
        go_on.clear()
        panel.photo.source.value = name
        assert plain(panel.photo.note.value).startswith("Reading")
        assert not panel.make()
        assert "still being read" in plain(panel.runner.error.value)
        go_on.set()
        wait_for(lambda: panel.photo.note.value.startswith("The bright part"))
        assert plain(panel.runner.error.value).endswith(error)
        assert panel.photo.name == "https://a.test/cat.jpg"
    go_on.clear()
    panel.photo.source.value = "https://a.test/slow.jpg"
    panel.photo.sample.value = "coffee"
    assert panel.make()
    assert finish(panel).startswith("Done in")
    go_on.set()


def test_the_buttons_rest_while_the_model_is_loaded(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A button that looks ready and does nothing would be worse."""
    go_on = threading.Event()
    monkeypatch.setattr(panel.studio, "prepare", lambda tell: go_on.wait(10))
    panel.prepare()
    wait_for(lambda: panel.drafts.disabled)
    assert plain(panel.runner.state.value).startswith("The model is being loaded")
    assert not panel.make()
    go_on.set()
    assert finish(panel) == "Ready."
    assert not panel.start.disabled


def test_clearing_takes_errors_and_the_run_away(panel: Panel) -> None:
    panel.photo.source.value = "private-holiday.jpg"
    assert "private-holiday" in panel.runner.error.value
    panel.form.set(num_inference_steps=100)
    panel.make()
    panel.photo.source.value = "private-holiday-2.jpg"
    panel.forget.click()
    assert finish(panel).startswith("Stopped")
    assert panel.runner.error.value == ""
    assert panel.results.made == []
