"""What users give, each kind read in one way: numbers, paths, the text of files and options.

A reader gives plain Python, or raises ValueError with what is wrong.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Iterable
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from svdkit.errors import shown

_MOST_VALUES = 200_000  # in a file, aliases counted as often as they stand for something

# What is no text without quotes, by the core schema of https://yaml.org/spec/1.2.2/#103-core-schema. PyYAML follows
# version 1.1, where 1e-2 is a text, 1:30 is 90, 010 is 8 and 2020-13-45 is an error.
_SCALARS = {
    "null": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


def finite(value: object) -> float:
    """Read any real number that is finite; True is not 1 here, since it is nearly always a slip."""
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        words = {
            bool: "True and False are not numbers",
            type(None): "None is not allowed here: leave it out for the default",
        }
        if isinstance(value, str) and re.fullmatch(_SCALARS["float"], value):
            words[type(value)] = "this is text: write the number without quotes"
        raise ValueError(words.get(type(value), f"this is a {type(value).__name__}"))  # noqa: TRY004 - one kind
    try:
        found = float(value)
    except (OverflowError, ValueError):  # ValueError: Decimal's signalling NaN
        found = math.inf
    if not math.isfinite(found):
        raise ValueError("this is not a finite number")
    return found + 0.0  # -0.0 becomes 0.0, so that equal settings have equal JSON


def whole(value: object) -> int:
    """Read any whole number, 7.0 too."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    found = finite(value)
    if abs(found) > 2**53:  # there a float no longer stands for one whole number
        raise ValueError("write the whole number in full, without a point or an exponent")
    if not found.is_integer():
        raise ValueError(f"use {math.floor(found)} or {math.ceil(found)}")
    return int(found)


def bare(name: object) -> str:
    """Write a name, whatever it is, on one line, as ``shown`` does but without quotes."""
    return shown(name).strip("'\"")


def user_path(path: str | os.PathLike[str]) -> Path:
    """Read a path as a shell does: ``~`` is the user's home."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - never raises, as Path.expanduser does


def read_values(text: str, *, is_json: bool = False) -> tuple[Any, list[str]]:
    """Read JSON as JSON, and all else as YAML 1.2; also a sentence for each name that is given twice or is no text."""
    problems: list[str] = []
    once = functools.partial(_once, problems=problems)
    try:
        try:
            found = json.loads(text, object_pairs_hook=once, parse_constant=_refuse, parse_int=_integer)
        except ValueError:
            if is_json:
                raise
            problems.clear()
            found = _read_yaml(text, once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found, list(dict.fromkeys(problems))


def _read_yaml(text: str, once: Any) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Plain values only, by the rules of ``_SCALARS``; no dates, no merging of mappings."""

        yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}
        yaml_constructors: ClassVar[dict[Any, Any]] = {
            tag: made
            for tag, made in yaml.SafeLoader.yaml_constructors.items()
            if tag is None or tag.rpartition(":")[2] in {*_SCALARS, "str", "seq", "map"}
        }

        def fetch_flow_collection_start(self, kind: Any) -> None:
            if self.flow_level > 100:  # each level makes each character slower: thousands are a hang
                raise RecursionError
            super().fetch_flow_collection_start(kind)

    for name, pattern in _SCALARS.items():
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(rf"(?:{pattern})\Z"), None)
    Loader.add_constructor("tag:yaml.org,2002:int", lambda self, node: _integer(self.construct_scalar(node)))
    Loader.add_constructor("tag:yaml.org,2002:map", lambda self, node: once(self.construct_pairs(node, deep=True)))
    try:
        found = Loader(text).get_single_data()
    except (yaml.YAMLError, LookupError, AttributeError) as error:  # the others for what is no !!bool or !!timestamp
        raise ValueError(" ".join(str(error).split())) from None
    left, values = _MOST_VALUES, [found]
    while values:
        value = values.pop()
        inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        left -= len(inner)
        if left < 0:
            raise ValueError(f"it stands for more than {_MOST_VALUES:,} values; write fewer aliases")
        values += inner
    return found


def _once(pairs: Iterable[tuple[Any, Any]], *, problems: list[str]) -> dict[str, Any]:
    """Make a dict of what a file pairs; of names given twice the first counts."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if not isinstance(name, str):
            problems.append(f"{shown(name)} is not a name: names are text")
        elif name in found:
            problems.append(f"{bare(name)} is given twice; leave one out")
        else:
            found[name] = value
    return found


def _integer(text: str) -> int:
    if len(text) > 400:  # longer than any number here; Python itself stops at 4,300 digits
        raise ValueError(f"a number of {len(text):,} digits is too long")
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")
