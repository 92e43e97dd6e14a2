"""What all fuzz tests share: how many cases each runs, odd values, and which answers are svdkit's own.

The ordinary suite runs 2,000 cases, the same on every run; ``make test-fuzz`` runs ten times as many, new ones.
"""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Iterator
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck
from hypothesis import strategies as st

from svdkit.errors import SvdkitError, SvdkitWarning

CASES = {
    "settings": 500,
    "sweep files": 250,
    "forecast": 250,
    "command line": 150,
    "images": 350,
    "clip documents": 300,
    "records": 200,
}
SECONDS = 20.0  # longer is a hang


def cases(area: str, percent: float) -> hypothesis.settings:
    """Decorate a test that runs a part of its area's cases; the parts of an area add up to 100."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    count = CASES[area] * int(os.environ.get("SVDKIT_FUZZ", "1")) * percent / 100
    return hypothesis.settings(max_examples=max(1, round(count)), suppress_health_check=slow)


def answer(make: Any, *positions: Any, own: type[SvdkitError] = SvdkitError, **named: Any) -> Any:
    """Give what a call returns, or the error when it is svdkit's own; a foreign error or warning fails the test.

    An error is svdkit's own when it is of the kind that the call promises, and a person can read and print its text.
    """
    begin = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SvdkitWarning)
        try:
            found = make(*positions, **named)
        except own as error:
            found = error
    if isinstance(found, SvdkitError):
        assert 10 < len(str(found).encode()) < 4000
    assert time.monotonic() - begin < SECONDS
    return found


def result(make: Any, *positions: Any, **named: Any) -> Any:
    """Give what a call returns, or None for an error of svdkit's own."""
    found = answer(make, *positions, **named)
    return None if isinstance(found, SvdkitError) else found


class Hostile:
    """Raises from whatever Python lets a class define."""

    def _raise(self, *_: object) -> object:
        raise RuntimeError("hostile")

    __repr__ = __str__ = __bool__ = __eq__ = __float__ = __int__ = __index__ = __len__ = _raise  # type: ignore[assignment]
    __iter__ = __getitem__ = __fspath__ = __format__ = _raise  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


def nested(levels: int, width: int = 1) -> list[Any]:
    """Nest lists in lists; with a width of 2 the text of one doubles with each level, as a file's aliases make it."""
    found: list[Any] = []
    for _ in range(levels):
        found = [found] * width
    return found


NUMBERS = st.one_of(
    st.integers(),
    st.integers(-3, 300),
    st.floats(),
    st.fractions(),
    st.decimals(),
    st.complex_numbers(),
    st.integers(-(2**31), 2**31 - 1).map(np.int32),
    st.integers(0, 255).map(np.uint8),
    st.floats(width=32).map(np.float32),
    st.floats(width=16).map(np.float16),
    st.sampled_from([10**400, -(10**400), 2**63, 2**63 - 1, 2**64, 1e18, -0.0, 1.0000001, np.float64("nan")]),
    st.builds(lambda: 10**5000),  # no sample, which hypothesis would show: Python writes at most 4,300 digits
)
WORDS = st.one_of(
    st.text(max_size=40),
    st.binary(max_size=20),
    st.sampled_from(
        ["auto", "fp16", "FP16", "cuda:0", "cuda:-1", "cuda:9999", "svd-xt", "../x", "\ud800", "a\nb", "x" * 9999]
    ),
)
THINGS = st.one_of(
    st.none(),
    st.booleans(),
    st.booleans().map(np.bool_),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from([np.zeros(3), np.array(7), np.array("x"), ..., object, object(), len, {7}, range(10**12)]),
    st.builds(nested, st.just(14), width=st.just(2)),
    st.builds(nested, st.just(5000)),
    st.builds(Hostile),
)
VALUES = st.one_of(NUMBERS, WORDS, THINGS)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("/home/alice/x"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def odd(usual: st.SearchStrategy[Any], strange: st.SearchStrategy[Any] = VALUES) -> st.SearchStrategy[Any]:
    """Mostly usual values, and one time in five something else altogether."""
    return st.integers(0, 4).flatmap(lambda number: usual if number else strange)


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Give every place of a JSON document, as what holds it and the key there."""
    for key in (
        list(document) if isinstance(document, dict) else range(len(document) if isinstance(document, list) else 0)
    ):
        yield document, key
        yield from _places(document[key])


@st.composite
def damaged(draw: st.DrawFn, document: Any) -> Any:
    """Draw a copy of a JSON document in which up to three values, at any depth, are something else or missing."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(list(_places(document))))
        value = holder[key]
        if draw(st.integers(0, 6)):
            holder[key] = draw(JSON | st.sampled_from([[value], {"x": value}, str(value), 10**400, -1, 1e308, 0]))
        else:
            del holder[key]
    return document
