"""One run as plain JSON, one line of ``records.jsonl``: versioned, checked when built, never lost half-written."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from svdkit import __version__
from svdkit.clip.provenance import plain
from svdkit.disk import sync
from svdkit.errors import ClipError, SettingsError, SvdkitError, SvdkitWarning, shown
from svdkit.given import bare, user_path

__all__ = ["Record", "run_id", "write_record", "read_records", "SCHEMA_VERSION", "RECORD_STAGES", "BYTES"]

SCHEMA_VERSION = 2
RECORD_STAGES = (
    *("load", "image_encoder", "vae_encode", "encode", "unet", "scheduler", "denoise"),
    *("vae_decode", "postprocess", "decode", "export", "unattributed", "total"),
)
BYTES: tuple[str, ...] = ("peak_allocated_bytes", "peak_reserved_bytes", "process_bytes", "device_bytes")
_STATUSES, _METHODS = ("ok", "oom", "error", "timeout", "skipped"), ("measured", "composed")
_PHASES = ("cold", "warm_up", "timed")
_UTC = r"\d{4}-[01]\d-[0-3]\d[T ][0-2]\d:[0-5]\d(:[0-5]\d([.,]\d+)?)?(Z|[+-]00:?00)"
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
        given = {**vars(self)}
        artifacts = given.pop("artifacts")  # whose paths are refused rather than shortened
        vars(self).update(_clean(given, where="Record"))  # the dataclass is frozen for others
        kinds = {item.name: str(item.type).partition("[")[0] for item in fields(self)}  # "dict" of "dict[str, Any]"
        found = {name: type(value).__name__ for name, value in vars(self).items() if (name, value) != ("error", None)}
        problems = [f"{name} is a {kind}; give a {kinds[name]}" for name, kind in found.items() if kind != kinds[name]]
        if problems := problems or [*_problems(self)]:
            raise SettingsError.of("Record", problems)
        vars(self).update(artifacts=dict(artifacts))

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
        return [
            [value for value, process in zip(seconds, names, strict=True) if process == name]
            for name in dict.fromkeys(names)
        ]

    @property
    def peaks(self) -> dict[str, int | None]:
        """The run's bytes under their three names: those of "total", else the largest of any stage."""
        stages = [self.memory["total"]] if "total" in self.memory else self.memory.values()
        return {name: max((s[name] or 0 for s in stages if s.get(name) is not None), default=None) for name in BYTES}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, a copy."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """Build from ``to_dict()`` of this version or any older one; SettingsError says what cannot be read."""
        if not isinstance(values, Mapping):
            raise SettingsError(f"Record: a {type(values).__name__} is no record; give what to_dict() returned")
        values = _upgrade(values)
        needed = [item.name for item in fields(cls) if item.default is item.default_factory is MISSING]
        problems = [f"it lacks {name}" for name in needed if name not in values]
        problems += [f"{bare(name)} is not a name here" for name in values if name not in cls.__dataclass_fields__]
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
        size = stream.tell()
        stream.seek(max(0, size - 1))  # one byte: a sweep appends thousands of lines
        if stream.read() not in (b"", b"\n"):
            stream.seek(0)
            last = stream.read().rpartition(b"\n")[2]
            stream.truncate(size if _is_json(last) else size - len(last))
            stream.write(b"\n" if _is_json(last) else b"")  # whole but for its end
        stream.write(f"{json.dumps(record.to_dict(), allow_nan=False)}\n".encode())
        stream.flush()
        sync(stream.fileno())


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
        *lines, last = file.read_bytes().split(b"\n")
    except FileNotFoundError as error:
        raise SvdkitError(f"there is no {error.filename}; {advice}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SvdkitError(f"{shown(path)} cannot be read ({reason}); {advice}") from error
    if last and not _is_json(last):
        torn = f"{file}: line {len(lines) + 1} is torn, as a crash leaves it, and is left out"
        warnings.warn(f"{torn}; its run has to be made again", SvdkitWarning, stacklevel=2)
        last = b""
    numbered = enumerate([*lines, last], start=1)
    return _joined(_read_line(line, where=f"{file}, line {number}") for number, line in numbered if line.strip())


def _joined(records: Iterable[Record]) -> list[Record]:
    """Make one record of those that say of one run on one machine what different processes measured."""
    found: dict[object, Record] = {}
    for number, record in enumerate(records):
        key = (record.id, record.method, json.dumps(record.machine, sort_keys=True))
        mate = found.get(key)
        known = set(mate.processes) if mate else set()
        if record.status != "ok" or not record.processes or known & set(record.processes):
            found[number] = record
        else:
            parts = ("samples", "order", "processes", "memory", "cost") if mate else ()
            found[key] = replace(
                mate or record, **{name: _both(getattr(mate, name), getattr(record, name)) for name in parts}
            )
    return list(found.values())


def _both(one: Any, other: Any) -> Any:
    """Lists one after the other, dicts name by name; of all else the first."""
    if isinstance(one, list) and isinstance(other, list):
        return [*one, *other]
    if isinstance(one, dict) and isinstance(other, dict):
        return {**other, **{name: _both(value, other.get(name)) for name, value in one.items()}}
    return one


def check_records(given: Any, *, who: str) -> list[Record]:
    """Give records as a list; a SettingsError when anything else is given, or is among them."""
    try:
        found: list[Any] = [] if given is None else [given] if isinstance(given, str) else list(given)
    except Exception:  # noqa: BLE001 - an unknown object's, which may be any
        found = [given]
    for item in found:
        if not isinstance(item, Record):
            raise SettingsError(f"{who}: {shown(item)} is no record; give a list of them, as read_records returns it")
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
        raise SettingsError(f"{text}; numbers are Python's own and finite (None for others)") from error


def _upgrade(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Turn a record of an older version into one of this version, step by step."""
    version = values.get("schema_version")
    if type(version) is not int:
        raise SettingsError(f"Record: schema_version is {shown(version)}; every record has one, a whole number")
    if version > SCHEMA_VERSION:
        known = f"{SCHEMA_VERSION}, the last known; update svdkit: pip install -U svdkit"
        raise SettingsError(f"Record: schema version {version} is newer than {known}")
    for step in range(version, SCHEMA_VERSION):
        if step not in _UPGRADES:
            raise SettingsError(f"Record: schema version {version} was never written by svdkit; make the record again")
        values = _UPGRADES[step]({**values, "schema_version": step + 1})
    return values


def _problems(record: Record) -> Iterator[str]:
    if not re.fullmatch("[0-9a-f]{16}", record.id):
        yield f"id is {shown(record.id)}; run_id(...) gives it: 16 hexadecimal digits"
    if record.status not in _STATUSES:
        yield f"status is {shown(record.status)}; it is one of {', '.join(_STATUSES)}"
    if record.method not in _METHODS:
        yield f"method is {shown(record.method)}; it is one of {', '.join(_METHODS)}"
    name = record.model.get("name")
    if not (name and isinstance(name, str)) or record.model.get("weights") not in ("trained", "random"):
        yield f"model is {shown(record.model)}; it needs a name, and weights that are 'trained' or 'random'"
    if not re.fullmatch(_UTC, record.started_at):
        yield f"started_at is {shown(record.started_at)}; give ISO 8601 in UTC: datetime.now(timezone.utc).isoformat()"
    if record.schema_version != SCHEMA_VERSION:
        yield f"schema_version is {record.schema_version}; build version {SCHEMA_VERSION}; from_dict reads older ones"
    reason = {name: type(text) for name, text in (record.error or {}).items()}
    if reason != ({} if record.status == "ok" else {"type": str, "message": str}):
        yield f"error is {shown(record.error)} with status {record.status!r}; all but 'ok' need type and message"
    if not _is_list(record.order, int) or min(record.order, default=0) < 0:
        yield f"order is {shown(record.order)}; give positions, whole numbers from 0"
    if not _is_list(record.processes, str):
        yield f"processes is {shown(record.processes)}; give names, texts"
    yield from _value_problems(record)
    yield from _stage_problems(record)


def _is_list(value: object, *kinds: type) -> bool:
    return isinstance(value, list) and {*map(type, value)} <= {*kinds}


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
    if not _is_list(shares := record.cost.get("throttled_fraction", []), int, float):
        yield f"cost['throttled_fraction'] is {shown(shares)}; give a list of numbers, one a timed clip"
    paths: Iterable[Any] = record.artifacts.values()
    for path in paths:
        if not isinstance(path, str) or re.search(r"^[/~]|\\|:|(^|/)\.\.(/|$)|^$", path):
            yield f"artifacts has {shown(path)}; give paths relative to the results folder, with /"


def _stage_problems(record: Record) -> Iterator[str]:
    for phase, stages in record.samples.items():
        if phase not in _PHASES or not isinstance(stages, dict):
            yield f"samples has {shown(phase)}; it holds {', '.join(_PHASES)}, each a dict of stages"
            continue
        for stage, seconds in stages.items():
            where = f"samples[{phase!r}][{shown(stage)}]"
            if stage not in RECORD_STAGES:
                yield f"{where} is unknown; the stages are {', '.join(RECORD_STAGES)}"
            elif not _is_list(seconds, int, float) or max(seconds, default=0) >= 1e9:
                yield f"{where} is {shown(seconds)}; give a list of seconds"
            elif stage != "unattributed" and min(seconds, default=0) < 0:
                yield f"{where} is {shown(seconds)}; seconds are not negative"
    memory: dict[str, Any] = record.memory
    for stage, sizes in memory.items():
        known = sizes if isinstance(sizes, dict) else {"": sizes}
        counts = [0 if size is None else size for size in known.values()]
        if stage not in RECORD_STAGES:
            yield f"memory[{shown(stage)}] is unknown; the stages are {', '.join(RECORD_STAGES)}"
        elif not known.keys() <= {*BYTES} or not _is_list(counts, int) or min(counts, default=0) < 0:
            yield f"memory[{stage!r}] is {shown(sizes)}; it holds {', '.join(BYTES)}: whole bytes from 0, or None"
