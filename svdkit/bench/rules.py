"""What may stand in a record: its vocabulary, and a sentence for each thing that is wrong with one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from svdkit.errors import shown

SCHEMA_VERSION = 1
STATUSES = ("ok", "oom", "error", "timeout", "skipped")
METHODS = ("measured", "composed")
STAGES = (
    *("load", "image_encoder", "vae_encode", "encode", "unet", "scheduler", "denoise"),
    *("vae_decode", "postprocess", "decode", "export", "unattributed", "total"),
)
PHASES = ("cold", "warm_up", "timed")
BYTES = ("peak_allocated_bytes", "peak_reserved_bytes", "process_bytes")

_KINDS: dict[str, type] = {
    **dict.fromkeys(("id", "status", "method", "started_at", "command"), str),
    **dict.fromkeys(("load", "clip", "image", "model", "environment", "samples", "memory"), dict),
    **dict.fromkeys(("quality", "forecast", "cost", "artifacts"), dict),
    "order": list,
}


def problems_of(record: Any) -> list[str]:
    """List what is wrong with a ``Record``, one sentence each: its types, or if they are right its values."""
    given = ((name, kind, getattr(record, name)) for name, kind in _KINDS.items())
    wrong = [
        f"{name} is a {type(v).__name__}; give a {kind.__name__}" for name, kind, v in given if type(v) is not kind
    ]
    return wrong or list(_problems(record))


def _problems(record: Any) -> Iterator[str]:
    if not re.fullmatch("[0-9a-f]{16}", record.id):
        yield f"id is {shown(record.id)}; run_id(...) gives it: 16 hexadecimal digits"
    for name, known in (("status", STATUSES), ("method", METHODS)):
        if getattr(record, name) not in known:
            yield f"{name} is {shown(getattr(record, name))}; it is one of {', '.join(known)}"
    name, weights = record.model.get("name"), record.model.get("weights")
    if not (name and isinstance(name, str)) or weights not in ("trained", "random"):
        yield f"model is {shown(record.model)}; it needs a name, and weights that are 'trained' or 'random'"
    if not _is_utc(record.started_at):
        yield f"started_at is {shown(record.started_at)}; give ISO 8601 in UTC: datetime.now(timezone.utc).isoformat()"
    if record.schema_version != SCHEMA_VERSION:
        yield f"schema_version is {record.schema_version}; build version {SCHEMA_VERSION}; from_dict reads older ones"
    if not (record.error is None if record.status == "ok" else _is_reason(record.error)):
        yield f"error is {shown(record.error)} with status {record.status!r}; all but 'ok' need type and message"
    yield from _value_problems(record)
    yield from _sample_problems(record.samples)
    if not all(type(position) is int and position >= 0 for position in record.order):
        yield f"order is {shown(record.order)}; give positions, whole numbers from 0"
    yield from _memory_problems(record.memory)
    outside = [path for path in record.artifacts.values() if not _is_inside(path)]
    if outside:
        yield f"artifacts has {shown(outside)}; give paths relative to the results folder, with /"


def _value_problems(record: Any) -> Iterator[str]:
    """Judge the values that tables and figures read, whatever their names: numbers, or else plain texts.

    What a card said after every timed run is a list in ``cost``: clocks, temperatures, reasons for throttling.
    """
    for part in ("load", "clip", "environment", "quality", "forecast", "cost"):
        for name, value in getattr(record, part).items():
            numeric = part in {"clip", "quality"} or name.endswith(("_bytes", "_count", "money", "seconds", "price"))
            a_run_each = part == "cost" and not numeric and isinstance(value, list)
            if not a_run_each and not isinstance(value, int | float | None if numeric else int | float | str | None):
                kind = "a number" if numeric else "a number or a text"
                yield f"{part}[{shown(name)}] is {shown(value)}; give {kind}, or None"
    for name in ("source", "sha256"):
        if not isinstance(record.image.get(name), str | None):
            yield f"image[{name!r}] is {shown(record.image[name])}; give a text, or None"


def _sample_problems(samples: Mapping[str, Any]) -> Iterator[str]:
    for phase, stages in samples.items():
        if phase not in PHASES or not isinstance(stages, dict):
            yield f"samples has {shown(phase)}; it holds {', '.join(PHASES)}, each a dict of stages"
            continue
        for stage, seconds in stages.items():
            where = f"samples[{phase!r}][{shown(stage)}]"
            if stage not in STAGES:
                yield f"{where} is unknown; the stages are {', '.join(STAGES)}"
            elif not isinstance(seconds, list) or not all(type(s) in (int, float) and s < 1e9 for s in seconds):
                yield f"{where} is {shown(seconds)}; give a list of seconds"
            elif stage != "unattributed" and any(s < 0 for s in seconds):
                yield f"{where} is {shown(seconds)}; seconds are not negative"


def _memory_problems(memory: Mapping[str, Any]) -> Iterator[str]:
    for stage, sizes in memory.items():
        if stage not in STAGES:
            yield f"memory[{shown(stage)}] is unknown; the stages are {', '.join(STAGES)}"
        elif not isinstance(sizes, dict) or not sizes.keys() <= set(BYTES):
            yield f"memory[{stage!r}] is {shown(sizes)}; it holds {', '.join(BYTES)}"
        elif not all(size is None or (type(size) is int and size >= 0) for size in sizes.values()):
            yield f"memory[{stage!r}] is {shown(sizes)}; give whole bytes from 0, or None"


def _is_reason(error: object) -> bool:
    texts = isinstance(error, dict) and all(isinstance(value, str) for value in error.values())
    return texts and set(error) == {"type", "message"}  # type: ignore[call-overload]  # a dict, see above


def _is_inside(path: object) -> bool:
    return isinstance(path, str) and not re.search(r"^[/~]|\\|:|(^|/)\.\.(/|$)|^$", path)


def _is_utc(text: str) -> bool:
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).utcoffset() == timedelta(0)
    except ValueError:
        return False
