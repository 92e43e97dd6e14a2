"""What a disk refuses, in words; and files that are whole or not there."""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
from pathlib import Path

_IN_THE_WAY = "a part of that path is a file, not a folder; use another folder"
REFUSALS = {
    errno.ENOSPC: "the disk is full; free some space or use another disk",
    errno.EDQUOT: "your disk quota is used up; free some space or use another disk",
    errno.EFBIG: "the file is larger than this disk or account allows; use another disk, or make it smaller",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "you may not write there; use a folder of your own"),
    errno.EROFS: "that disk is read-only; use another folder",
    errno.ENOENT: "that folder does not exist; create it first",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), _IN_THE_WAY),
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}
"""The system's number of an error -> what it means, and what to do."""

_UNKNOWN_TO_SOME = {
    errno.EINVAL,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOLCK,
}  # what network and user-space drives say


def number_of(error: BaseException) -> int | None:
    """The system's number of an error; libraries in Rust, as the hub's, have it only in their text."""
    in_text = re.search(r"\(os error (\d+)\)", str(error))
    return int(in_text[1]) if in_text else getattr(error, "errno", None)


def refusal(error: BaseException) -> str:
    """Say what a disk refused, and what to do about it."""
    reason = getattr(error, "strerror", None) or error
    return REFUSALS.get(number_of(error) or 0, f"{reason}; use another folder")


def is_unknown_here(error: OSError) -> bool:
    """Say whether a file system answered that it has no such call, such as ``fsync`` or ``flock``."""
    return error.errno in _UNKNOWN_TO_SOME


def sync(descriptor: int) -> None:
    """Wait until what was written is on disk, on file systems that can say so."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_unknown_here(error):
            raise


def sync_folder(folder: Path) -> None:
    """Wait until a folder's renames are on disk; Windows has no such call and needs none."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file that is on disk when it is renamed: else a crash can leave an empty one under the final name."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        sync(file.fileno())


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one; a link is replaced, not followed."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    write_synced(fresh, content.encode() if isinstance(content, str) else content)
    fresh.replace(path)


def try_room(folder: Path, size: int) -> None:
    """Take so many bytes of a folder's disk and give them back: an OSError says what would be refused later."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(size))
