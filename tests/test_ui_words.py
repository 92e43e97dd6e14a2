"""The texts of the panel: all in both languages, all in use, and written anew when the language changes."""

from __future__ import annotations

import ast
import dataclasses
import re
import string
from pathlib import Path

import pytest

from svdkit.errors import SettingsError
from svdkit.models import catalogue
from svdkit.settings import ClipSettings
from svdkit.sweep.player import Player, asset
from svdkit.ui import words as module
from svdkit.ui.photo_form import sizes_for
from svdkit.ui.texts import LANGUAGES, PLAYER, TEXTS
from svdkit.ui.words import Words

HAN = re.compile("[\u4e00-\u9fff]")
FIELDS = [field.name for field in dataclasses.fields(ClipSettings)]


def blanks(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


@pytest.mark.parametrize("name", TEXTS)
def test_both_languages_fill_in_the_same(name: str) -> None:
    """A blank that one language lacks, or another name for it, would be an error in the middle of a click."""
    english, chinese = TEXTS[name]
    assert blanks(english) == blanks(chinese)
    assert english.strip() == english != ""
    assert chinese.strip() == chinese != ""


def test_chinese_is_chinese() -> None:
    """Every text has at least one Chinese character, but for those that are a blank alone."""
    words = {name: re.sub(r"{\w+}", "", chinese) for name, (_, chinese) in TEXTS.items()}
    assert [name for name, rest in words.items() if re.search(r"\w", rest) and not HAN.search(rest)] == []


def test_the_same_marks_up_both() -> None:
    """A tag that is opened in one language is in the other, and closed."""
    for english, chinese in TEXTS.values():
        tags = re.findall(r"</?\w+>", english)
        assert sorted(re.findall(r"</?\w+>", chinese)) == sorted(tags)
        assert sum(tag.startswith("</") for tag in tags) * 2 == len(tags)


def test_every_setting_is_called_something_and_explained() -> None:
    assert [name for name in FIELDS if name not in TEXTS] == []
    assert [name for name in FIELDS if f"tip_{name}" not in TEXTS] == []
    assert all(name in text for name in FIELDS for text in TEXTS[f"tip_{name}"] if name not in {"height", "width"})


def test_every_size_that_is_offered_has_a_name() -> None:
    assert {name for model in catalogue() for name in sizes_for(model)} <= set(TEXTS)


def literals() -> set[str]:
    """Every text constant of the panel's other files, those of f-strings too."""
    found: set[str] = set()
    for path in Path(module.__file__).parent.glob("*.py"):
        if path.name != "texts.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found |= {
                one.value for one in ast.walk(tree) if isinstance(one, ast.Constant) and isinstance(one.value, str)
            }
    return found


def test_every_text_is_used() -> None:
    """One that nobody shows is work for translators and nothing else."""
    used = literals() | {f"tip_{name}" for name in FIELDS} | set(FIELDS) | {"encode", "denoise", "decode"}
    assert [name for name in TEXTS if name not in used] == []


def test_the_player_speaks_chinese_throughout() -> None:
    """Every text that its script shows has one, and nothing is translated that is not there."""
    script = asset("player.js")
    made = re.findall(r'\b(?:button|choice|say)\("([^"]+)"(?:, "([^"]+)")?', script)
    shown = {text for pair in made for text in pair if re.search(r"[A-Za-z]", text)}
    assert {"▶ Play", "Repeat (L)", "Compare with", "Frame"} <= shown
    assert shown | {"en", Player.title} == set(PLAYER)
    assert all(HAN.search(text) for name, text in PLAYER.items() if name != "en")
    assert (Words("en").player, Words("zh").player) == ({}, PLAYER)


def test_texts_are_filled_in() -> None:
    words = Words()
    assert words("waiting", place=2) == "waiting: 2 ahead of you"
    words.switch("zh")
    assert words("waiting", place=2).endswith("前面还有 2 个")


def test_what_is_bound_is_written_now_and_at_every_switch() -> None:
    words, seen = Words("zh"), list[str]()
    words.bind(lambda: seen.append(words("seed")))
    words.bind(lambda: seen.append(words("fps")))
    assert seen == ["种子", "给模型的帧率"]
    words.switch("en")
    assert seen[2:] == ["Seed", "fps for the model"]


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


def test_the_languages_call_themselves_by_their_own_names() -> None:
    assert LANGUAGES == {"en": "English", "zh": "中文"}
