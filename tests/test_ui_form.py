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

from svdkit.errors import ImageError
from svdkit.image import fit, preview_fit, read_image, sample_photo, sample_photos
from svdkit.models import catalogue, find_model
from svdkit.settings import ClipSettings, clip_preset, presets
from svdkit.ui import form as module
from svdkit.ui.form import PhotoForm, SettingsForm
from svdkit.ui.parts import Words, texts
from tests.ui_toys import IPYWIDGETS, close_all, jpeg, put, state

ROOT = Path(__file__).parents[1]
FIELDS = [field.name for field in dataclasses.fields(ClipSettings)]
TIP = "tooltip" if IPYWIDGETS >= 8 else "description_tooltip"
FIRST = sample_photos()[0]


class Form(SettingsForm):
    """The form, with a count of the changes it told of."""

    def __init__(self, model: str = "micro") -> None:
        self.changes = 0
        super().__init__(Words(), find_model(model), self._count)

    def _count(self) -> None:
        self.changes += 1


class TestSettings:
    @pytest.mark.parametrize("model", [info.name for info in catalogue()])
    def test_it_begins_with_what_the_model_takes_by_itself(self, model: str) -> None:
        """Every field of a clip's settings is there: a new one that is forgotten here fails this test."""
        own = ClipSettings(seed=1).resolve(**find_model(model).clip_defaults)
        assert Form(model).settings.replace(seed=1) == own
        assert sorted(Form(model).fields) == sorted(FIELDS)

    @pytest.mark.parametrize("name", FIELDS)
    def test_a_change_is_told_once_and_the_settings_have_it(self, name: str) -> None:
        """And no field can be turned to a value that ClipSettings itself refuses."""
        form = Form("svd-xt")
        field = form.fields[name]
        field.value += 8 if name in {"height", "width"} else 1
        assert form.changes == 1
        assert getattr(form.settings, name) == pytest.approx(field.value)
        for value in (field.min, field.max):
            assert getattr(ClipSettings(**{name: value}), name) == value

    @pytest.mark.parametrize("name", presets())
    def test_a_preset_sends_what_that_tool_sends(self, name: str) -> None:
        """All at once, with one change told; size and seed stay."""
        form = Form("svd-xt")
        form.set(height=320, seed=5)
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
        form.fields["fps"].value = 9
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
        """By the button, short enough to type; two forms begin with two. What a browser cannot count to is none."""
        form = Form()
        assert Form().settings.seed != form.settings.seed
        monkeypatch.setattr("secrets.randbelow", lambda limit: limit - 1)
        form.dice.click()
        assert (form.settings.seed, form.changes) == (2**32 - 1, 1)
        assert form.fields["seed"].max == 2**53 - 1  # to which numbers of JavaScript are exact

    def test_a_size_can_be_chosen_by_name(self) -> None:
        """With one change told; a size belongs to no preset."""
        form = Form()
        form.sizes[1].click()
        assert (form.size, form.changes, form.preset.value) == ({"height": 128, "width": 72}, 1, "own")
        assert [button.description.split()[0] for button in form.sizes] == ["landscape", "portrait", "square"]

    def test_what_motion_means_is_what_was_measured(self) -> None:
        """The numbers of the tooltip are means over the clips of bench_results/motion, to one decimal."""
        lines = (ROOT / "bench_results" / "motion" / "records.jsonl").read_text(encoding="utf-8").splitlines()
        found: dict[int, list[float]] = {}
        for record in map(json.loads, lines):
            assert (record["status"], record["model"]["name"]) == ("ok", "micro")
            motion = record["quality"]["motion_percent_width_per_second"]
            found.setdefault(record["clip"]["motion_bucket_id"], []).append(motion)
        assert {len(values) for values in found.values()} == {8}
        means = {bucket: f"{statistics.mean(found[bucket]):.1f} %" for bucket in (min(found), max(found))}
        assert list(means) == [20, 240]
        for text in texts()["texts"]["curve_micro"].values():
            assert re.findall(r"[\d.]+ %", text) == list(means.values())

    def test_only_micro_is_explained_by_measurements_of_micro(self) -> None:
        tip = getattr(Form().fields["motion_bucket_id"], TIP)
        assert tip == (
            "motion_bucket_id: how much should move, usually 1 to 255. High values also break more. "
            "Measured on micro: 0.6 % of the width a second at bucket 20, 4.7 % at 240."
        )
        other = Form("svd-xt").fields
        assert getattr(other["motion_bucket_id"], TIP) == tip.partition(" Measured")[0]
        assert getattr(other["num_frames"], TIP).endswith(" it falls apart. This one was trained on 25.")

    def test_another_language_changes_labels_and_tooltips_alone(self) -> None:
        form = Form()
        form.preset.value = "comfyui"
        form.changes, before = 0, form.settings
        for language in ("zh", "en"):
            form.words.switch(language)
            for name, field in form.fields.items():
                assert field.description == form.words(name)
                assert getattr(field, TIP).startswith(form.words(f"{name}_tip"))
            assert form.preset.options[0] == (form.words("preset_own"), "own")
            assert form.sizes[1].description == form.words("portrait", height=128, width=72)
        assert (form.settings, form.preset.value, form.changes) == (before, "comfyui", 0)


class Photo(PhotoForm):
    """The form, with what it told of."""

    def __init__(self, *, background: bool = False) -> None:
        self.errors = list[Exception | None]()
        super().__init__(Words(), {"height": 72, "width": 128}, self.errors.append, background)
        self.errors.clear()

    @property
    def shown(self) -> Image.Image:
        """The picture on the page."""
        (source,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', self.picture.value)
        return Image.open(io.BytesIO(base64.b64decode(source)))


def wait_for_photos() -> None:
    """Wait until no photo is being read in the background."""
    for thread in threading.enumerate():
        if thread.name == "svdkit-photo":
            thread.join(10)


def alike(one: Image.Image, other: Image.Image) -> float:
    """Mean difference, grey levels."""
    first, second = (np.asarray(image.convert("RGB"), np.float32) for image in (one, other))
    return float(np.abs(first - second).mean()) if first.shape == second.shape else 255.0


class TestPhoto:
    def test_it_begins_with_a_sample_and_shows_it_at_any_size(self) -> None:
        """As preview_fit shows it."""
        form = Photo()
        assert form.name == FIRST
        assert alike(form.shown, preview_fit(FIRST, height=72, width=128)) < 4
        assert form.photo.fitted(height=72, width=128).sha256 == fit(FIRST, height=72, width=128).sha256
        assert 'alt="The photo, with what will be cut in the shade"' in form.picture.value
        form.resize(height=128, width=72)
        assert alike(form.shown, preview_fit(FIRST, height=128, width=72)) < 4

    def test_a_sample_and_a_path(self, tmp_path: Path) -> None:
        """Blanks around it do not matter; each of the others can be chosen again. What is shown is a smaller copy."""
        path = tmp_path / "holiday.png"
        sample_photo("cat").resize((2400, 1800)).save(path)
        form = Photo()
        before = form.picture.value
        form.source.value = "   "
        assert (form.name, form.errors) == (FIRST, [])
        form.source.value = f"  {path} "
        assert (form.name, form.sample.value, form.source.value) == (str(path), "", str(path))
        assert form.photo.fitted(height=72, width=128) == fit(path, height=72, width=128)
        assert (form.photo.fitted(height=72, width=128).source, form._small.size) == ("holiday.png", (1536, 1152))
        form.sample.value = FIRST
        assert (form.name, form.source.value, form.picture.value, form.errors) == (FIRST, "", before, [None] * 2)

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
        form.sample.value = "cat"
        assert not form.reading
        go_on.set()
        wait_for_photos()
        assert (form.name, form.errors) == ("cat", [None])
        form.source.value = "https://a.test/2.jpg"
        wait_for_photos()
        assert (form.name, form.reading) == ("cat" if fails else "https://a.test/2.jpg", False)
        form.background = False
        form.source.value = "https://a.test/3.jpg"
        assert form.name == ("cat" if fails else "https://a.test/3.jpg")

    def test_an_upload_is_read_and_forgotten(self) -> None:
        """The bytes leave the widget; neither form nor frame know the file's name; then no picture of it is left."""
        close_all()
        form = Photo()
        data = jpeg(sample_photo("cat"))
        put(form.upload, "holiday-with-anna.jpg", data)
        assert (form.name, form.sample.value, form.source.value) == ("", "", "")
        frame = form.photo.fitted(height=72, width=128)
        assert frame.source is None
        assert alike(frame.image, fit("cat", height=72, width=128).image) < 4
        assert not form.upload.value
        held, seen = state(), form.picture.value
        assert "holiday-with-anna" not in held
        assert base64.b64encode(data[:3000]).decode() not in held
        form.sample.value = FIRST
        assert seen[-500:] not in state()
        assert form.photo.fitted(height=72, width=128).source == FIRST

    @pytest.mark.parametrize(
        ("data", "size", "said"), [(b"", 10**8, r"huge.jpg \(95.4 MiB\) arrived with 0 B"), (b"hello", 5, "photo")]
    )
    def test_an_upload_that_is_no_photo_leaves_the_last_one(self, data: bytes, size: int, said: str) -> None:
        form = Photo()
        put(form.upload, "huge.jpg", data, size=size)
        (error,) = form.errors
        assert isinstance(error, ImageError)
        assert re.search(said, str(error))
        assert (form.name, bool(form.upload.value)) == (FIRST, False)

    @pytest.mark.parametrize(("axis", "photo"), [(0, (600, 100)), (1, (100, 600))])
    def test_the_focus_moves_what_is_cut(self, axis: int, photo: tuple[int, int], tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        sample_photo("cat").resize(photo).save(path)
        form = Photo()
        form.source.value = str(path)
        before = form.picture.value
        form.focus[axis].value = 0
        assert form.picture.value != before
        assert form.photo.focus == ((0.0, 0.5), (0.5, 0.0))[axis]
        assert form.photo.fitted(height=64, width=64).box[axis] == 0

    def test_only_cropping_has_a_focus(self) -> None:
        """Another language leaves the mode alone."""
        form = Photo()
        assert "bright part" in form.note.value
        for mode in ("pad", "stretch", "crop"):
            form.mode.value = mode
            assert {number.disabled for number in form.focus} == {mode != "crop"}
            assert (form.note.value == "Nothing is cut.") == (mode != "crop")
            assert form.photo.fitted(height=64, width=64).mode == mode
        form.mode.value = "pad"
        form.words.switch("zh")
        assert (form.mode.value, form.mode.label) == ("pad", texts()["texts"]["pad"]["zh"])
        assert form.note.value == "没有裁掉任何内容。"
        assert f'alt="{texts()["texts"]["photo_alt"]["zh"]}"' in form.picture.value


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({}, [(72, 128), (128, 72), (96, 96)]),
        ({"height": 576, "width": 1024}, [(576, 1024), (1024, 576), (768, 768)]),
        ({"height": 128, "width": 64}, [(64, 128), (128, 64), (88, 88)]),
    ],
)
def test_sizes_to_offer(model: dict[str, int], expected: list[tuple[int, int]]) -> None:
    """The trained one, on its side, and a square of its area; landscape lies whatever the model's own size is."""
    info = dataclasses.replace(find_model("micro"), **model)  # type: ignore[arg-type]  # heights and widths
    assert [(size["height"], size["width"]) for size in module._sizes_for(info).values()] == expected
    for size in module._sizes_for(info).values():
        assert ClipSettings(**size).width == size["width"]
