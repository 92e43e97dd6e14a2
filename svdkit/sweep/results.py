"""How a run becomes a row, and the results folder: one writer, runs that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from svdkit.bench.protocol import process_name
from svdkit.bench.record import Record, failure_of, now, read_records, write_record
from svdkit.disk import is_unknown_here, number_of, refusal, sync_folder, write_synced, write_whole
from svdkit.environment import machine
from svdkit.errors import SettingsError, SvdkitError, SvdkitWarning

if TYPE_CHECKING:
    from typing_extensions import Self

    from svdkit.clip import Clip


Task = Mapping[str, Any]
"""A run as plain JSON: "id", "load", "clip", "image" (``Frame.to_dict()``), "model", "forecast", and "options"."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FILES = {"clip": "clip.mp4", "poster": "poster.jpg"}


class NotNumbersError(SvdkitError):
    """The clip has values that are not numbers."""


class DiskFullError(SvdkitError):
    """There is no room for the results; the sweep stops, and continues when there is."""


def save(clip: Clip, folder: Path, *, scale: float | None = None) -> None:
    """Write a run's files: ``clip.mp4``, which carries its provenance, and ``poster.jpg``, its first frame."""
    from PIL import Image

    clip.save(folder / _FILES["clip"], keep_photo=False, keep_frames=False, scale=scale)
    (folder / "clip.json").unlink()  # the same stands in the video and in record.json
    buffer = io.BytesIO()
    Image.fromarray(clip.frames[0]).save(buffer, "JPEG", quality=85)
    write_synced(folder / _FILES["poster"], buffer.getvalue())


def made(task: Task, clip: Clip, *, seconds: Mapping[str, float], memory: Mapping[str, Any], **rest: Any) -> Record:
    """Make the row of a clip; ``seconds`` and ``memory`` are of its stages, ``rest`` more of the record.

    Seconds of a stage that several runs share stand in the row of each: they are what this clip would cost alone.
    """
    assert clip.provenance is not None  # noqa: S101 - clips of generate have it
    seconds = {**seconds, "total": sum(seconds.values())}
    options, sizes = task["options"], list(memory.values())
    largest = {name: max(size[name] or 0 for size in sizes) or None for name in sizes[0]}
    price = options.get("hourly_price")
    money = {} if price is None else {"hourly_price": price, "money": seconds["total"] / 3600 * price}
    return Record(
        **_same(task),
        **rest,
        status="ok",
        load=clip.provenance.load,
        clip=clip.provenance.settings,
        samples={"timed": {stage: [value] for stage, value in seconds.items()}},
        order=[options["position"]],
        processes=[process_name()],
        memory={**memory, "total": largest},
        quality=_quality(clip) if options["quality"] else {},
        cost={**money, "currency": options["currency"]} if money else {},
        artifacts={name: f"runs/{task['id']}/{file}" for name, file in _FILES.items()},
    )


def failed(task: Task, error: BaseException | tuple[str, str], *, status: str = "", started_at: str = "") -> Record:
    """Make the row of a run that failed: "oom" for an error that means so, else "error", unless a status is given."""
    if isinstance(error, BaseException):
        told = failure_of(error)
    else:
        told = {"status": "error", "error": {"type": error[0], "message": error[1][:2000]}}
    return Record(
        **_same(task),
        **told | ({"status": status} if status else {}),
        load={**task["load"], "model": task["model"]["name"]},
        clip=dict(task["clip"]),
        started_at=started_at or now(),
    )


def is_disk_full(error: BaseException | None) -> bool:
    """Say whether an error, or what caused it, means that no room is left for files."""
    while error is not None:
        if isinstance(error, DiskFullError) or number_of(error) in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def _same(task: Task) -> dict[str, Any]:
    """Give what the record of a run has however it ends."""
    values = {name: task[name] for name in ("id", "image", "model", "forecast")}
    return {**values, "environment": machine(str(task["load"]["device"])), "command": task["options"]["command"]}


def _quality(clip: Clip) -> dict[str, Any]:
    from svdkit.bench.quality import measure_quality

    chunk = clip.provenance.settings["decode_chunk_size"] if clip.provenance else None
    found = measure_quality(clip.frames, fps=clip.fps, photo=clip.photo, decode_chunk_size=chunk)
    return {name: value if value is None or math.isfinite(value) else None for name, value in found.items()}


_LOCK, _RECORDS, _WORK, _RUNS, _ASKED = ".lock", "records.jsonl", ".work", "runs", "sweep.json"
_REPLACED = ("environment.json", "index.html", "table.csv", "table.md", "contact_sheet.png")


class Results:
    """A results folder, locked while the ``with`` block runs; the driver of a sweep is its only writer.

    A run is committed in three steps, each on disk before the next: its temporary folder is complete, the folder is
    renamed to ``runs/<id>``, its line is appended to ``records.jsonl``. After ``kill -9`` between the last two, the
    next start appends the missing line from ``runs/<id>/record.json``.

    Attributes:
        folder: The results folder.
        work: For temporary folders, on the same disk; new at each start, so that it tells this folder from a later one
            of the same name.
        finished: Run id -> record of every run that has ended, well or not.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.work = self.folder / _WORK
        self.finished: dict[str, Record] = {}
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        try:
            _check_ours(self.folder)
            (self.folder / _RUNS).mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.folder / _LOCK)
            shutil.rmtree(self.folder / _WORK, ignore_errors=True)
            (self.folder / _WORK).mkdir(exist_ok=True)
            self.work = Path(tempfile.mkdtemp(dir=self.folder / _WORK))
        except OSError as error:
            raise SvdkitError(f"results {self.folder} cannot be written: {refusal(error)}") from error
        try:
            self._recover()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.work.is_dir():
            shutil.rmtree(self.folder / _WORK, ignore_errors=True)
            if self._lock is not None:
                self._lock.truncate(0)
        if self._lock is not None:
            self._lock.close()  # which unlocks; the file stays, since removing it would race with the next sweep

    def commit(self, record: Record, made: Path | None = None) -> None:
        """Keep a run that ended: its folder when it made one, then its line; an OSError when the disk is full."""
        self.check_there()
        if made is not None:
            target = self.folder / _RUNS / record.id
            shutil.rmtree(target, ignore_errors=True)  # of a folder that lost its records, or of half a copy
            os.replace(made, target)  # noqa: PTH105 - Path.replace is the same; this says atomic
            sync_folder(self.folder / _RUNS)
        write_record(self.folder / _RECORDS, record)
        self.finished[record.id] = record

    def check_there(self) -> None:
        """Raise a SvdkitError when the folder was removed, its disk is gone, or another sweep has taken it over."""
        if not self.work.is_dir():
            raise SvdkitError(
                f"results {self.folder} is gone: the folder was removed or moved, its disk dropped off, or another "
                f"sweep took it over. The sweep stopped; what ended before, {len(self.finished)} runs, is complete "
                "wherever the folder is now, and the same call with that folder continues"
            )

    def forget_failed(self) -> None:
        """Take the lines of failed runs away, so that they are run again; the file is replaced as a whole."""
        kept = {name: record for name, record in self.finished.items() if record.status == "ok"}
        if len(kept) < len(self.finished):
            text = "".join(json.dumps(record.to_dict()) + "\n" for record in kept.values())
            write_whole(self.folder / _RECORDS, text)
            self.finished = kept

    def describe(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file of the folder, such as ``sweep.json``, whole or not at all."""
        write_whole(self.folder / name, json.dumps(values, indent=1) + "\n")

    def _recover(self) -> None:
        if (self.folder / _RECORDS).exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SvdkitWarning)  # of a torn last line, which write_record takes away
                self.finished = {record.id: record for record in read_records(self.folder / _RECORDS)}
        for folder in sorted((self.folder / _RUNS).iterdir()):
            if folder.name not in self.finished and (folder / "record.json").is_file():
                with contextlib.suppress(ValueError, RecursionError, SettingsError):  # not ours, or of a newer svdkit
                    record = Record.from_dict(json.loads((folder / "record.json").read_text(encoding="utf-8")))
                    if record.id == folder.name:
                        self.commit(record)


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write a new folder of files, and return it when they are on disk."""
    folder.mkdir()
    for name, content in files.items():
        write_synced(folder / name, content)
    return folder


def _check_ours(folder: Path) -> None:
    """Refuse a folder in which a sweep would change what is not its own."""
    changed = (_LOCK, _RECORDS, _WORK, _RUNS)
    if links := [name for name in changed if (folder / name).is_symlink()]:
        raise SvdkitError(
            f"{links[0]} in results {folder} is a link, and a sweep would change what it leads to: remove the link, or "
            "choose another folder"
        )
    there = ", ".join(name for name in _REPLACED if os.path.lexists(folder / name))
    if there and not any((folder / name).exists() for name in (_ASKED, _RECORDS, _LOCK)):
        raise SvdkitError(f"results {folder} has no sweep, but {there}, which one would replace: choose another folder")


def _locked(path: Path) -> IO[str]:
    """Lock a file for this process's life: the system lets go of it also after kill -9, so no lock is ever stale."""
    file = path.open("a+", encoding="utf-8")
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 20)  # far behind the text, which others may then still read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if is_unknown_here(error):
            text = f"{path.parent} is on a file system without locks: see to it that no other sweep writes there"
            warnings.warn(text, SvdkitWarning, stacklevel=4)
            return file
        if error.errno not in {errno.EAGAIN, errno.EACCES, errno.EDEADLK}:
            file.close()
            raise
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        message = f"another sweep is writing to {path.parent} ({owner}): wait for it, stop it, or choose another folder"
        raise SvdkitError(message) from error
    file.seek(0)
    file.truncate()
    file.write(f"process {os.getpid()}, since {now()[:16].replace('T', ' ')} UTC\n")
    file.flush()
    return file
