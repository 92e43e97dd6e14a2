"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from svdkit.units import format_bytes, format_count, format_money, format_seconds


@pytest.mark.parametrize(
    ("format_it", "given", "text"),
    [
        (format_bytes, (0,), "0 B"),
        (format_bytes, (1023,), "1023 B"),
        (format_bytes, (1024,), "1.0 KiB"),
        (format_bytes, (1024**2 - 1,), "1.0 MiB"),
        (format_bytes, (1024**3 - 1,), "1.0 GiB"),
        (format_bytes, (7_838_315_315,), "7.3 GiB"),
        (format_bytes, (24 * 10**9,), "22.4 GiB"),
        (format_bytes, (1024**4,), "1.0 TiB"),
        (format_bytes, (1024**7,), "1048576.0 PiB"),
        (format_bytes, (-3 * 1024**3,), "-3.0 GiB"),
        (format_bytes, (math.nan,), "–"),
        (format_bytes, (math.inf,), "–"),
        (format_seconds, (0,), "0 s"),
        (format_seconds, (0.00004,), "0.0 ms"),
        (format_seconds, (0.0042,), "4.2 ms"),
        (format_seconds, (0.0099,), "10 ms"),
        (format_seconds, (0.9994,), "999 ms"),
        (format_seconds, (0.9999,), "1.0 s"),
        (format_seconds, (9.94,), "9.9 s"),
        (format_seconds, (9.96,), "10 s"),
        (format_seconds, (59.4,), "59 s"),
        (format_seconds, (59.6,), "1 min"),
        (format_seconds, (72.4,), "1 min 12 s"),
        (format_seconds, (3599.4,), "59 min 59 s"),
        (format_seconds, (3599.6,), "1 h"),
        (format_seconds, (7500,), "2 h 5 min"),
        (format_seconds, (7229,), "2 h"),
        (format_seconds, (-1.5,), "-1.5 s"),
        (format_seconds, (math.nan,), "–"),
        (format_money, (1.2,), "$1.20"),
        (format_money, (0, "USD"), "$0.00"),
        (format_money, (0.1, "USD"), "$0.10"),
        (format_money, (0.00417, "USD"), "$0.0042"),
        (format_money, (0.0996, "usd"), "$0.10"),
        (format_money, (1234.5, "EUR"), "€1234.50"),
        (format_money, (0.5, "GBP"), "£0.50"),
        (format_money, (2, "CNY"), "¥2.00"),
        (format_money, (3.5, "CHF"), "3.50 CHF"),
        (format_money, (-0.25, "USD"), "-$0.25"),
        (format_money, (1e-30, "USD"), "$0.000000000"),
        (format_money, (math.nan, "USD"), "–"),
        (format_count, (0, "frame"), "0 frames"),
        (format_count, (1, "frame"), "1 frame"),
        (format_count, (1_525_000, "frame"), "1,525,000 frames"),
        (format_count, (-1, "frame"), "-1 frame"),
        (format_count, (3, "copy", "copies"), "3 copies"),
    ],
)
def test_a_number_is_written_as_people_read_it(format_it, given, text):
    """Bytes in binary units; seconds never roll over wrongly; small sums keep two digits; counts agree with nouns."""
    assert format_it(*given) == text
