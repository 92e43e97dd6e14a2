"""The error tree: its shape, its drawing, and what its members carry."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from svdkit import errors
from svdkit.errors import Cancelled, SettingsError, shown
from tests.fuzz import Hostile, nested

PARENTS = {
    "SvdkitError": Exception,
    "ImageError": errors.SvdkitError,
    "SettingsError": errors.SvdkitError,
    "ModelError": errors.SvdkitError,
    "DownloadError": errors.ModelError,
    "GatedModelError": errors.ModelError,
    "VariantError": errors.ModelError,
    "IncompleteModelError": errors.ModelError,
    "UnsafeWeightsError": errors.ModelError,
    "PipelineError": errors.SvdkitError,
    "OutOfMemoryError": errors.SvdkitError,
    "Cancelled": errors.SvdkitError,
    "ClipError": errors.SvdkitError,
    "SvdkitWarning": UserWarning,  # not an error: ``except SvdkitError`` must not catch it
}


def classes():
    found = inspect.getmembers(errors, inspect.isclass)
    return {name: item for name, item in found if item.__module__ == errors.__name__ and name[0] != "_"}


def test_each_error_hangs_where_the_tree_says():
    assert {name: item.__bases__ for name, item in classes().items()} == {name: (up,) for name, up in PARENTS.items()}


def test_the_drawing_at_the_top_of_the_file_is_the_real_tree():
    """The drawing names every class, indented once for each ancestor below SvdkitError."""
    drawn = re.findall(r"^    ([│ ├└─]*)([A-Z]\w+)(?:\(\w+\))?(?: |$)", errors.__doc__ or "", flags=re.MULTILINE)
    assert {name: len(marks) // 3 for marks, name in drawn} == {
        name: max(0, len([base for base in item.__mro__ if base in classes().values()]) - 1)
        for name, item in classes().items()
    }


def test_every_member_says_in_its_first_line_what_it_is_for():
    for name, item in classes().items():
        assert (inspect.getdoc(item) or "").split("\n")[0].endswith("."), name


@pytest.mark.parametrize(
    ("error", "text", "problems"),
    [
        (SettingsError.of("ClipSettings", ["fps=0 is bad"]), "ClipSettings: fps=0 is bad", ("fps=0 is bad",)),
        (SettingsError.of("ClipSettings", ("a", "b")), "ClipSettings: 2 problems\n- a\n- b", ("a", "b")),
        (SettingsError("no such preset"), "no such preset", ("no such preset",)),
    ],
)
def test_settings_errors_list_their_problems(error, text, problems):
    assert (str(error), error.problems) == (text, problems)


@pytest.mark.parametrize(
    "error",
    [
        SettingsError.of("ClipSettings", ["a", "b"]),
        Cancelled("stopped", finished=("first",)),
        Cancelled("stopped before the first step"),
        errors.GatedModelError("accept the licence"),
    ],
)
def test_errors_cross_process_borders_whole(error):
    """A sweep's worker sends its errors to the driver by pickle."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_a_name_with_half_a_character_can_be_printed():
    assert str(errors.ClipError("a\ud800.mp4 is not there")) == "a\\ud800.mp4 is not there"


def its_own():
    found: list[object] = [1]
    found.append(found)
    return found


SHOWN = {
    "'a\\n b'": "a\n b",
    "'\\ud800'": "\ud800",
    f"'{'x' * 58}…": "x" * 10**7,
    f"b'{'x' * 57}…": b"x" * 10**7,
    "(1,)": (1,),
    "{'a': [1, ()], None: {}}": {"a": [1, ()], None: {}},
    "<Hostile>": Hostile(),
    "[1, <Hostile>]": [1, Hostile()],
    "<int>": 10**5000,
    "range(0, 1000000000)": range(10**9),
    "[0, 1, 2, 3, 4, 5, ...]": list(range(10**6)),
    "[[[[[[[...]]]]]]]": nested(10**5),
    "[[[[[[[...], [...]], [[...], [...]]], [[[...], [...]], [[..…": nested(60, width=2),
    "[1, [1, [1, [1, [1, [1, [...]]]]]]]": its_own(),
}


@pytest.mark.parametrize("text", SHOWN)
def test_any_wrong_value_is_shown_on_one_short_line_at_once(text):
    assert shown(SHOWN[text]) == text
