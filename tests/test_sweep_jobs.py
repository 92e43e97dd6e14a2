"""What a sweep is: its points, its order, its files, and everything that is wrong with it at once."""

from __future__ import annotations

import importlib
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
from svdkit.sweep import Plan, plan_sweep, read_sweep
from svdkit.sweep.points import AXES


def plan(photos: Any = "cat", **what: Any) -> Plan:
    return plan_sweep(photos, **{"forecast": False, **what})


def problems(photos: Any = "cat", **what: Any) -> tuple[str, ...]:
    """Give all that is wrong with a sweep."""
    with pytest.raises(SettingsError) as caught:
        plan(photos, **what)
    return caught.value.problems


def points(*names: str, **what: Any) -> list[Any]:
    """Give these settings of the runs of a plan, in its order."""
    return [tuple(getattr(job.clip, name) for name in names) for job in plan(**what).jobs]


TWO: dict[str, Any] = {"fps": [6, 7], "seed": [1, 2]}


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ({"axes": TWO}, [(6, 1), (7, 1), (6, 2), (7, 2)]),  # in the order in which they share an encode
        ({"axes": TWO, "mode": "list"}, [(6, 1), (7, 2)]),
        ({"axes": {"fps": [6, 7]}, "mode": "random", "count": 9}, [(7, 0), (6, 0)]),  # as drawn
        ({"axes": TWO, "exclude": [{"fps": [6, 7], "seed": 2}, {"fps": 6}]}, [(7, 1)]),
        ({"axes": {"seed": [1, 1], "fps": [7, 7.0]}}, [(7, 1)]),  # equal runs are one
        ({"exclude": None}, [(7, 0)]),  # files say that; a seed drawn anew would make every start another sweep
    ],
)
def test_the_runs_of_a_grid_a_list_and_what_is_left_out(what: dict[str, Any], found: list[Any]) -> None:
    assert points("fps", "seed", **what) == found


def test_random_points_are_different_and_the_same_each_time() -> None:
    how: dict[str, Any] = {"axes": {"fps": range(1, 31), "motion_bucket_id": range(100)}, "mode": "random", "count": 20}
    first, again, other = (points("fps", "motion_bucket_id", **how, seed=seed) for seed in (4, 4, 5))
    assert first == again != other
    assert len(set(first)) == 20


def test_photos_may_be_several_pictures_and_an_axis() -> None:
    jobs = plan(["cat", "rocket"], axes={"seed": [1, 2]}, mode="list").jobs
    assert [(job.frame.source, job.clip.seed) for job in jobs] == [("cat", 1), ("cat", 2), ("rocket", 1), ("rocket", 2)]
    picture = Image.new("RGB", (40, 30), "red")
    jobs = plan((), axes={"photo": [picture, "cat"]}, exclude=[{"photo": "cat"}]).jobs
    assert [job.frame.photo_height for job in jobs] == [30]


def test_everything_wrong_is_listed_at_once() -> None:
    """Names first: without them there are no points whose values could be judged."""
    what = {"axes": {"glow": [1], "fps": 7}, "exclude": [{"sed": 1}, {"seed": 1}, "fps"], "mode": "gird", "count": 3}
    assert problems((), **what) == (
        "mode='gird': must be 'grid', 'list' or 'random'; write 'grid'",
        "there is no photo; give a file, or a sample such as 'rocket'",
        f"glow is no name of a setting for an axis; the names are {', '.join(AXES)}",
        "fps: an axis is a list of values, not 7; write [7]",
        "exclude: sed is no name of a setting for a rule; did you mean seed?",
        "exclude: seed is no axis here",
        "exclude has 'fps': a rule is names and values, such as {'fps': [6, 7]}",
        "count=3 is for mode 'random' only; leave it out",
    )


def test_values_photos_models_and_fixed_settings_are_judged_together() -> None:
    axes = {"fps": [7, 0], "model": ["micro", "svx-xt"], "decode_chunk_size": [2, 20]}
    wrong = problems(["rocket", "missing.jpg"], axes=axes, clip={"fsp": 7}, load={"dtype": "fp17"})
    for text in (
        "missing.jpg does not exist",
        "fps=0: must be a whole number from 1 to 60",
        "model 'svx-xt' is not known; did you mean 'svd-xt'",
        "decode_chunk_size=20 with num_frames=14: at most all frames",
        "dtype='fp17': must be 'auto', 'fp32', 'fp16', 'bf16' or 'fp8'; write 'fp16'",
        "fsp is not a name here; did you mean fps?",
    ):
        assert sum(problem.startswith(text) for problem in wrong) == 1
    assert len(wrong) == 6


FPS = {"fps": [7]}
_TEXT, _ARRAY = "this is text: write the number without quotes", "this is a ndarray"
_TOGETHER = "mode 'list' takes values together"
_FPS = "must be a whole number from 1 to 60"
_PRICE = "must be a number from 0 to 1000000000 or None"
_SEED = "must be a whole number from 0 to 9223372036854775807 or None"
_CURRENCY = "must be three letters such as 'USD'"
_MANY = "points, more than 100,000; give fewer values"
_TWICE = "photos are given twice, as photos and as an axis; give one"
_FIRST = "count=None: must be a whole number from 1 when mode is 'random'"


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ({"hourly_price": -1}, f"hourly_price=-1: {_PRICE}; use 0"),
        ({"hourly_price": float("nan")}, f"hourly_price=nan: {_PRICE}; this is not a finite number"),
        ({"hourly_price": True}, f"hourly_price=True: {_PRICE}; True and False are not numbers"),
        ({"hourly_price": "3"}, f"hourly_price='3': {_PRICE}; {_TEXT}"),
        ({"currency": 5}, f"currency=5: {_CURRENCY}; this is a int"),
        ({"currency": "euro"}, f"currency='euro': {_CURRENCY}"),
        ({"results": 5}, "results=5: must be a folder or None; this is a int"),
        ({"forecast": "no"}, "forecast='no': must be True or False"),
        ({"seed": 7}, "seed=7 is for mode 'random' only; for clips write it under clip, or as an axis"),
        ({"mode": "random"}, _FIRST),
        ({"mode": "random", "count": 1, "seed": [1]}, f"seed=[1]: {_SEED}; this is a list"),
        ({"border": "#000"}, "border='#000' is for fit_mode 'pad' only; leave it out"),
        ({"fit_mode": "pad", "focus": (0, 1)}, "focus=(0.0, 1.0) is for fit_mode 'crop' only; leave it out"),
        ({"axes": ["seed"]}, "axes is ['seed']: it must be names and lists of values, such as {'seed': [1, 2]}"),
        ({"axes": {"fps": {6, 7}}}, "fps: an axis is a list of values, not {6, 7}; write its values as a list"),
        ({"axes": {"fps": []}}, "fps: this axis is empty, so the grid is; give values, or leave it out"),
        ({"axes": {7: [1]}}, f"7 is no name of a setting for an axis; the names are {', '.join(AXES)}"),
        ({"axes": {"photo": ["cat"]}}, _TWICE),
        ({"exclude": 5}, "exclude is 5: it must be a list of rules, such as [{'fps': [6, 7]}]"),
        ({"axes": FPS, "exclude": [{"fps": 7}]}, "no run is left: every point is excluded, or an axis is empty"),
        ({"axes": FPS, "exclude": [{"fps": 9}]}, "exclude {'fps': 9} fits no run; look at its values"),
        ({"axes": FPS, "exclude": [{"fps": "6"}]}, f"fps='6': {_FPS}; {_TEXT}"),
        ({"axes": FPS, "exclude": [{"photo": "cat", "fps": [np.array(7), 7]}]}, f"fps=array(7): {_FPS}; {_ARRAY}"),
        ({"exclude": [{"photo": 5}]}, "photo=5: must be the name of a photo"),
        ({"axes": {**FPS, "seed": [1, 2]}, "mode": "list"}, f"{_TOGETHER}: axes need one length, not fps 1, seed 2"),
        ({"axes": {"seed": range(1000), "motion_bucket_id": range(1000)}}, f"the grid has 1,000,000 {_MANY}"),
        ({"axes": {"seed": range(10**20)}}, f"the grid has 100,001 {_MANY}"),
        ({"photos": range(10**12)}, f"the grid has 100,001 {_MANY}"),
        ({"photos": range(10**12), "axes": TWO, "mode": "list"}, f"the grid has 200,002 {_MANY}"),
    ],
)
def test_what_is_wrong_is_told_in_words(what: dict[str, Any], told: str) -> None:
    assert problems(**what) == (told,)


def test_a_long_list_of_problems_is_cut_and_what_is_no_photo_is_told() -> None:
    with pytest.raises(SettingsError, match=r"^sweep: 900 problems\n(- fps=\d+: .*\n){20}- and 880 more$"):
        plan(axes={"fps": range(100, 1000)})
    assert "int" in problems(5)[0]
    assert problems("http://[")[0].startswith("http://[")


def test_what_shares_a_stage_stands_together() -> None:
    """Decode chunks vary slowest in the request and fastest in the plan; nothing is left open."""
    found = plan(axes={"decode_chunk_size": [2, 7], "seed": [1, 2], "motion_bucket_id": [30, 127]})
    order = [(job.clip.seed, job.clip.motion_bucket_id, job.clip.decode_chunk_size) for job in found.jobs]
    assert order == [(s, m, c) for s in (1, 2) for m in (30, 127) for c in (2, 7)]
    assert found.distinct == {"load": 1, "encode": 2, "denoise": 4, "decode": 8}
    assert None not in found.jobs[0].clip.to_dict().values()
    assert str(found) == (
        "8 runs: 1 photo × decode_chunk_size (2) × seed (2) × motion_bucket_id (2)\n"
        "shared work: 1 load, 2 encodes, 4 denoises, 8 decodes; one by one it would be 8 of each"
    )


def test_settings_objects_and_axes_of_both_kinds() -> None:
    axes: dict[str, list[Any]] = {"dtype": ["fp32", "bf16"], "height": [64, 72]}
    jobs = plan(clip=ClipSettings(fps=9), load=LoadSettings(device="cpu"), axes=axes).jobs
    assert [(job.load.dtype, job.clip.height, job.clip.fps, job.frame.height) for job in jobs] == [
        (dtype, height, 9, height) for dtype in ("fp32", "bf16") for height in (64, 72)
    ]


def test_what_was_asked_holds_no_paths(tmp_path: Path) -> None:
    photo, model = tmp_path / "holiday.png", tmp_path / "my-model"
    Image.new("RGB", (40, 30)).save(photo)
    model.mkdir()
    rule, axes = {"model": str(model), "seed": 2}, {"model": [str(model)], "seed": [1, 2]}
    asked = plan(photo, load={"model": str(model)}, axes=axes, exclude=[rule]).asked
    assert asked["photos"] == ["holiday.png"]
    assert (asked["load"]["model"], asked["axes"]["model"]) == ("my-model", ["my-model"])
    assert asked["exclude"] == [{"model": ["my-model"], "seed": [2]}]
    assert str(tmp_path) not in json.dumps(asked)


def test_photos_of_one_name_stay_apart_and_an_address_is_named_without_its_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos: list[Any] = []
    for colour in ("red", "blue"):
        (tmp_path / colour).mkdir()
        photos.append(tmp_path / colour / "photo.png")
        Image.new("RGB", (40, 30), colour).save(photos[-1])
    points_module = importlib.import_module("svdkit.sweep.points")
    read = points_module.read_image
    address = "https://b.example/my%20cat.jpg?X-Amz-Signature=SECRET"
    monkeypatch.setattr(points_module, "read_image", lambda photo: read("cat" if photo == address else photo))
    found = plan([*photos, address])
    assert found.asked["photos"] == ["photo.png", "photo.png (2)", "my cat.jpg"]
    assert len({job.frame.sha256 for job in found.jobs}) == 3
    assert [job.frame.source for job in found.jobs] == found.asked["photos"]  # in records, tables and reports too


@pytest.mark.parametrize(
    ("axis", "kept"),
    [
        (np.linspace(0, 1, 3), [0.0, 0.5, 1.0]),
        (list(np.arange(2)), [0.0, 1.0]),
        (np.array([0.5], np.float32), [0.5]),
        (pd.Series([1, 2]), [1.0, 2.0]),
        ([Fraction(1, 2), Decimal("0.25")], [0.5, 0.25]),
        (range(2), [0.0, 1.0]),
    ],
)
def test_an_axis_may_be_an_array_or_a_column(axis: Any, kept: list[float]) -> None:
    found = plan(axes={"noise_aug_strength": axis})
    assert [job.clip.noise_aug_strength for job in found.jobs] == kept
    assert json.dumps(found.asked["axes"]) == json.dumps({"noise_aug_strength": kept})


def test_planning_needs_no_torch() -> None:
    code = "import sys; from svdkit.sweep import plan_sweep; plan_sweep('cat', axes={'seed': [1, 2]}, forecast=False)"
    done = subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], check=False)
    assert done.returncode == 0


# --- files ---------------------------------------------------------------------------------------------------------

CALL = {"photos": ["rocket"], "clip": {"num_inference_steps": 4}, "axes": {"seed": [1, 2]}, "results": "out/here"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("windows.yaml", "\ufeffphotos: [rocket]\r\nclip: {num_inference_steps: 4}\r\naxes: {seed: [1, 2]}\r\n"),
        ("motion.yaml", "photos: [rocket]\nclip: {num_inference_steps: 4}\naxes:\n  seed: [1, 2]\n"),
        ("motion.json", json.dumps(CALL)),
    ],
)
def test_a_file_is_a_call(tmp_path: Path, name: str, text: str) -> None:
    text += "" if name.endswith("json") else "results: out/here"
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_sweep(tmp_path / name) == CALL
    assert plan(**CALL).results == "out/here"


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
        ("a.yaml", "photos: [", "a.yaml cannot be read as a sweep: while parsing"),
        ("a.yaml", "- 1", "a.yaml is no sweep: it needs names and values, such as photos: [rocket]"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "cannot be read as a sweep: could not determine a cons"),
        ("a.json", '{"photos": ["cat"],}', "Expecting property name enclosed in double quotes: line 1 column 20"),
        ("a.json", '{"clip": {"noise_aug_strength": NaN}}', "NaN is no JSON"),
        ("a.yaml", "photos: cat\nclip: {fps: 1:30}", "fps='1:30': must be a whole number from 1 to 60; this is a str"),
        ("a.yaml", "photos: cat\nload: {compile: yes}", "compile='yes': must be True or False"),
    ],
)
def test_a_file_says_what_it_means_or_is_refused(tmp_path: Path, name: str, text: str, told: str) -> None:
    assert told in file_problems(tmp_path / name, text)[0]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml cannot be read as a sweep: No such file or directory"):
        read_sweep(tmp_path / "none.yaml")
