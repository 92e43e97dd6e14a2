"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from svdkit.units import format_bytes, format_count, format_money, format_seconds


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2, "1.0 MiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1024**3 - 1, "1.0 GiB"),
        (7_838_315_315, "7.3 GiB"),
        (24 * 10**9, "22.4 GiB"),
        (1024**4, "1.0 TiB"),
        (1024**7, "1048576.0 PiB"),
        (-3 * 1024**3, "-3.0 GiB"),
        (math.nan, "–"),
        (math.inf, "–"),
    ],
)
def test_bytes_are_written_in_binary_units(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.00004, "0.0 ms"),
        (0.0042, "4.2 ms"),
        (0.0099, "10 ms"),
        (0.085, "85 ms"),
        (0.9994, "999 ms"),
        (0.9999, "1.0 s"),
        (3.4, "3.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (72.4, "1 min 12 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h"),
        (7500, "2 h 5 min"),
        (7229, "2 h"),
        (-1.5, "-1.5 s"),
        (math.inf, "–"),
        (math.nan, "–"),
    ],
)
def test_seconds_never_roll_over_wrongly(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (1.2, "USD", "$1.20"),
        (0, "USD", "$0.00"),
        (0.1, "USD", "$0.10"),
        (0.00417, "USD", "$0.0042"),
        (0.0996, "usd", "$0.10"),
        (1234.5, "EUR", "€1234.50"),
        (0.5, "GBP", "£0.50"),
        (2, "CNY", "¥2.00"),
        (3.5, "CHF", "3.50 CHF"),
        (-0.25, "USD", "-$0.25"),
        (1e-30, "USD", "$0.000000000"),
        (math.nan, "USD", "–"),
    ],
)
def test_money_keeps_two_digits_of_small_sums(amount, currency, text):
    assert format_money(amount, currency) == text


def test_dollars_are_the_default():
    assert format_money(2) == "$2.00"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 frames"), (1, "1 frame"), (2, "2 frames"), (1_525_000, "1,525,000 frames"), (-1, "-1 frame")],
)
def test_counts_agree_with_their_noun(count, text):
    assert format_count(count, "frame") == text


def test_an_irregular_plural_is_given():
    assert format_count(3, "copy", "copies") == "3 copies"
