"""One run as plain JSON, one line of ``records.jsonl``: versioned, checked when built, never lost half-written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO

from svdkit import __version__
from svdkit.clip.provenance import plain
from svdkit.disk import sync
from svdkit.errors import ClipError, SettingsError, SvdkitError, SvdkitWarning, shown
from svdkit.given import user_path

__all__ = ["Record", "run_id", "write_record", "read_records", "SCHEMA_VERSION", "RECORD_STAGES", "BYTES"]

SCHEMA_VERSION = 2
RECORD_STAGES = (
    *("load", "image_encoder", "vae_encode", "encode", "unet", "scheduler", "denoise"),
    *("vae_decode", "postprocess", "decode", "export", "unattributed", "total"),
)
BYTES = ("peak_allocated_bytes", "peak_reserved_bytes", "process_bytes", "device_bytes")
_STATUSES, _METHODS = ("ok", "oom", "error", "timeout", "skipped"), ("measured", "composed")
_PHASES = ("cold", "warm_up", "timed")
# Differences of no weight for a clip's time and memory: where it ran from, main memory, what shows, fetches or writes
# clips, and svdkit itself (it is what is compared).
_UNRELATED = {"notebook", "ram_bytes", "svdkit", "ipywidgets", "mediapy", "huggingface-hub", "torchvision"}
_UNRELATED |= {"imageio-ffmpeg", "ffmpeg"}

# Version -> what turns a record of it into one of the next. A new SCHEMA_VERSION adds its line here and a golden file
# to tests/golden; none is ever taken away, so that old records stay readable.
_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: lambda values: {**values, "processes": []}}


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one run asked for, what it cost and how it ended.

    The values are copied. Absolute paths in them shrink to their last name and tokens are blanked, as in a clip's
    provenance. A run that failed is a record too, with its reason.

    Attributes:
        id: What ``run_id`` gives: 16 hexadecimal digits.
        status: One of ok, oom, error, timeout, skipped; all but "ok" need an ``error``.
        load: The resolved ``LoadSettings.to_dict()``.
        clip: The resolved ``ClipSettings.to_dict()``, as far as it is known.
        image: ``Frame.to_dict()``, or empty.
        model: "name", "revision" and "weights" ("trained" or "random").
        environment: What ``svdkit.environment.summary()`` gives.
        method: "measured" whole, or "composed" from stages that were measured apart.
        samples: Phase ("cold", "warm_up", "timed") -> stage (one of ``STAGES``) -> seconds, one number a repeat.
        order: Position of each timed repeat among all that its process ran, from 0.
        processes: Name of the process of each timed repeat; empty where it is not known.
        memory: Stage -> "peak_allocated_bytes", "peak_reserved_bytes", "process_bytes", "device_bytes" (what all
            processes take of the GPU, where a process cannot be told apart): whole bytes, or None.
        quality: Name -> number; only finite ones, since JSON has no others.
        forecast: What was expected before the run.
        cost: Money, energy and what else it took.
        artifacts: Name -> path relative to the results folder, with "/".
        error: "type" and "message" of what ended the run; None for "ok".
        started_at: ISO 8601 in UTC, such as "2026-01-31T12:00:00+00:00".
        command: What to type to run it again.
        schema_version: Of this form of a record.

    Raises:
        SettingsError: Values that are not allowed; all are listed.

    Example:
        >>> made = Record(id="0" * 16, status="ok", load={}, clip={}, image={}, environment={}, samples={},
        ...     model={"name": "micro", "weights": "trained"}, started_at="2026-01-31T12:00:00+00:00")
        >>> Record.from_dict(made.to_dict()) == made
        True
    """

    id: str
    status: str
    load: dict[str, Any]
    clip: dict[str, Any]
    image: dict[str, Any]
    model: dict[str, Any]
    environment: dict[str, Any]
    method: str = "measured"
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)
    memory: dict[str, dict[str, int | None]] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    forecast: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    error: dict[str, str] | None = None
    started_at: str
    command: str = ""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.name != "artifacts":  # whose paths are refused rather than shortened
                object.__setattr__(self, item.name, _clean(getattr(self, item.name), where=item.name))
        if problems := _wrong_types(self) or list(_problems(self)):
            raise SettingsError.of("Record", problems)
        object.__setattr__(self, "artifacts", dict(self.artifacts))

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what a run does, flat, without the model's name and weights; the photo as "image"."""
        load = {name: value for name, value in self.load.items() if name not in ("model", "weights")}
        photo = self.image.get("source") or (self.image.get("sha256") or "")[:12] or None
        return {**load, **self.clip, "image": photo}

    @property
    def machine(self) -> dict[str, Any]:
        """The hardware and the versions that a run's time and memory depend on."""
        return {name: value for name, value in self.environment.items() if name not in _UNRELATED}

    @property
    def timed(self) -> list[list[float]]:
        """Seconds of the timed clips that ended well, a list a process: their "total", else the sum of their stages."""
        timed = self.samples.get("timed", {}) if self.status == "ok" else {}
        stages = [seconds for stage, seconds in timed.items() if seconds and stage not in ("load", "total")]
        seconds = timed.get("total") or [sum(clip) for clip in zip(*stages, strict=False)]
        names = self.processes if len(self.processes) == len(seconds) else [""] * len(seconds)
        pairs = list(zip(seconds, names, strict=True))
        return [[value for value, process in pairs if process == name] for name in dict.fromkeys(names)]

    @property
    def peaks(self) -> dict[str, int | None]:
        """The run's bytes under their three names: those of "total", else the largest of any stage."""
        stages = [self.memory["total"]] if "total" in self.memory else list(self.memory.values())
        sizes = {name: [size for stage in stages if (size := stage.get(name)) is not None] for name in BYTES}
        return {name: max(found, default=None) for name, found in sizes.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, a copy."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """Build from ``to_dict()`` of this version or any older one; SettingsError says what cannot be read."""
        if not isinstance(values, Mapping):
            raise SettingsError(f"Record: a {type(values).__name__} is no record; give what to_dict() returned")
        known = {item.name: item.default is MISSING and item.default_factory is MISSING for item in fields(cls)}
        values = _upgrade(dict(values))
        problems = [f"it lacks {name}" for name, needed in known.items() if needed and name not in values]
        unknown: list[Any] = [name for name in values if name not in known]
        problems += [f"{name[:60] if isinstance(name, str) else shown(name)} is not a name here" for name in unknown]
        if problems:
            raise SettingsError.of("Record", problems)
        return cls(**values)


def run_id(
    *,
    load: Mapping[str, Any],
    clip: Mapping[str, Any],
    image_sha256: str | None,
    model: Mapping[str, Any],
    code_version: str = __version__,
) -> str:
    """Name a run by all that decides what it does: 16 hexadecimal digits, the same on every machine.

    Folders count by their last name only, as they stand in a record.

    Example:
        >>> run_id(load={"dtype": "fp32"}, clip={}, image_sha256=None, model={"name": "micro"}, code_version="1")
        '920794bea681de21'
    """
    parts = {"load": load, "clip": clip, "image": image_sha256, "model": model, "code": code_version}
    text = json.dumps(_clean(parts, where="run_id"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def now() -> str:
    """Give the time as records have it: ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def failure_of(error: BaseException) -> dict[str, Any]:
    """Give what a record says of an error: "oom" for one that means so, else "error"."""
    from svdkit.pipeline.memory import is_out_of_memory

    reason = {"type": type(error).__name__, "message": str(error)[:2000] or "no message"}
    return {"status": "oom" if is_out_of_memory(error) else "error", "error": reason}


def write_record(path: str | Path, record: Record) -> None:
    """Append a record as one line, and return when it is on disk; a line torn by an earlier crash is taken away.

    Args:
        path: A ``.jsonl`` file, or a results folder, whose ``records.jsonl`` it is then; made when missing. One
            process alone may write to it.
        record: What to append.

    Example:
        >>> write_record("bench_results/mine", record)
    """
    file = records_file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab+") as stream:
        start, tail = _last_line(stream)
        if tail and not _is_json(tail):  # torn; else complete but for its end
            stream.truncate(start)
        gap = "\n" if tail and _is_json(tail) else ""
        stream.write(f"{gap}{json.dumps(record.to_dict(), allow_nan=False)}\n".encode())
        stream.flush()
        sync(stream.fileno())


def _last_line(stream: BinaryIO) -> tuple[int, bytes]:
    """Where the last line begins, and what stands there; read from the end, since a sweep appends thousands."""
    start, tail = stream.seek(0, os.SEEK_END), b""
    while start and b"\n" not in tail:
        size = min(start, 65536)
        start = stream.seek(start - size)
        tail = stream.read(size) + tail
    kept = tail.rfind(b"\n") + 1
    return start + kept, tail[kept:]


def read_records(path: str | Path) -> list[Record]:
    """Read the records of a ``.jsonl`` file or of a results folder, in the order in which they were written.

    What several processes of one machine measured of one run is one record. A last line that a crash has torn is left
    out with an ``SvdkitWarning``.

    Raises:
        SvdkitError: There is no such file, or another line is broken; the line is named.

    Example:
        >>> records = read_records("bench_results/mine")
    """
    advice = "give a results folder with records.jsonl in it, or a .jsonl file"
    try:
        file = records_file(path)
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError as error:
        raise SvdkitError(f"there is no {error.filename}; {advice}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SvdkitError(f"{shown(path)} cannot be read ({reason}); {advice}") from error
    records = []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and line and not _is_json(line):
            text = f"{file}: line {number} is torn, as a crash leaves it, and is left out; its run has to be made again"
            warnings.warn(text, SvdkitWarning, stacklevel=2)
        elif line.strip():
            records.append(_read_line(line, where=f"{file}, line {number}"))
    return _joined(records)


def _joined(records: Iterable[Record]) -> list[Record]:
    """Make one record of those that say of one run on one machine what different processes measured."""
    found: dict[object, Record] = {}
    for number, record in enumerate(records):
        key: object = (record.id, record.method, json.dumps(record.machine, sort_keys=True))
        if record.status != "ok" or not record.processes:
            key = number
        elif key in found and not set(found[key].processes).isdisjoint(record.processes):
            key = number  # measured again by the same process
        found[key] = _join(found[key], record) if key in found else record
    return list(found.values())


def _join(first: Record, second: Record) -> Record:
    samples = {
        phase: {stage: [*seconds, *second.samples.get(phase, {}).get(stage, [])] for stage, seconds in stages.items()}
        for phase, stages in first.samples.items()
    }
    both = ((name, first.cost[name], second.cost[name]) for name in first.cost.keys() & second.cost.keys())
    lists = {name: [*one, *other] for name, one, other in both if isinstance(one, list) and isinstance(other, list)}
    order, processes = [*first.order, *second.order], [*first.processes, *second.processes]
    memory, cost = first.memory or second.memory, {**second.cost, **first.cost, **lists}
    return replace(first, samples=samples, order=order, processes=processes, memory=memory, cost=cost)


def check_records(given: object, *, who: str) -> list[Record]:
    """Give records as a list; a SettingsError when anything else is given, or is among them."""
    found: list[Record] = []
    given = () if given is None else given
    try:
        items = iter([given] if isinstance(given, str | bytes | Record) else given)  # type: ignore[call-overload]
    except Exception:  # noqa: BLE001 - an unknown object's, which may be any
        items = iter([given])
    for item in items:
        if not isinstance(item, Record):
            raise SettingsError(f"{who}: {shown(item)} is no record; give a list of them, as read_records returns it")
        found.append(item)
    return found


def _read_line(line: bytes, *, where: str) -> Record:
    try:
        return Record.from_dict(json.loads(line))
    except SettingsError as error:
        raise SvdkitError(f"{where}: {error}") from error
    except (ValueError, RecursionError) as error:
        advice = "restore the file, or take this line away"
        raise SvdkitError(f"{where}: this is not JSON ({str(error)[:80]}); {advice}") from error


def records_file(path: str | Path) -> Path:
    """Give the file of records: the path itself, or ``records.jsonl`` in the folder that it is."""
    if not isinstance(path, str | Path):
        raise SvdkitError(f"{shown(path)} is no path of records; give a results folder, or a .jsonl file")
    path = user_path(path)
    return path if path.suffix == ".jsonl" or path.is_file() else path / "records.jsonl"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _clean(value: Any, *, where: str) -> Any:
    try:
        return plain(value, where=where)
    except ClipError as error:
        text = str(error).removeprefix("provenance ")
        raise SettingsError(f"Record: {text}; numbers are Python's own and finite (None for others)") from error


def _upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """Turn a record of an older version into one of this version, step by step."""
    given = version = values.get("schema_version")
    if type(version) is not int:
        raise SettingsError(f"Record: schema_version is {shown(version)}; every record has one, a whole number")
    if version > SCHEMA_VERSION:
        advice = "update svdkit: pip install -U svdkit"
        raise SettingsError(
            f"Record: schema version {version} is newer than {SCHEMA_VERSION}, the last known; {advice}"
        )
    while version < SCHEMA_VERSION:
        if version not in _UPGRADES:
            raise SettingsError(f"Record: schema version {given} was never written by svdkit; make the record again")
        values = _UPGRADES[version](values)
        version += 1
        values["schema_version"] = version
    return values


def _wrong_types(record: Record) -> list[str]:
    kinds = {item.name: str(item.type).partition("[")[0] for item in fields(record)}  # "dict" of "dict[str, Any]"
    found = {name: type(getattr(record, name)).__name__ for name in kinds if name not in ("error", "schema_version")}
    return [f"{name} is a {kind}; give a {kinds[name]}" for name, kind in found.items() if kind != kinds[name]]


def _problems(record: Record) -> Iterator[str]:
    if not re.fullmatch("[0-9a-f]{16}", record.id):
        yield f"id is {shown(record.id)}; run_id(...) gives it: 16 hexadecimal digits"
    for name, known in (("status", _STATUSES), ("method", _METHODS)):
        if getattr(record, name) not in known:
            yield f"{name} is {shown(getattr(record, name))}; it is one of {', '.join(known)}"
    model, weights = record.model.get("name"), record.model.get("weights")
    if not (model and isinstance(model, str)) or weights not in ("trained", "random"):
        yield f"model is {shown(record.model)}; it needs a name, and weights that are 'trained' or 'random'"
    if not _is_utc(record.started_at):
        yield f"started_at is {shown(record.started_at)}; give ISO 8601 in UTC: datetime.now(timezone.utc).isoformat()"
    if record.schema_version != SCHEMA_VERSION:
        yield f"schema_version is {record.schema_version}; build version {SCHEMA_VERSION}; from_dict reads older ones"
    if not (record.error is None if record.status == "ok" else _is_reason(record.error)):
        yield f"error is {shown(record.error)} with status {record.status!r}; all but 'ok' need type and message"
    yield from _value_problems(record)
    yield from _sample_problems(record.samples)
    yield from _repeat_problems(record)
    yield from _memory_problems(record.memory)
    outside = [path for path in record.artifacts.values() if not _is_inside(path)]
    if outside:
        yield f"artifacts has {shown(outside)}; give paths relative to the results folder, with /"


def _value_problems(record: Record) -> Iterator[str]:
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


def _repeat_problems(record: Record) -> Iterator[str]:
    if not all(type(position) is int and position >= 0 for position in record.order):
        yield f"order is {shown(record.order)}; give positions, whole numbers from 0"
    if not all(isinstance(name, str) for name in record.processes):
        yield f"processes is {shown(record.processes)}; give names, texts"
    shares = record.cost.get("throttled_fraction", [])
    if not isinstance(shares, list) or not all(type(share) in (int, float) for share in shares):
        yield f"cost['throttled_fraction'] is {shown(shares)}; give a list of numbers, one a timed clip"


def _sample_problems(samples: Mapping[str, Any]) -> Iterator[str]:
    for phase, stages in samples.items():
        if phase not in _PHASES or not isinstance(stages, dict):
            yield f"samples has {shown(phase)}; it holds {', '.join(_PHASES)}, each a dict of stages"
            continue
        for stage, seconds in stages.items():
            where = f"samples[{phase!r}][{shown(stage)}]"
            if stage not in RECORD_STAGES:
                yield f"{where} is unknown; the stages are {', '.join(RECORD_STAGES)}"
            elif not isinstance(seconds, list) or not all(type(s) in (int, float) and s < 1e9 for s in seconds):
                yield f"{where} is {shown(seconds)}; give a list of seconds"
            elif stage != "unattributed" and any(s < 0 for s in seconds):
                yield f"{where} is {shown(seconds)}; seconds are not negative"


def _memory_problems(memory: Mapping[str, Any]) -> Iterator[str]:
    for stage, sizes in memory.items():
        if stage not in RECORD_STAGES:
            yield f"memory[{shown(stage)}] is unknown; the stages are {', '.join(RECORD_STAGES)}"
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
