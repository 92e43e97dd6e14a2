"""The results folder: one writer, runs that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from svdkit.bench.record import Record, now, read_records, write_record
from svdkit.disk import is_unknown_here, number_of, sync_folder, write_synced, write_whole
from svdkit.errors import SettingsError, SvdkitError, SvdkitWarning

if TYPE_CHECKING:
    from typing_extensions import Self


_FULL = {errno.ENOSPC, errno.EDQUOT}


def is_disk_full(error: BaseException | None) -> bool:
    """Say whether an error, or what caused it, means that no room is left for files."""
    while error is not None:
        if number_of(error) in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


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

    def __enter__(self) -> Self:
        _check_ours(self.folder)
        (self.folder / _RUNS).mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.folder / _LOCK)
        try:
            shutil.rmtree(self.folder / _WORK, ignore_errors=True)
            (self.folder / _WORK).mkdir(exist_ok=True)
            self.work = Path(tempfile.mkdtemp(dir=self.folder / _WORK))
            self._recover()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:  # which unlocks; the file stays, since removing it would race with the next sweep
            if self.work.is_dir():
                shutil.rmtree(self.folder / _WORK, ignore_errors=True)
                self._lock.truncate(0)

    def commit(self, record: Record, files: Mapping[str, bytes] | None = None) -> None:
        """Keep a run that ended: its folder when it made files, then its line; an OSError when the disk is full."""
        self.check_there()
        if files:
            made, target = self.work / record.id, self.folder / _RUNS / record.id
            made.mkdir()
            text = json.dumps(record.to_dict(), indent=1) + "\n"
            for name, content in {**files, "record.json": text.encode()}.items():
                write_synced(made / name, content)
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
        self.finished = {name: record for name, record in self.finished.items() if record.status == "ok"}
        lines = "".join(json.dumps(record.to_dict()) + "\n" for record in self.finished.values())
        write_whole(self.folder / _RECORDS, lines)

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
        if not is_unknown_here(error):
            with file:
                file.seek(0)
                owner = file.read().strip() or "another process"
            advice = "wait for it, stop it, or choose another folder"
            raise SvdkitError(f"another sweep is writing to {path.parent} ({owner}): {advice}") from error
        text = f"{path.parent} is on a file system without locks: see to it that no other sweep writes there"
        warnings.warn(text, SvdkitWarning, stacklevel=4)
    file.seek(0)
    file.truncate()
    file.write(f"process {os.getpid()}, since {now()[:16].replace('T', ' ')} UTC\n")
    file.flush()
    return file
