"""Odd arguments and files of a sweep: a plan, or all that is wrong in words; what is taken is plain JSON."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from svdkit.errors import SettingsError
from svdkit.sweep import plan_sweep, read_sweep
from svdkit.sweep.points import AXES
from tests.fuzz import JSON, VALUES, answer, cases, odd

if TYPE_CHECKING:
    import pytest

_FILE = io.BytesIO()
Image.new("RGB", (8, 8)).save(_FILE, "PNG")
PHOTO = _FILE.getvalue()
GOOD: dict[str, list[Any]] = {
    "fps": [6, 7], "seed": [1, 2], "decode_chunk_size": [2, 7], "dtype": ["fp32"], "height": [64], "photo": [PHOTO],
}  # fmt: skip
AXIS = st.sampled_from(sorted(GOOD)).flatmap(
    lambda name: st.tuples(st.just(name), odd(st.lists(odd(st.sampled_from(GOOD[name])), max_size=3)))
)
DICTS = st.dictionaries(st.sampled_from([*AXES, "cls"]) | st.text(max_size=5) | st.integers(), VALUES, max_size=2)
RULES = st.lists(
    odd(st.dictionaries(st.sampled_from(sorted(GOOD)), odd(st.sampled_from([7, [6, 7], "photo 1"])))), max_size=2
)
ARGUMENTS = {
    "clip": odd(st.just({"fps": 7}), VALUES | DICTS),
    "load": odd(st.just({"dtype": "fp32"}), VALUES | DICTS),
    "axes": odd(st.lists(AXIS, max_size=3).map(dict) | DICTS),
    "mode": odd(st.sampled_from(["grid", "list", "random"])),
    "count": odd(st.integers(1, 3)),
    "seed": odd(st.integers(0, 3)),
    "exclude": odd(RULES),
    "fit_mode": odd(st.sampled_from(["crop", "pad"])),
    "focus": odd(st.just((0.5, 0.5))),
    "border": odd(st.just("blur")),
    "results": odd(st.just("out")),
    "hourly_price": odd(st.just(1)),
    "currency": odd(st.just("EUR")),
}
PHOTOS = st.sampled_from([PHOTO, [PHOTO, PHOTO], [PHOTO, "http://["], "missing.jpg", b"x"])
BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
SCALARS = st.sampled_from(
    [
        *("1e-2", "010", "1:30", "2020-13-45", "9" * 5000, "~", "#000", "!!int x", "!!timestamp 2020-13-45", ".nan"),
        *("*a", "&a [*a]", "[" * 400, "{" * 3000, "'http://['", "yes", "true", "7", "cat", "[6, 7]", "{fps: [6, 7]}"),
        *("{cls: 1}", "{fps: 7, fps: 8}", '"\\ud800"', '"\\0"', "<<", "? [a]", "- 1", "{1: 2}", "[[6]]"),
        "{seed: [1e-2]}",
    ]
)
LINES = st.lists(st.tuples(st.sampled_from([*ARGUMENTS, "photos", "gpu", "foo", "<<"]), SCALARS | st.text(max_size=9)))
TEXTS = st.one_of(
    LINES.map(lambda lines: "".join(f"{name}: {value}\n" for name, value in lines)),
    st.dictionaries(st.sampled_from(["photos", *ARGUMENTS]), JSON, max_size=4).map(json.dumps),
    st.sampled_from([BOMB, f"{BOMB}axes: {{fps: *a8}}", "clip: &a {width: *a}"]),
    st.text(max_size=60),
    st.binary(max_size=30),
)


def check(made: Any) -> None:
    """What was taken can be kept."""
    if not isinstance(made, SettingsError):
        json.dumps([made.asked, made.results, made.hourly_price, made.currency], allow_nan=False)


@cases("sweep files", 50)
@given(photos=odd(PHOTOS), arguments=st.fixed_dictionaries({}, optional=ARGUMENTS))
def test_odd_arguments(photos: Any, arguments: dict[str, Any]) -> None:
    check(answer(plan_sweep, photos, **arguments, forecast=False, own=SettingsError))


@cases("sweep files", 50)
@given(text=TEXTS, name=st.sampled_from(["a.yaml", "a.json"]))
def test_odd_files(text: str | bytes, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    check(answer(lambda: plan_sweep(**{"photos": PHOTO} | read_sweep(path) | {"forecast": False}), own=SettingsError))
