"""The two forms: every setting as a slider and a number, and a photo with what will be cut of it."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import statistics
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svdkit.errors import ImageError, SettingsError
from svdkit.image import fit, preview_fit, read_image, sample_photo, sample_photos
from svdkit.models import catalogue, find_model
from svdkit.settings import ClipSettings, clip_preset, presets
from svdkit.ui import form as module
from svdkit.ui.form import PhotoForm, SettingsForm
from svdkit.ui.parts import Words, texts
from tests.ui_toys import IPYWIDGETS, close_all, jpeg, put, state, wait_for

ROOT = Path(__file__).parents[1]
FIELDS = [field.name for field in dataclasses.fields(ClipSettings)]
TIP = "tooltip" if IPYWIDGETS >= 8 else "description_tooltip"
MICRO = find_model("micro")


class Form(SettingsForm):
    """The form, with a count of the changes it told of."""

    def __init__(self, model: str = "micro", language: str = "en") -> None:
        self.words, self.changes = Words(language), 0
        super().__init__(find_model(model), self.words, on_change=self._count)

    def _count(self) -> None:
        self.changes += 1


class TestSettings:
    def test_every_field_of_a_clips_settings_is_there(self) -> None:
        """A new setting that is forgotten here fails this test."""
        assert sorted({*Form().knobs, "seed"}) == sorted(FIELDS)

    @pytest.mark.parametrize("model", [info.name for info in catalogue()])
    def test_it_begins_with_what_the_model_takes_by_itself(self, model: str) -> None:
        info = find_model(model)
        own = ClipSettings(seed=1).resolve(**info.clip_defaults)
        assert Form(model).settings.replace(seed=1) == own

    @pytest.mark.parametrize("name", [name for name in FIELDS if name != "seed"])
    def test_slider_and_field_follow_each_other(self, name: str) -> None:
        """Each tells of a change once, and the settings have it."""
        form = Form()
        knob = form.knobs[name]
        step = module._RANGES[name][2]
        for number, widget in enumerate((knob.slider, knob.field), start=1):
            widget.value = knob.value - step
            assert knob.field.value == knob.slider.value == knob.value
            assert form.changes == number
        if name != "max_guidance_scale":  # of micro that is 1; lower ones mean the same
            assert getattr(form.settings, name) == pytest.approx(knob.value)

    @pytest.mark.parametrize("name", [name for name in FIELDS if name != "seed"])
    def test_the_whole_range_is_allowed(self, name: str) -> None:
        """No knob can be turned to a value that ClipSettings itself refuses."""
        knob = Form().knobs[name]
        for value in (knob.field.min, knob.field.max):
            assert getattr(ClipSettings(**{name: value}), name) == value

    @pytest.mark.parametrize("name", presets())
    def test_a_preset_sends_what_that_tool_sends(self, name: str) -> None:
        """All at once, with one change told; size and seed stay."""
        form = Form("svd-xt")
        form.knobs["height"].value = 320
        form.seed.value = 5
        form.changes = 0
        form.preset.value = name
        asked = {key: value for key, value in clip_preset(name).to_dict().items() if value is not None}
        assert {key: getattr(form.settings, key) for key in asked} == asked
        assert (form.settings.height, form.settings.width, form.settings.seed) == (320, 1024, 5)
        assert form.changes == 1

    def test_the_models_own_defaults_come_back(self) -> None:
        form = Form()
        before = form.settings
        form.preset.value = "comfyui"
        assert form.preset.value == "comfyui"
        form.preset.value = "own"
        assert form.settings == before
        form.knobs["fps"].value = 9
        assert form.preset.value == "custom"
        form.preset.value = "own"  # it can be chosen again
        assert form.settings == before

    def test_what_is_left_open_becomes_the_models_own(self) -> None:
        form = Form()
        form.show(ClipSettings(num_inference_steps=3, seed=8))
        assert (form.settings.num_inference_steps, form.settings.seed, form.settings.num_frames) == (3, 8, 14)
        assert None not in form.settings.to_dict().values()
        assert form.changes == 1
        form.show(ClipSettings())
        assert form.settings.seed == 8  # the seed that is there is as good as any

    def test_a_seed_is_drawn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By the button, below 2**32, which is short enough to type; two forms begin with two seeds."""
        assert Form().seed.value != Form().seed.value
        form = Form()
        monkeypatch.setattr("secrets.randbelow", lambda limit: limit - 1)
        form.dice.click()
        assert form.settings.seed == 2**32 - 1
        assert form.changes == 1

    def test_seeds_that_a_browser_cannot_count_to_are_not_shown_wrong(self) -> None:
        """Numbers of JavaScript are exact to 2**53 - 1."""
        form = Form()
        assert form.seed.max == 2**53 - 1
        form.seed.value = 2**53 - 1
        assert form.settings.seed == 2**53 - 1

    def test_values_that_do_not_go_together_are_an_error_of_the_settings(self) -> None:
        form = Form()
        form.knobs["min_guidance_scale"].value = 3
        with pytest.raises(SettingsError, match="min_guidance_scale=3 with max_guidance_scale=1: diffusers switches"):
            _ = form.settings
        form.knobs["max_guidance_scale"].value = 3
        assert form.settings.min_guidance_scale == 3

    def test_what_motion_means_is_what_was_measured(self) -> None:
        """The numbers of the tooltip are means over the clips of bench_results/motion, to one decimal."""
        lines = (ROOT / "bench_results" / "motion" / "records.jsonl").read_text(encoding="utf-8").splitlines()
        found: dict[int, list[float]] = {}
        for record in map(json.loads, lines):
            assert (record["status"], record["model"]["name"]) == ("ok", "micro")
            motion = record["quality"]["motion_percent_width_per_second"]
            found.setdefault(record["clip"]["motion_bucket_id"], []).append(motion)
        assert {len(values) for values in found.values()} == {8}
        ends = (min(found), max(found))
        assert {bucket: round(statistics.mean(found[bucket]), 1) for bucket in ends} == module._MOTION_ON_MICRO

    def test_only_micro_is_explained_by_measurements_of_micro(self) -> None:
        tip = getattr(Form().knobs["motion_bucket_id"].field, TIP)
        assert tip == (
            "motion_bucket_id: how much should move, usually 1 to 255. High values also break more. "
            "Measured on micro: 0.6 % of the width a second at bucket 20, 4.7 % at 240."
        )
        other = Form("svd-xt").knobs
        assert getattr(other["motion_bucket_id"].field, TIP) == tip.partition(" Measured")[0]
        assert getattr(other["num_frames"].field, TIP).endswith(" it falls apart. This one was trained on 25.")

    def test_every_knob_has_its_label_and_tooltip_in_the_language_of_now(self) -> None:
        form = Form()
        for language in ("en", "zh"):
            form.words.switch(language)
            for name, knob in form.knobs.items():
                assert knob.field.description == form.words(name)
                assert getattr(knob.slider, TIP) == getattr(knob.field, TIP) != ""
            assert form.seed.description == form.words("seed")
            assert form.preset.options[0] == (form.words("preset_own"), "own")
        assert form.changes == 0

    def test_another_language_leaves_the_settings_alone(self) -> None:
        form = Form()
        form.knobs["fps"].value = 9
        form.preset.value = "comfyui"
        form.set(height=64)
        form.changes, before = 0, form.settings
        form.words.switch("zh")
        assert (form.settings, form.preset.value, form.changes) == (before, "comfyui", 0)


class Photo(PhotoForm):
    """The form, with what it told of."""

    def __init__(self, model: str = "micro", *, background: bool = False) -> None:
        self.words, self.errors, self.sizes_told = Words(), list[Exception | None](), list[dict[str, int]]()
        told: dict[str, Any] = {"on_size": lambda **size: self.sizes_told.append(size), "on_error": self.errors.append}
        super().__init__(find_model(model), self.words, background=background, **told)
        self.errors.clear()

    @property
    def shown(self) -> Image.Image:
        """The picture on the page."""
        (source,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', self.picture.value)
        return Image.open(io.BytesIO(base64.b64decode(source)))


def alike(one: Image.Image, other: Image.Image) -> float:
    """Mean difference, grey levels."""
    first, second = (np.asarray(image.convert("RGB"), np.float32) for image in (one, other))
    return float(np.abs(first - second).mean()) if first.shape == second.shape else 255.0


class TestPhoto:
    def test_it_begins_with_a_sample(self) -> None:
        """Shown as preview_fit shows it."""
        form = Photo()
        assert form.name == sample_photos()[0]
        assert (form.height, form.width) == (72, 128)
        assert alike(form.shown, preview_fit(sample_photos()[0], height=72, width=128)) < 4
        assert form.photo.fitted(height=72, width=128).sha256 == fit(sample_photos()[0], height=72, width=128).sha256

    def test_another_sample(self) -> None:
        form = Photo()
        before = form.picture.value
        form.sample.value = "cat"
        assert form.name == "cat"
        assert form.picture.value != before
        assert form.errors == [None]
        assert form.photo.fitted(height=72, width=128) == fit("cat", height=72, width=128)

    def test_a_path(self, tmp_path: Path) -> None:
        """Blanks around it do not matter; the sample is no longer the one chosen, so that it can be chosen again."""
        path = tmp_path / "holiday.png"
        sample_photo("cat").resize((200, 300)).save(path)
        form = Photo()
        form.source.value = f"  {path} "
        assert (form.name, form.sample.value, form.source.value) == (str(path), "", str(path))
        assert form.photo.fitted(height=72, width=128).source == "holiday.png"
        form.sample.value = sample_photos()[0]
        assert (form.name, form.source.value) == (sample_photos()[0], "")

    @pytest.mark.parametrize("given", ["nowhere.jpg", "<b>no</b>.png", "/etc/hostname"])
    def test_a_photo_that_cannot_be_read_leaves_the_last_one(self, given: str) -> None:
        """And its error is handed on, with its words."""
        form = Photo()
        before = (form.name, form.picture.value)
        form.source.value = given
        (error,) = form.errors
        assert isinstance(error, ImageError)
        assert Path(given).name in str(error)
        assert (form.name, form.picture.value) == before

    def test_enter_tries_again_what_failed(self, tmp_path: Path) -> None:
        """The file was copied there meanwhile; the field has not changed, so only Enter says it."""
        form, path = Photo(), tmp_path / "late.png"
        form.source.value = str(path)
        assert len(form.errors) == 1
        form.source._handle_custom_msg({"event": "submit"}, [])
        assert len(form.errors) == 2
        sample_photo("cat").save(path)
        form.source._handle_custom_msg({"event": "submit"}, [])
        form.source._handle_custom_msg({"event": "submit"}, [])
        assert (form.name, len(form.errors)) == (str(path), 3)

    @pytest.mark.parametrize("fails", [False, True])
    def test_a_slow_address_does_not_take_the_place_of_a_later_photo(
        self, fails: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nor does its error."""
        go_on = threading.Event()

        def slow(photo: Any) -> Any:
            if str(photo).startswith("https"):
                go_on.wait(10)
                if fails:
                    raise ImageError("no answer")
                return read_image("coffee")
            return read_image(photo)

        monkeypatch.setattr(module, "read_image", slow)
        form = Photo(background=True)
        form.source.value = "https://a.test/1.jpg"
        assert form.reading
        threads = [thread for thread in threading.enumerate() if thread.daemon and "_read" in thread.name]
        form.sample.value = "cat"
        assert not form.reading
        go_on.set()
        for thread in threads:
            thread.join(10)
        assert threads
        assert (form.name, form.errors) == ("cat", [None])
        form.source.value = "https://a.test/2.jpg"
        wait_for(lambda: not form.reading)
        assert form.name == ("cat" if fails else "https://a.test/2.jpg")

    def test_an_empty_path_is_nothing_to_read(self) -> None:
        form = Photo()
        form.source.value = "   "
        assert (form.name, form.errors) == (sample_photos()[0], [])

    def test_an_upload_is_read_and_its_name_forgotten(self) -> None:
        """The bytes leave the widget; neither form nor frame know the file's name."""
        close_all()
        form = Photo()
        data = jpeg(sample_photo("cat"))
        put(form.upload, "holiday-with-anna.jpg", data)
        assert (form.name, form.sample.value, form.source.value) == ("", "", "")
        frame = form.photo.fitted(height=72, width=128)
        assert frame.source is None
        assert alike(frame.image, fit("cat", height=72, width=128).image) < 4
        assert not form.upload.value
        held = state()
        assert "holiday-with-anna" not in held
        assert base64.b64encode(data[:3000]).decode() not in held

    @pytest.mark.parametrize(
        ("data", "size", "said"), [(b"", 10**8, r"huge.jpg \(95.4 MiB\) arrived with 0 B"), (b"hello", 5, "photo")]
    )
    def test_an_upload_that_is_no_photo_leaves_the_last_one(self, data: bytes, size: int, said: str) -> None:
        form = Photo()
        put(form.upload, "huge.jpg", data, size=size)
        (error,) = form.errors
        assert isinstance(error, ImageError)
        assert re.search(said, str(error))
        assert (form.name, bool(form.upload.value)) == (sample_photos()[0], False)

    def test_a_sample_after_an_upload(self) -> None:
        form = Photo()
        put(form.upload, "a.jpg", jpeg(sample_photo("cat")))
        form.sample.value = sample_photos()[0]
        assert form.name == sample_photos()[0]
        assert form.photo.fitted(height=72, width=128).source == sample_photos()[0]

    @pytest.mark.parametrize(("axis", "photo"), [("x", (600, 100)), ("y", (100, 600))])
    def test_the_focus_moves_what_is_cut(self, axis: str, photo: tuple[int, int], tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        sample_photo("cat").resize(photo).save(path)
        form = Photo()
        form.source.value = str(path)
        before = form.picture.value
        form.focus[axis].slider.value = 0
        assert form.picture.value != before
        assert form.photo.focus == ((0.0, 0.5) if axis == "x" else (0.5, 0.0))
        assert form.photo.fitted(height=64, width=64).box[0 if axis == "x" else 1] == 0

    def test_only_cropping_has_a_focus(self) -> None:
        form = Photo()
        assert "bright part" in form.note.value
        for mode in ("pad", "stretch", "crop"):
            form.mode.value = mode
            assert {form.focus["x"].field.disabled, form.focus["y"].slider.disabled} == {mode != "crop"}
            assert (form.note.value == "Nothing is cut.") == (mode != "crop")
            assert form.photo.fitted(height=64, width=64).mode == mode

    def test_a_size_is_told_and_shown(self) -> None:
        form = Photo()
        form.size.value = "portrait"
        assert form.sizes_told == [{"height": 128, "width": 72}]
        assert (form.height, form.width) == (128, 72)
        assert alike(form.shown, preview_fit(sample_photos()[0], height=128, width=72)) < 4

    def test_a_size_that_comes_from_the_settings(self) -> None:
        """One that has a name is called by it; neither is told back, or the two forms would call each other."""
        form = Photo()
        for size, name in (((128, 72), "portrait"), ((80, 80), "own_size"), ((72, 128), "landscape")):
            form.resize(height=size[0], width=size[1])
            assert (form.height, form.width, form.size.value) == (*size, name)
        assert form.sizes_told == []

    def test_forget(self) -> None:
        """Nothing of an upload stays on the page, not even the small picture."""
        close_all()
        form = Photo()
        put(form.upload, "a.jpg", jpeg(sample_photo("cat")))
        seen = form.picture.value
        form.forget()
        assert form.name == sample_photos()[0]
        assert seen[-500:] not in state()
        assert alike(form.shown, preview_fit(sample_photos()[0], height=72, width=128)) < 4
        assert form.image is not None
        assert alike(form.image, sample_photo(sample_photos()[0])) == 0

    def test_another_language_changes_words_alone(self) -> None:
        """The chosen mode and size stay, and the description of the picture is one of the words."""
        form = Photo()
        form.mode.value, form.size.value = "pad", "portrait"
        form.words.switch("zh")
        assert (form.mode.value, form.size.value, len(form.sizes_told)) == ("pad", "portrait", 1)
        assert form.mode.label == form.words("pad") == texts()["texts"]["pad"]["zh"]
        assert form.note.value == "没有裁掉任何内容。"
        assert f'alt="{texts()["texts"]["photo_alt"]["zh"]}"' in form.picture.value

    def test_a_large_photo_is_fitted_from_all_its_pixels(self, tmp_path: Path) -> None:
        """What is shown comes from a smaller copy, what the model gets does not."""
        path = tmp_path / "large.png"
        sample_photo("cat").resize((2400, 1800)).save(path)
        form = Photo()
        form.source.value = str(path)
        assert form._small is not None
        assert form._small.size == (1536, 1152)
        assert form.photo.fitted(height=72, width=128) == fit(path, height=72, width=128)

    def test_the_picture_is_described(self) -> None:
        assert 'alt="The photo, with what will be cut in the shade"' in Photo().picture.value


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("micro", {"landscape": (72, 128), "portrait": (128, 72), "square": (96, 96)}),
        ("svd-xt", {"landscape": (576, 1024), "portrait": (1024, 576), "square": (768, 768)}),
    ],
)
def test_sizes_to_offer(model: str, expected: dict[str, tuple[int, int]]) -> None:
    """The trained one, on its side, and a square of its area; the settings take each of them."""
    assert module._sizes_for(find_model(model)) == expected
    for height, width in expected.values():
        assert ClipSettings(height=height, width=width).width == width


def test_a_model_that_stands_upright() -> None:
    """Landscape lies whatever the model's own size is."""
    upright = dataclasses.replace(MICRO, height=128, width=64)
    assert module._sizes_for(upright) == {"landscape": (64, 128), "portrait": (128, 64), "square": (64, 64)}
