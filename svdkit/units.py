"""Numbers become text here and nowhere else: bytes, seconds, money, counts; and texts become columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£", "CNY": "¥"}


def format_bytes(count: float) -> str:
    """Text of a number of bytes in binary units, so that GB is never written for GiB; "–" when it is not finite."""
    if not math.isfinite(count):
        return "–"
    size, unit = float(count), 0
    # 1023.96 would print as "1024.0": move on where rounding reaches the next unit.
    while round(abs(size), 1) >= 1024 and unit < len(_BINARY) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} B" if unit == 0 else f"{size:.1f} {_BINARY[unit]}"


def format_seconds(seconds: float) -> str:
    """Text of a duration, in the two units a reader needs; "–" when it is not finite (an ETA before the first step)."""
    if not math.isfinite(seconds):
        return "–"
    sign, size = ("-" if seconds < 0 else ""), abs(seconds)
    if 0 < size < 0.9995:
        return f"{sign}{size * 1000:.0f} ms" if size >= 0.0095 else f"{sign}{size * 1000:.1f} ms"
    if size < 9.95:
        return f"{sign}{size:.1f} s" if size else "0 s"
    minutes, rest = divmod(round(size), 60)
    if minutes == 0:
        return f"{sign}{rest} s"
    if minutes < 60:
        return f"{sign}{minutes} min {rest} s" if rest else f"{sign}{minutes} min"
    hours, minutes = divmod(round(round(size) / 60), 60)
    return f"{sign}{hours} h {minutes} min" if minutes else f"{sign}{hours} h"


def format_money(amount: float, currency: str = "USD") -> str:
    """Text of a sum of money; small sums keep two significant digits, since clips cost fractions of a cent."""
    if not math.isfinite(amount):
        return "–"
    size = abs(amount)
    digits = 2 if size >= 0.095 or size == 0 else 1 - math.floor(math.log10(size))
    sign, text = ("-" if amount < 0 else ""), f"{size:.{min(digits, 9)}f}"
    code = str(currency).upper()  # earlier versions kept what they were given, numbers too
    return f"{sign}{_SYMBOLS[code]}{text}" if code in _SYMBOLS else f"{sign}{text} {code}"


def format_count(count: int, noun: str, plural: str | None = None) -> str:
    """Text of a number of things, singular or plural, with thousands apart."""
    return f"{count:,} {noun if abs(count) == 1 else plural or noun + 's'}"


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Lay out rows of texts in columns as wide as their widest text, one line a row."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
