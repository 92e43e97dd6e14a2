"""What the panel is made of: texts in both languages, uploads of ipywidgets 7 and 8, knobs, tooltips, escaping."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets
import pytest

from svdkit.errors import ImageError, SettingsError
from svdkit.image import sample_photo
from svdkit.models import find_model
from svdkit.settings import ClipSettings
from svdkit.sweep.player import Player, asset
from svdkit.ui import parts as module
from svdkit.ui.form import _sizes_for
from svdkit.ui.parts import Words, as_html, box, knob, read_upload, safe, texts
from svdkit.units import format_bytes
from tests.ui_toys import IPYWIDGETS, close_all, jpeg, put, state

HAN = re.compile("[\u4e00-\u9fff]")
FIELDS = [field.name for field in dataclasses.fields(ClipSettings)]
TEXTS: dict[str, dict[str, str]] = texts()["texts"]
PLAYER: dict[str, str] = texts()["player"]["zh"]
PHOTO = jpeg(sample_photo("cat"))
MARK = "aGVsbG8="  # what base64 makes of b"hello"


class OldUpload:
    """FileUpload as ipywidgets 7.7.1 has it: ``_counter`` makes the value of metadata and data, both lists."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, Any]] = []
        self.data: list[bytes] = []
        self.value: dict[str, Any] = {}
        self.count = 0
        self.held: list[str] = []
        self._held = False

    def __setattr__(self, name: str, value: Any) -> None:
        if name in {"metadata", "data", "_counter"} and getattr(self, "_held", False):
            self.held.append(name)
        object.__setattr__(self, name, value)
        if name == "_counter":
            assert len(self.metadata) == len(self.data)
            files = zip(self.metadata, self.data, strict=True)
            self.value = {one["name"]: {"metadata": one, "content": content} for one, content in files}

    @contextlib.contextmanager
    def hold_sync(self) -> Iterator[None]:
        self._held = True
        yield
        self._held = False

    def receive(self, *files: tuple[str, bytes, int]) -> None:
        self.metadata = [{"name": name, "type": "image/jpeg", "size": size} for name, _, size in files]
        self.data = [data for _, data, _ in files]
        self._counter = len(files)


class TestUpload:
    def test_each_file_is_read_and_the_widget_emptied(self) -> None:
        """With the FileUpload of the ipywidgets that is installed; a notebook that is saved has nothing of it."""
        close_all()
        upload, seen = ipywidgets.FileUpload(accept="image/*", multiple=False), list[Any]()
        put(upload, "holiday.jpg", b"hello")
        assert MARK in state()
        Words().field(upload, "upload", lambda files: seen.append(read_upload(upload)) if files else None)
        for data in (b"0", b"hello"):
            put(upload, "holiday.jpg", data)
        assert (seen, bool(upload.value)) == ([b"0", b"hello"], False)
        assert not any(trace in state() for trace in (MARK, "holiday"))

    @pytest.mark.parametrize(
        ("arrived", "size"), [(b"", len(PHOTO)), (PHOTO[:1000], len(PHOTO)), (b"", 0)], ids=["empty", "cut", "nothing"]
    )
    def test_what_arrives_short_was_too_large(self, arrived: bytes, size: int) -> None:
        """The browser knows its size; the text says how much fits and what to do, in both versions of ipywidgets."""
        new, old = ipywidgets.FileUpload(), OldUpload()
        put(new, "huge.png", arrived, size=size)
        old.receive(("huge.png", arrived, size))
        expected = (
            f"huge.png ({format_bytes(size)}) arrived with {format_bytes(len(arrived))}: the connection to the "
            "notebook takes about 8.6 MiB at a time. Copy the file to this machine and give its path, or make it "
            "smaller."
        )
        for upload in (new, old):
            with pytest.raises(ImageError) as caught:
                read_upload(upload)
            assert str(caught.value) == expected
            assert not upload.value

    def test_the_shape_of_ipywidgets_7(self) -> None:
        """A dict by name; it is emptied in one message, so that the browser never sees half of it."""
        upload = OldUpload()
        upload.receive(("older.jpg", b"old", 3), ("holiday.jpg", PHOTO, len(PHOTO)))
        assert read_upload(upload) == PHOTO
        assert (upload.value, upload.metadata, upload.data) == ({}, [], [])
        assert sorted(upload.held) == ["_counter", "data", "metadata"]

    def test_content_may_be_a_view_of_memory(self) -> None:
        """As ipywidgets 8 gives it; what comes out are bytes of our own. Version 7 gives bytes."""
        upload, given = ipywidgets.FileUpload(), bytearray(b"hello")
        put(upload, "a.jpg", given if IPYWIDGETS >= 8 else bytes(given))
        read = read_upload(upload)
        given[:] = b"xxxxx"
        assert read == b"hello"


class TestKnob:
    @pytest.mark.parametrize(("given", "kept"), [(0, 1), (1000, 100), (50, 50)])
    def test_field_and_slider_follow_each_other_within_the_limits(self, given: int, kept: int) -> None:
        """Each change is told once; a slider's when it rests, else a drag would be a forecast for each pixel."""
        assert knob(1, 100, 1, given)[0].value == kept
        field, row = knob(1, 100, 1, 25)
        slider, seen = row.children[1], list[int]()
        Words().field(field, "fps", seen.append)
        for widget in (field, slider):
            field.value = 25
            seen.clear()
            widget.value = given
            assert (seen, field.value, slider.value) == ([kept], kept, kept)
        field.disabled = True
        assert (slider.disabled, slider.continuous_update) == (True, False)

    def test_whole_steps_make_whole_numbers(self) -> None:
        assert isinstance(knob(1, 30, 1, 7)[0].value, int)
        assert isinstance(knob(1.0, 60.0, 0.5, 7)[0].value, float)


def test_tooltips_are_called_differently() -> None:
    """By version, and in version 7 by widget, of which some have none; there may be more to say in one."""
    name, words = "tooltip" if IPYWIDGETS >= 8 else "description_tooltip", Words()
    button = words.name(ipywidgets.Button(), "drafts", steps=8)
    text = words.name(ipywidgets.Text(), "num_frames", more="trained_frames", own=25)
    words.name(ipywidgets.VBox(), "forget")
    assert button.tooltip == "four seeds with 8 steps each, to choose one from"
    assert getattr(text, name) == f"{words('num_frames_tip')} This one was trained on 25."
    words.switch("zh")
    assert (text.description, getattr(text, name)[-12:]) == ("帧数", "此模型按 25 帧训练。")


def test_small_parts() -> None:
    """A click brings nothing, a user's change the new value; texts are made safe; boxes have their class."""
    words, seen = Words(), list[Any]()
    field = words.field(ipywidgets.IntText(value=1), "fps", seen.append)
    words.button("stop", lambda: seen.append("clicked"), icon="stop").click()
    field.value = 2
    with words.quietly:
        field.value = 3
    field.description = "not a value"
    assert seen == ["clicked", 2]
    assert safe("<script>\"'&\nnext") == "&lt;script&gt;&quot;&#x27;&amp;<br>next"
    inside = as_html("svdkit-hint")
    column, row = box("a", inside), box("b", row=True)
    assert (type(column), type(row), column.children) == (ipywidgets.VBox, ipywidgets.HBox, (inside,))
    assert (column._dom_classes, row._dom_classes, inside._dom_classes) == (("a",), ("b",), ("svdkit-hint",))


def blanks(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


@pytest.mark.parametrize("name", TEXTS)
def test_both_languages_say_the_same(name: str) -> None:
    """A blank or tag that one lacks would be an error in the middle of a click; Chinese is, but for blanks alone."""
    english, chinese = TEXTS[name]["en"], TEXTS[name]["zh"]
    assert blanks(english) == blanks(chinese)
    assert all(text.strip() == text != "" for text in (english, chinese))
    rest = re.sub(r"{\w+}", "", chinese)
    assert HAN.search(rest) or not re.search(r"\w", rest)
    tags = re.findall(r"</?\w+>", english)
    assert sorted(re.findall(r"</?\w+>", chinese)) == sorted(tags)
    assert sum(tag.startswith("</") for tag in tags) * 2 == len(tags)


def test_every_setting_and_size_is_called_something_and_explained() -> None:
    assert {*FIELDS, *(f"{name}_tip" for name in FIELDS), *_sizes_for(find_model("micro"))} <= set(TEXTS)
    named = set(FIELDS) - {"height", "width"}
    assert all(name in text for name in named for text in TEXTS[f"{name}_tip"].values())


def test_every_text_is_used() -> None:
    """One that nobody shows is work for translators and nothing else."""
    sources = [path.read_text(encoding="utf-8") for path in Path(module.__file__).parent.glob("*.py")]
    nodes = [one for source in sources for one in ast.walk(ast.parse(source)) if isinstance(one, ast.Constant)]
    used = {*FIELDS, "curve_micro", "encode", "denoise", "decode", "focus_x", "focus_y", *(one.value for one in nodes)}
    assert [name for name in TEXTS if name.removesuffix("_tip") not in used] == []


def test_the_player_speaks_chinese_throughout() -> None:
    """Every text that its script shows has one, and nothing is translated that is not there."""
    script = asset("player.js")
    made = re.findall(r'\b(?:button|choice|say)\("([^"]+)"(?:, "([^"]+)")?', script)
    shown = {text for pair in made for text in pair if re.search(r"[A-Za-z]", text)}
    assert {"▶ Play", "Repeat (L)", "Compare with", "Frame"} <= shown
    assert shown | {"en", Player.title} == set(PLAYER)
    assert all(HAN.search(text) for name, text in PLAYER.items() if name != "en")


def test_what_is_bound_is_written_now_and_at_every_switch() -> None:
    words, seen = Words("zh"), list[str]()
    words.bind(lambda: seen.append(words("seed")))
    words.bind(lambda: seen.append(words("waiting", place=2)))
    words.switch("en")
    assert seen == ["种子", texts()["texts"]["waiting"]["zh"].format(place=2), "Seed", "waiting: 2 ahead of you"]


@pytest.mark.parametrize("given", ["de", "EN", ""])
def test_another_language_is_refused(given: str) -> None:
    """The one in use stays."""
    expected = f"language={given!r} is not one of the panel's; give 'en' (English), 'zh' (中文)"
    with pytest.raises(SettingsError) as caught:
        Words(given)
    assert str(caught.value) == expected
    words = Words("zh")
    with pytest.raises(SettingsError, match="is not one of the panel's"):
        words.switch(given)
    assert words.language == "zh"
