"""What users give is read in one way: numbers, paths, texts that hold values."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from svdkit.bench.record import records_file
from svdkit.cli.notebook import _make_folder
from svdkit.given import finite, read_values, user_path, whole
from svdkit.image import read_image
from svdkit.models import find_model
from svdkit.sweep import plan_sweep, read_sweep, run_sweep
from tests.clips import micro_clip

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    "value",
    [7, 7.0, np.int64(7), np.uint8(7), np.float16(7), np.float32(7), np.longdouble(7), Fraction(14, 2), Decimal("7.0")],
)
def test_any_real_number_is_one(value: object) -> None:
    assert (repr(finite(value)), repr(whole(value))) == ("7.0", "7")


@pytest.mark.parametrize(
    "value", [True, np.True_, "7", 7j, None, [7], np.array(7), float("nan"), Decimal("sNaN"), 10**400]
)
def test_all_else_is_none(value: object) -> None:
    with pytest.raises(ValueError, match=r"^(this is|True and|None is)"):
        finite(value)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("[1e-2, 2e-5, .5, 3., -1E+3]", [0.01, 2e-5, 0.5, 3.0, -1000.0]),
        ("[010, 0o10, 0x1F, 1_000, -7]", [10, 8, 31, "1_000", -7]),
        (
            "[1:30, 2020-13-45, 2020-01-01, yes, no, on, =, <<]",
            ["1:30", "2020-13-45", "2020-01-01", "yes", "no", "on", "=", "<<"],
        ),
        ("[true, False, TRUE, null, ~, 'null', \"7\"]", [True, False, True, None, None, "null", "7"]),
        ("[.inf, NaN]", [float("inf"), "NaN"]),
        ("!!str 5", "5"),
        ('{"a":\t["\\ud83d\\udc31.png", 2e-05]}', {"a": ["🐱.png", 2e-5]}),
        ("a: &one [1]\nb: *one", {"a": [1], "b": [1]}),
    ],
)
def test_a_text_is_json_or_yaml_of_version_1_2(text: str, kept: object) -> None:
    found, wrong = read_values(text)
    assert (json.dumps(found), wrong) == (json.dumps(kept), [])


_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (_BOMB, "it stands for more than 200,000 values; write fewer aliases"),
        ("a: &a [*a]", "found unconstructable recursive node"),
        ("count: " + "{" * 5000, "it is nested too deeply"),
        ('{"a": ' * 5000, "it is nested too deeply"),
        ("seed: " + "9" * 5000, "a number of 5,000 digits is too long"),
        ("!!python/name:os.system", "could not determine a constructor for the tag"),
        ("!!timestamp 2020-01-02", "could not determine a constructor for the tag"),
        ("!!set {rocket}", "could not determine a constructor for the tag"),
        ("!!bool maybe", "'maybe'"),
        ("!!int x", "invalid literal for int()"),
        ("a\0", "unacceptable character #x0000"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_at_once(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        read_values(text)


def empty_sweep(path: str) -> Path:
    plan = replace(plan_sweep("cat", forecast=False, results=path), jobs=())
    return run_sweep(plan, report=False, progress=False).folder


@pytest.mark.parametrize(
    "read",
    [
        user_path,
        lambda path: records_file(path).parent,
        lambda path: _make_folder(Path(path)),
        lambda path: find_model(path).folder,
        lambda path: user_path(path) if read_image(f"{path}/a.png") is not None else Path(),
        lambda path: read_sweep(f"{path}/a.yaml") and user_path(path),
        lambda path: micro_clip().save(f"{path}/a.gif").parent,
        empty_sweep,
    ],
)
def test_home_is_home(read: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder named ~ is nobody's wish."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "mine" / "a.png")
    (tmp_path / "mine" / "a.yaml").write_text("photos: cat", encoding="utf-8")
    assert read("~/mine") == tmp_path / "mine"
    assert not (tmp_path / "~").exists()
