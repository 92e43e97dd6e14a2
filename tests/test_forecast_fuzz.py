"""Odd arguments and damaged records thrown at forecasts: a forecast or svdkit's own error comes out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svdkit.bench.record import Record
from svdkit.forecast import find_card, forecast
from svdkit.settings import ClipSettings, LoadSettings
from tests.bench_records import GPU, VERSIONS, record
from tests.fuzz import VALUES, answer, cases, damaged, odd, result

SETTINGS: Any = st.sampled_from([{"num_inference_steps": 4}, {"fps": 9, "seed": 1}, {}])
LOADS: Any = st.sampled_from([{"dtype": "fp16"}, {"memory": "offload"}, {}])
ASKED: dict[str, Any] = {
    "gpu": odd(st.sampled_from(["T4", "RTX 4090", "A100-80GB", 24, "24 GB"])),
    "clip": odd(SETTINGS | SETTINGS.map(lambda values: ClipSettings(**values)) | st.none()),
    "load": odd(LOADS | LOADS.map(lambda values: LoadSettings(**values)) | st.none()),
    "hourly_price": odd(st.none() | st.floats(0, 100) | st.integers(0, 9)),
    "currency": odd(st.sampled_from(["USD", "EUR", "CHF"])),
    "records": odd(st.none() | st.lists(st.builds(record), max_size=2)) | st.lists(VALUES, max_size=2),
}
NEEDED = ("gpu",)
SHORT = {"timed": {"unet": [4.0, 4.1], "vae_decode": [1.5], "total": [6.0, 6.1]}}
RECORD = record(samples=SHORT, order=[0, 1], environment=GPU | VERSIONS | {"gpu": "Tesla T4"}).to_dict()


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVDKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def check(found: Any) -> None:
    if found is not None:
        assert str(found)
        assert found._repr_html_()
        json.dumps(found.to_dict(), allow_nan=False)


@cases("forecast", 70)
@given(
    model=odd(st.sampled_from(["svd-xt", "svd", "micro"])),
    asked=st.fixed_dictionaries(
        {name: ASKED[name] for name in NEEDED}, optional={name: ASKED[name] for name in ASKED if name not in NEEDED}
    ),
)
def test_odd_arguments(model: Any, asked: dict[str, Any]) -> None:
    check(result(forecast, model, **asked))


@cases("forecast", 10)
@given(gpu=VALUES)
def test_odd_cards(gpu: Any) -> None:
    answer(find_card, gpu)


@cases("forecast", 20)
@given(values=damaged(RECORD))
def test_records_with_odd_values(values: Any) -> None:
    made = result(Record.from_dict, values)
    if made is not None:
        check(result(forecast, "svd-xt", gpu="T4", records=[made]))
