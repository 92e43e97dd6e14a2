"""One run as plain JSON, one line of ``records.jsonl``: versioned, checked when built, never lost half-written."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

from svdkit import __version__
from svdkit.bench.rules import BYTES, METHODS, PHASES, SCHEMA_VERSION, STAGES, STATUSES, problems_of
from svdkit.clip.provenance import plain
from svdkit.disk import sync
from svdkit.errors import ClipError, SettingsError, SvdkitError, SvdkitWarning, shown
from svdkit.given import user_path

__all__ = ["Record", "run_id", "write_record", "read_records"]
__all__ += ["SCHEMA_VERSION", "STATUSES", "METHODS", "STAGES", "PHASES", "BYTES"]

# Version -> what turns a record of it into one of the next. A new SCHEMA_VERSION adds its line here and a golden file
# to tests/golden; none is ever taken away, so that old records stay readable.
_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one run asked for, what it cost and how it ended.

    The values are copied. Absolute paths in them shrink to their last name and tokens are blanked, as in a clip's
    provenance. A run that failed is a record too, with its reason.

    Attributes:
        id: What ``run_id`` gives: 16 hexadecimal digits.
        status: One of ``STATUSES``; all but "ok" need an ``error``.
        load: The resolved ``LoadSettings.to_dict()``.
        clip: The resolved ``ClipSettings.to_dict()``, as far as it is known.
        image: ``Frame.to_dict()``, or empty.
        model: "name", "revision" and "weights" ("trained" or "random").
        environment: What ``svdkit.environment.summary()`` gives.
        method: "measured" whole, or "composed" from stages that were measured apart.
        samples: Phase ("cold", "warm_up", "timed") -> stage (one of ``STAGES``) -> seconds, one number a repeat.
        order: Position in the whole run of each timed repeat, from 0.
        memory: Stage -> "peak_allocated_bytes", "peak_reserved_bytes", "process_bytes": whole bytes, or None.
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
        if problems := problems_of(self):
            raise SettingsError.of("Record", problems)
        object.__setattr__(self, "artifacts", dict(self.artifacts))

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


def write_record(path: str | Path, record: Record) -> None:
    """Append a record as one line, and return when it is on disk; a line torn by an earlier crash is taken away.

    Args:
        path: A ``.jsonl`` file, or a results folder, whose ``records.jsonl`` it is then; made when missing. One
            process alone may write to it.
        record: What to append.

    Example:
        >>> write_record("bench_results/mine", record)  # doctest: +SKIP
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

    A last line that a crash has torn is left out with an ``SvdkitWarning``.

    Raises:
        SvdkitError: There is no such file, or another line is broken; the line is named.

    Example:
        >>> records = read_records("bench_results/mine")  # doctest: +SKIP
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
    return records


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
