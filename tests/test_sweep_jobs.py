"""What a sweep is: its points, its order, its files, and everything that is wrong with it at once."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from svdkit.errors import SettingsError
from svdkit.settings import ClipSettings, LoadSettings
from svdkit.sweep import plan_sweep, read_sweep
from svdkit.sweep.plan import _names
from svdkit.sweep.points import AXES, expand, judge_value


def problems(*photos: object, **what: object) -> tuple[str, ...]:
    """Give all that is wrong with a sweep."""
    with pytest.raises(SettingsError) as caught:
        plan_sweep(photos, **{"forecast": False, **what})  # type: ignore[arg-type]
    return caught.value.problems


def points(axes: dict[str, list[object]], **how: object) -> list[dict[str, object]]:
    values = {"mode": "grid", "count": None, "seed": 0, "exclude": (), "known": AXES, "judge": judge_value, **how}
    found, wrong = expand({"photo": ["cat"], **axes}, **values)  # type: ignore[arg-type]
    assert wrong == []
    return [{name: value for name, value in point.items() if name != "photo"} for point in found]


def test_a_grid_is_every_combination() -> None:
    found = points({"fps": [6, 7], "seed": [1, 2]})
    assert [tuple(point.values()) for point in found] == [(6, 1), (6, 2), (7, 1), (7, 2)]


def test_a_list_takes_values_together() -> None:
    assert points({"fps": [6, 7], "seed": [1, 2]}, mode="list") == [{"fps": 6, "seed": 1}, {"fps": 7, "seed": 2}]


def test_a_list_is_made_for_each_photo() -> None:
    plan = plan_sweep(["cat", "rocket"], axes={"seed": [1, 2]}, mode="list", forecast=False)
    assert [(job.frame.source, job.clip.seed) for job in plan.jobs] == [
        ("cat", 1),
        ("cat", 2),
        ("rocket", 1),
        ("rocket", 2),
    ]


def test_random_points_are_different_and_the_same_each_time() -> None:
    axes: dict[str, list[object]] = {"fps": list(range(1, 31)), "motion_bucket_id": list(range(100))}
    found = points(axes, mode="random", count=20, seed=4)
    assert found == points(axes, mode="random", count=20, seed=4)
    assert found != points(axes, mode="random", count=20, seed=5)
    assert len({json.dumps(point) for point in found}) == 20


def test_more_random_points_than_there_are_is_all_of_them() -> None:
    assert len(points({"fps": [6, 7]}, mode="random", count=9)) == 2


def test_a_rule_leaves_out_the_runs_that_fit_all_of_it() -> None:
    found = points({"fps": [6, 7, 8], "seed": [1, 2]}, exclude=[{"fps": [6, 7], "seed": 2}])
    assert found == [{"fps": 6, "seed": 1}, {"fps": 7, "seed": 1}, {"fps": 8, "seed": 1}, {"fps": 8, "seed": 2}]


def test_everything_wrong_is_listed_at_once() -> None:
    """Names first: without them there are no points whose values could be judged."""
    wrong = problems(axes={"glow": [1], "fps": 7}, exclude=[{"sed": 1}, {"seed": 1}, "fps"], mode="gird", count=3)
    assert wrong == (
        "mode='gird': must be 'grid', 'list' or 'random'; write 'grid'",
        "count=3 is for mode 'random' only; leave it out",
        "there is no photo; give a file, or a sample such as 'rocket'",
        f"glow is no name of a setting for an axis; the names are {', '.join(AXES)}",
        "fps: an axis is a list of values, not 7; write [7]",
        "exclude: sed is no name of a setting for a rule; did you mean seed?",
        "exclude: seed is no axis here",
        "exclude has 'fps': a rule is names and values, such as {'fps': [6, 7]}",
    )


def test_values_photos_and_models_are_judged_together() -> None:
    wrong = problems(
        "rocket", "missing.jpg", axes={"fps": [7, 0], "model": ["micro", "svx-xt"], "decode_chunk_size": [2, 20]}
    )
    assert len(wrong) == 4
    assert any(text.startswith("missing.jpg does not exist") for text in wrong)
    assert any(text.startswith("fps=0: must be a whole number from 1 to 60") for text in wrong)
    assert any(text.startswith("model 'svx-xt' is not known; did you mean 'svd-xt'") for text in wrong)
    assert any(text.startswith("decode_chunk_size=20 with num_frames=14: at most all frames") for text in wrong)


def test_fixed_settings_are_judged_too() -> None:
    wrong = problems("cat", clip={"fsp": 7}, load={"dtype": "fp17"})
    assert wrong[0] == "dtype='fp17': must be 'auto', 'fp32', 'fp16', 'bf16' or 'fp8'; write 'fp16'"
    assert wrong[1] == "fsp is not a name here; did you mean fps?"


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ({"axes": {"fps": []}}, "fps: this axis is empty, so the grid is; give values, or leave it out"),
        ({"axes": {"fps": [7]}, "exclude": [{"fps": 7}]}, "no run is left: every point is excluded"),
        ({"axes": {"fps": [7]}, "exclude": [{"fps": 9}]}, "exclude {'fps': 9} fits no run; look at its values"),
        ({"axes": {"fps": [7]}, "mode": "random"}, "count=None: must be a whole number from 1 when mode is 'random'"),
        (
            {"axes": {"fps": [7], "seed": [1, 2]}, "mode": "list"},
            "mode 'list' takes values together: axes need one length, not fps 1, seed 2",
        ),
        (
            {"axes": {"seed": range(1000), "motion_bucket_id": range(1000)}},
            "the grid has 1,000,000 points, more than 100,000; give fewer values",
        ),
        ({"axes": {"photo": ["cat"]}}, "photos are given twice, as photos and as an axis; give one"),
    ],
)
def test_a_grid_that_is_none(what: dict[str, object], told: str) -> None:
    assert any(text.startswith(told) for text in problems("cat", **what))


def test_what_shares_a_stage_stands_together() -> None:
    """Decode chunks vary slowest in the request and fastest in the plan."""
    axes = {"decode_chunk_size": [2, 7], "seed": [1, 2], "motion_bucket_id": [30, 127]}
    plan = plan_sweep("cat", axes=axes, forecast=False)
    order = [(job.clip.seed, job.clip.motion_bucket_id, job.clip.decode_chunk_size) for job in plan.jobs]
    assert order == [(s, m, c) for s in (1, 2) for m in (30, 127) for c in (2, 7)]
    assert plan.distinct == {"load": 1, "encode": 2, "denoise": 4, "decode": 8}


def test_equal_runs_are_one() -> None:
    assert len(plan_sweep("cat", axes={"seed": [1, 1], "fps": [7, 7.0]}, forecast=False).jobs) == 1


def test_nothing_is_left_open() -> None:
    """A seed drawn anew at each start would make every start another sweep."""
    job = plan_sweep("cat", forecast=False).jobs[0]
    assert None not in job.clip.to_dict().values()
    assert (job.clip.seed, job.clip.height, job.frame.height) == (0, 72, 72)


def test_the_plan_in_words() -> None:
    axes = {"motion_bucket_id": [30, 127], "decode_chunk_size": [2, 7]}
    assert str(plan_sweep("rocket", axes=axes, forecast=False)) == (
        "4 runs: 1 photo × motion_bucket_id (2) × decode_chunk_size (2)\n"
        "shared work: 1 load, 1 encode, 2 denoises, 4 decodes; one by one it would be 4 of each"
    )


def test_photos_may_be_an_axis_and_pictures() -> None:
    picture = Image.new("RGB", (40, 30), "red")
    plan = plan_sweep(axes={"photo": [picture, "cat"]}, exclude=[{"photo": "cat"}], forecast=False)
    assert [job.frame.photo_height for job in plan.jobs] == [30]


def test_settings_objects_and_axes_of_both_kinds() -> None:
    axes: dict[str, list[Any]] = {"dtype": ["fp32", "bf16"], "height": [64, 72]}
    plan = plan_sweep("cat", clip=ClipSettings(fps=9), load=LoadSettings(device="cpu"), axes=axes, forecast=False)
    assert [(job.load.dtype, job.clip.height, job.clip.fps) for job in plan.jobs] == [
        ("fp32", 64, 9),
        ("fp32", 72, 9),
        ("bf16", 64, 9),
        ("bf16", 72, 9),
    ]


def test_what_was_asked_holds_no_paths(tmp_path: Path) -> None:
    photo, model = tmp_path / "holiday.png", tmp_path / "my-model"
    Image.new("RGB", (40, 30)).save(photo)
    model.mkdir()
    asked = plan_sweep(photo, load={"model": str(model)}, axes={"model": [str(model)]}, forecast=False).asked
    assert asked["photos"] == ["holiday.png"]
    assert (asked["load"]["model"], asked["axes"]["model"]) == ("my-model", ["my-model"])
    assert str(tmp_path) not in json.dumps(asked)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "windows.yaml",
            "\ufeffphotos: [rocket]\r\nclip: {num_inference_steps: 4}\r\naxes: {seed: [1, 2]}\r\nresults: out/here",
        ),
        ("motion.yaml", "photos: [rocket]\nclip: {num_inference_steps: 4}\naxes:\n  seed: [1, 2]\nresults: out/here\n"),
        (
            "motion.json",
            json.dumps(
                {
                    "photos": ["rocket"],
                    "clip": {"num_inference_steps": 4},
                    "axes": {"seed": [1, 2]},
                    "results": "out/here",
                }
            ),
        ),
    ],
)
def test_a_file_is_a_call(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    plan = plan_sweep(**read_sweep(tmp_path / name), forecast=False)
    assert [job.clip.seed for job in plan.jobs] == [1, 2]
    assert plan.jobs[0].clip.num_inference_steps == 4
    assert plan.results == "out/here"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("photos: [", "cannot be read as a sweep: while parsing"),
        ("- 1", "is no sweep: it needs names and values, such as photos: [rocket]"),
        ("photo: cat\naxis: {}", "photo is not a name here"),
        ("!!python/object/apply:os.system ['true']", "cannot be read as a sweep: could not determine a constructor"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        read_sweep(tmp_path / "bad.yaml")
    assert told in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml cannot be read as a sweep: No such file or directory"):
        read_sweep(tmp_path / "none.yaml")


def test_planning_needs_no_torch() -> None:
    code = "import sys; from svdkit.sweep import plan_sweep; plan_sweep('cat', axes={'seed': [1, 2]}, forecast=False)"
    done = subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], check=False)
    assert done.returncode == 0


def test_photos_of_one_name_stay_apart(tmp_path: Path) -> None:
    photos = []
    for colour in ("red", "blue"):
        (tmp_path / colour).mkdir()
        photos.append(tmp_path / colour / "photo.png")
        Image.new("RGB", (40, 30), colour).save(photos[-1])
    plan = plan_sweep(photos, forecast=False)
    assert plan.asked["photos"] == ["photo.png", "photo.png (2)"]
    assert len({job.frame.sha256 for job in plan.jobs}) == 2
    assert [job.frame.source for job in plan.jobs] == plan.asked["photos"]  # in records, tables and reports too


def test_an_address_is_named_without_its_signature() -> None:
    assert _names(["https://b.example/my%20cat.jpg?X-Amz-Signature=SECRET"]) == ["my cat.jpg"]


def test_numbers_of_numpy_are_plain_in_what_is_kept() -> None:
    plan = plan_sweep("cat", axes={"seed": list(np.arange(3)), "fps": range(6, 8)}, forecast=False)
    assert json.loads(json.dumps(plan.asked))["axes"] == {"seed": [0, 1, 2], "fps": [6, 7]}


def test_rules_may_be_left_empty_but_are_a_list() -> None:
    assert len(plan_sweep("cat", exclude=None, forecast=False).jobs) == 1  # files say that
    assert problems("cat", exclude=5) == ("exclude is 5: it must be a list of rules, such as [{'fps': [6, 7]}]",)


def test_what_a_file_may_hold_by_mistake() -> None:
    wrong = problems(5, axes=["seed"], hourly_price="3")
    assert wrong[:2] == (
        f"hourly_price='3': {_PRICE}; this is text: write the number without quotes",
        "axes is ['seed']: it must be names and lists of values, such as {'seed': [1, 2]}",
    )
    assert any("int" in text for text in wrong[2:])


_FPS = "must be a whole number from 1 to 60"
_PRICE = "must be a number from 0 to 1000000000 or None"
_CURRENCY = "must be three letters such as 'USD'"


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ({"hourly_price": -1}, f"hourly_price=-1: {_PRICE}; use 0"),
        ({"hourly_price": float("nan")}, f"hourly_price=nan: {_PRICE}; this is not a finite number"),
        ({"hourly_price": True}, f"hourly_price=True: {_PRICE}; True and False are not numbers"),
        ({"currency": 5}, f"currency=5: {_CURRENCY}; this is a int"),
        ({"currency": "euro"}, f"currency='euro': {_CURRENCY}"),
        ({"results": 5}, "results=5: must be a folder or None; this is a int"),
        ({"forecast": "no"}, "forecast='no': must be True or False"),
        ({"seed": 7}, "seed=7 is for mode 'random' only; for clips write it under clip, or as an axis"),
        ({"mode": "random"}, "count=None: must be a whole number from 1 when mode is 'random'"),
        (
            {"mode": "random", "count": 1, "seed": [1]},
            "seed=[1]: must be a whole number from 0 to 9223372036854775807 or None; this is a list",
        ),
        ({"border": "#000"}, "border='#000' is for fit_mode 'pad' only; leave it out"),
        ({"fit_mode": "pad", "focus": (0, 1)}, "focus=(0.0, 1.0) is for fit_mode 'crop' only; leave it out"),
        ({"axes": {"fps": {6, 7}}}, "fps: an axis is a list of values, not {6, 7}; write its values as a list"),
        (
            {"axes": {"fps": [6]}, "exclude": [{"fps": "6"}]},
            f"fps='6': {_FPS}; this is text: write the number without quotes",
        ),
        (
            {"axes": {"fps": [7]}, "exclude": [{"photo": "cat", "fps": [np.array(7), 7]}]},
            f"fps=array(7): {_FPS}; this is a ndarray",
        ),
        ({"axes": {"seed": range(10**20)}}, "the grid has 100,001 points, more than 100,000; give fewer values"),
        ({"photos": range(10**12)}, "the grid has 100,001 points, more than 100,000; give fewer values"),
        ({"axes": {7: [1]}}, f"7 is no name of a setting for an axis; the names are {', '.join(AXES)}"),
    ],
)
def test_each_argument_is_judged_in_words(what: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        plan_sweep(**{"photos": "cat", "forecast": False, **what})
    assert caught.value.problems == (told,)


@pytest.mark.parametrize(
    ("axis", "kept"),
    [
        (np.linspace(0, 1, 3), [0.0, 0.5, 1.0]),
        (np.array([0.5], np.float32), [0.5]),
        (pd.Series([1, 2]), [1.0, 2.0]),
        ([Fraction(1, 2), Decimal("0.25")], [0.5, 0.25]),
        (range(2), [0.0, 1.0]),
    ],
)
def test_an_axis_may_be_an_array_or_a_column(axis: Any, kept: list[float]) -> None:
    plan = plan_sweep("cat", axes={"noise_aug_strength": axis}, forecast=False)
    assert [job.clip.noise_aug_strength for job in plan.jobs] == kept
    assert json.dumps(plan.asked["axes"]) == json.dumps({"noise_aug_strength": kept})


def test_a_long_list_of_problems_is_cut() -> None:
    with pytest.raises(SettingsError, match=r"^sweep: 900 problems\n(- fps=\d+: .*\n){20}- and 880 more$"):
        plan_sweep("cat", axes={"fps": range(100, 1000)}, forecast=False)


def test_what_is_no_address_has_no_name() -> None:
    assert problems("http://[")[0].startswith("http://[")


# --- files ---------------------------------------------------------------------------------------------------------


def file_problems(path: Path, text: str) -> tuple[str, ...]:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        plan_sweep(**read_sweep(path), forecast=False)
    return caught.value.problems


def test_a_file_lists_all_that_is_wrong_with_it_at_once(tmp_path: Path) -> None:
    text = "photos: [cat]\nphoto: dog\nphotos: [rocket]\nclip: {fps: 0, fps: 7}\nborder: #000000\n3: 4\nexclude:\n"
    assert file_problems(tmp_path / "a.yaml", text) == (
        "fps is given twice; leave one out",
        "photos is given twice; leave one out",
        "3 is not a name: names are text",
        "photo is not a name here; did you mean photos?",
        "border has no value: leave it out, or write it in quotes if it begins with #",
        "fps=0: must be a whole number from 1 to 60; use 1",
    )


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", '{"photos": ["cat"],}', "Expecting property name enclosed in double quotes: line 1 column 20"),
        ("a.json", '{"clip": {"noise_aug_strength": NaN}}', "NaN is no JSON"),
        ("a.json", '{"photos": "cat", "photos": "dog"}', "photos is given twice; leave one out"),
        ("a.yaml", "photos: cat\nclip: {fps: 1:30}", "fps='1:30': must be a whole number from 1 to 60; this is a str"),
        ("a.yaml", "photos: cat\nload: {compile: yes}", "compile='yes': must be True or False"),
        ("a.yaml", "photos: ['http://[']", "http://["),
    ],
)
def test_a_file_says_what_it_means_or_is_refused(tmp_path: Path, name: str, text: str, told: str) -> None:
    assert told in file_problems(tmp_path / name, text)[0]
