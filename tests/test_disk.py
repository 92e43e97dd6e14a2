"""What a disk refuses is told apart by the system's number, at one place; files are whole or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from svdkit.disk import refusal, sync, try_room, write_whole

XET = "Data processing error: Internal Writer Error: IO Error: No space left on device (os error 28)"
CASES = [
    (OSError(errno.ENOSPC, "x"), "the disk is full; free some space or use another disk"),
    (RuntimeError(XET), "the disk is full; free some space or use another disk"),
    (OSError(errno.EDQUOT, "x"), "your disk quota is used up; free some space or use another disk"),
    (OSError(errno.EACCES, "x"), "you may not write there; use a folder of your own"),
    (OSError(errno.EROFS, "x"), "that disk is read-only; use another folder"),
    (OSError(errno.ENAMETOOLONG, "x"), "the name is too long; choose a shorter one"),
    (OSError(errno.EIO, "Input/output error"), "Input/output error; use another folder"),
    (ValueError("embedded null byte"), "embedded null byte; use another folder"),
]


@pytest.mark.parametrize(("error", "said"), CASES, ids=lambda value: repr(value)[:40])
def test_what_is_refused_in_words(error: Exception, said: str) -> None:
    assert refusal(error) == said


@pytest.mark.parametrize(("number", "passes"), [(errno.EINVAL, True), (errno.ENOSYS, True), (errno.EIO, False)])
def test_a_file_system_without_fsync_is_no_error(number: int, passes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", answer)
    if passes:
        sync(0)
    else:
        with pytest.raises(OSError, match="Input/output"):
            sync(0)


def test_a_link_is_replaced_and_what_it_leads_to_is_left(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "table.csv").symlink_to(tmp_path / "mine")
    write_whole(tmp_path / "table.csv", "a,b\n")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "table.csv").read_bytes() == b"a,b\n"
    assert len(list(tmp_path.iterdir())) == 2


def test_room_is_tried_and_given_back(tmp_path: Path) -> None:
    try_room(tmp_path, 1000)
    assert not list(tmp_path.iterdir())
