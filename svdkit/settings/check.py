"""One value in, the same value as plain Python out, or a ValueError: what is allowed, and what to write.

A check is a function of one value. The settings that use it (base.py) add the name and what was given, and
collect the sentences of all fields.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from pathlib import PurePath
from types import MappingProxyType

Check = Callable[[object], object]

_NO_WORDS: Mapping[str, str] = MappingProxyType({})
_SHOWN = 60  # characters of a wrong value: enough to know it again, short enough for one line
_EXACT = 2**53  # above it a float no longer stands for one whole number


def whole(low: int, high: int, *, step: int = 1, optional: bool = False) -> Check:
    """Check for whole numbers from low to high, multiples of step; takes numpy's, and floats such as 7.0.

    Example:
        >>> whole(8, 2048, step=8)(70)
        Traceback (most recent call last):
        ...
        ValueError: must be a multiple of 8 from 8 to 2048; use 64 or 72
    """
    kind = "a whole number" if step == 1 else f"a multiple of {step}"
    rule = f"must be {kind} from {low} to {high}{_or_none(optional)}"

    def check(value: object) -> object:
        if value is None and optional:
            return None
        found = _as_int(value)
        if found is None:
            raise ValueError(f"{rule}; {_remedy(value)}")
        if not low <= found <= high:
            raise ValueError(f"{rule}; use {low if found < low else high}")
        if found % step:
            below = found - found % step
            raise ValueError(f"{rule}; use {below} or {below + step}")
        return found

    return check


def number(low: float, high: float, *, optional: bool = False) -> Check:
    """Check for finite numbers from low to high; takes ints and numpy's.

    Example:
        >>> number(0, 10)(float("nan"))
        Traceback (most recent call last):
        ...
        ValueError: must be a number from 0 to 10; this is not a finite number
    """
    rule = f"must be a number from {low:g} to {high:g}{_or_none(optional)}"

    def check(value: object) -> object:
        if value is None and optional:
            return None
        found = _as_float(value)
        if found is None or not math.isfinite(found):
            raise ValueError(f"{rule}; {_remedy(value)}")
        if not low <= found <= high:
            raise ValueError(f"{rule}; use {low if found < low else high:g}")
        return found + 0.0  # -0.0 becomes 0.0, so that equal settings have equal JSON

    return check


def choice(*names: str, also: Mapping[str, str] = _NO_WORDS) -> Check:
    """Check for one of some names; other words for them are explained and not taken: one word a thing in records.

    Example:
        >>> choice("fp32", "fp16", also={"half": "fp16"})("half")
        Traceback (most recent call last):
        ...
        ValueError: must be 'fp32' or 'fp16'; write 'fp16'
    """
    quoted = [repr(name) for name in names]
    rule = f"must be {', '.join(quoted[:-1])} or {quoted[-1]}"

    def check(value: object) -> object:
        if isinstance(value, str) and value in names:
            return str.__str__(value)
        guess = nearest(value, names, also=also)
        raise ValueError(f"{rule}; write {guess!r}" if guess else f"{rule}; choose one")

    return check


def text(rule: str, *, pattern: str = r".+", optional: bool = False, also: Mapping[str, str] = _NO_WORDS) -> Check:
    """Check for one printable line, or a path, that matches a regular expression; rule says in words what that is.

    Example:
        >>> text("a device", pattern=r"cpu|cuda(:[0-9]+)?", also={"gpu": "cuda"})("gpu")
        Traceback (most recent call last):
        ...
        ValueError: must be a device; write 'cuda'
    """
    rule = f"must be {rule}{_or_none(optional)}"

    def check(value: object) -> object:
        if value is None and optional:
            return None
        line = str(value) if isinstance(value, PurePath) else value
        if not isinstance(line, str):
            raise ValueError(f"{rule}; this is a {type(value).__name__}")  # noqa: TRY004 - all checks raise one kind
        if line != line.strip() or not line.isprintable():
            raise ValueError(f"{rule}; remove the blanks at its ends and anything that cannot be printed")
        if not re.fullmatch(pattern, line):
            guess = nearest(line, (), also=also)
            raise ValueError(f"{rule}; write {guess!r}" if guess else rule)
        return str.__str__(line)

    return check


def flag(value: object) -> object:
    """Check a switch: True or False, numpy's too, but no numbers and no words."""
    kind = type(value)
    # numpy is not imported for this: its boolean is called bool_ before numpy 2, and bool since.
    if kind is bool or (kind.__module__ == "numpy" and kind.__name__ in {"bool", "bool_"}):
        return bool(value)
    raise ValueError("must be True or False")


def shown(value: object) -> str:
    """Write a wrong value, whatever it is, on one line of at most 60 characters; its type if it has no repr."""
    try:
        line = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - the repr of an unknown object may raise anything, and an error must not
        line = f"<{type(value).__name__}>"
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def nearest(value: object, names: Mapping[str, object] | tuple[str, ...], *, also: Mapping[str, str]) -> str | None:
    """Find the name that was probably meant, if any: FP16 and torch.float16 mean fp16.

    Example:
        >>> nearest("motoin", ("motion", "fps"), also={})
        'motion'
    """
    word = shown(value).strip("'\"").lower().removeprefix("torch.")
    near = difflib.get_close_matches(word, [*names, *also], n=1)
    return also.get(near[0], near[0]) if near else None


def _as_int(value: object) -> int | None:
    """Read a whole number, or None; True is not 1 here, since it is nearly always a slip."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    found = _as_float(value)
    return int(found) if found is not None and abs(found) <= _EXACT and found.is_integer() else None


def _as_float(value: object) -> float | None:
    """Read a number, or None; what is too large for a float counts as infinite."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _remedy(value: object) -> str:
    """Say what is wrong with a value that is no number, or not a whole one, in words that help to mend it."""
    found = _as_float(value)
    if found is None:
        words = {bool: "True and False are not numbers", str: "this is text: write the number without quotes"}
        words[type(None)] = "None is not allowed here: leave it out for the default"
        return words.get(type(value), f"this is a {type(value).__name__}")
    if not math.isfinite(found):
        return "this is not a finite number"
    if abs(found) > _EXACT:
        return "write the whole number in full, without a point or an exponent"
    return f"use {math.floor(found)} or {math.ceil(found)}"


def _or_none(optional: bool) -> str:  # noqa: FBT001 - one switch, and its name says it
    """End a rule that allows None."""
    return " or None" if optional else ""
