"""Write a set of files so that either all of them are there, whole, or nothing has changed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from svdkit.errors import ClipError

Content = bytes | Mapping[str, bytes]
"""What stands at one path: the bytes of a file, or the files of a folder by name."""

_FRAME_NAME = re.compile(r"\d+\.png")

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or save to another disk",
    errno.EDQUOT: "your disk quota is used up; free some space or save elsewhere",
    errno.EFBIG: "the file is larger than this disk or account allows; save elsewhere or with a smaller scale",
    errno.EACCES: "you may not write there; save to a folder of your own",
    errno.EPERM: "you may not write there; save to a folder of your own",
    errno.EROFS: "that disk is read-only; save to another folder",
    errno.ENOENT: "that folder does not exist; create it first",
    errno.ENOTDIR: "a part of that path is a file, not a folder; save to another folder",
    errno.EISDIR: "a folder of that name is in the way; choose another name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def write_files(files: Mapping[Path, Content], *, overwrite: bool = True) -> None:
    """Write files and folders atomically: first all under temporary names beside their targets, then renamed.

    The renames follow the order of ``files``. A reader therefore sees each file old or new, never half of it. When
    anything fails, the temporary files and those targets that did not exist before are removed again.

    Args:
        files: Target path to content; all in existing folders. A folder replaces an old one only if that holds
            nothing but numbered PNG frames.
        overwrite: Whether an existing target may be replaced.

    Raises:
        ClipError: A target exists and ``overwrite`` is False, or the disk refused; the text says what to do.

    Example:
        >>> write_files({Path("walk.json"): b"{}"})  # doctest: +SKIP
    """
    _check_targets(files, overwrite=overwrite)
    staged = {path: path.with_name(f".svdkit-{uuid.uuid4().hex[:12]}.tmp") for path in files}
    fresh = [path for path in files if not os.path.lexists(path)]
    try:
        for path, content in files.items():
            _write(staged[path], content)
        for path, temporary in staged.items():
            _swap(temporary, path)
    except BaseException as error:
        for path in (*staged.values(), *fresh):
            _remove(path)
        if isinstance(error, OSError):
            raise _refusal(error, next(iter(files))) from error
        raise


def _check_targets(files: Mapping[Path, Content], *, overwrite: bool) -> None:
    """Refuse, before any work, what must not be replaced."""
    for path, content in files.items():
        try:
            exists, is_folder = os.path.lexists(path), path.is_dir()
        except (OSError, ValueError) as error:
            raise ClipError(f"{str(path)!r} is not a usable path ({error}); choose another name") from error
        if exists and not overwrite:
            raise ClipError(f"{path} exists; pass overwrite=True to replace it, or choose another name")
        if is_folder and isinstance(content, bytes):
            raise ClipError(f"{path} is a folder; choose another name")
        if exists and not isinstance(content, bytes) and not _holds_only_frames(path):
            raise ClipError(f"{path} holds more than numbered PNG frames and is not replaced; choose another name")


def _holds_only_frames(path: Path) -> bool:
    return path.is_dir() and all(_FRAME_NAME.fullmatch(entry.name) for entry in path.iterdir())


def _write(path: Path, content: Content) -> None:
    if not isinstance(content, bytes):
        path.mkdir()
        for name, part in content.items():
            _write(path / name, part)
        return
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # else a crash after the rename can leave an empty file under the final name


def _swap(temporary: Path, target: Path) -> None:
    """Rename, over an old folder too, which ``os.replace`` alone cannot do."""
    if not target.is_dir():
        os.replace(temporary, target)  # noqa: PTH105 - one name for it, which the tests replace
        return
    old = temporary.with_suffix(".old")
    os.replace(target, old)  # noqa: PTH105 - as above
    try:
        os.replace(temporary, target)  # noqa: PTH105 - as above
    except BaseException:
        old.rename(target)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return  # the error that led here is the one to report


def _refusal(error: OSError, path: Path) -> ClipError:
    advice = _ADVICE.get(error.errno or 0, f"{error.strerror or error}; save to another folder")
    return ClipError(f"{path.name} could not be saved in {str(path.parent)!r}: {advice}. Nothing was changed.")
