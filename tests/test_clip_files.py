"""Writing is all or nothing: a full or read-only disk is a ClipError that says what to do and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from svdkit.clip import Clip
from svdkit.clip.storage import check_saving
from svdkit.errors import ClipError
from tests.clips import micro_clip

if TYPE_CHECKING:
    from pathlib import Path


def listing(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fail_at(call: int, error: BaseException) -> Any:
    """Return a stand-in for an os function that works until it raises at the given call."""
    calls = iter(range(1, 1000))
    real: dict[str, Any] = {"fsync": os.fsync, "replace": os.replace}

    def stand_in(name: str) -> Any:
        def act(*arguments: Any) -> Any:
            if next(calls) == call:
                raise error
            return real[name](*arguments)

        return act

    return stand_in


REFUSALS = {
    errno.ENOSPC: "the disk is full; free some space or use another disk",
    errno.EDQUOT: "your disk quota is used up",
    errno.EROFS: "that disk is read-only; use another folder",
    errno.EACCES: "you may not write there; use a folder of your own",
    errno.EIO: "Input/output error; use another folder",
}


@pytest.mark.parametrize("suffix", [".gif", ".png"])
@pytest.mark.parametrize("number", REFUSALS)
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_disk_that_refuses_leaves_nothing_behind(
    number: int, call: int, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whichever of photo, clip and JSON it is that does not fit."""
    (tmp_path / "other.txt").write_text("untouched")
    monkeypatch.setattr(os, "fsync", fail_at(call, OSError(number, os.strerror(number)))("fsync"))
    with pytest.raises(ClipError, match=rf"could not be saved in '.*': {REFUSALS[number]}.*Nothing was changed"):
        micro_clip().save(tmp_path / f"walk{suffix}")
    assert listing(tmp_path) == {"other.txt": b"untouched"}


@pytest.mark.parametrize("suffix", [".gif", ".png"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_rename_that_fails_takes_the_others_back(
    call: int, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "replace", fail_at(call, OSError(errno.ENOSPC, "full"))("replace"))
    with pytest.raises(ClipError, match="the disk is full"):
        micro_clip().save(tmp_path / f"walk{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "state"),
    [
        (1, "Nothing was changed."),
        (2, "No longer as before: walk.photo.png; save again."),
        (3, "No longer as before: walk.gif, walk.photo.png; save again."),
    ],
)
def test_a_rename_that_fails_while_overwriting_says_what_was_replaced(
    call: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    micro_clip(2).save(tmp_path / "walk.gif")
    before = listing(tmp_path)
    monkeypatch.setattr(os, "replace", fail_at(call, OSError(errno.EIO, "cable"))("replace"))
    with pytest.raises(ClipError) as caught:
        micro_clip(4).save(tmp_path / "walk.gif")
    assert str(caught.value).endswith(f"cable; use another folder. {state}")
    after = listing(tmp_path)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} <= set(
        state.replace(";", ",").split(": ")[-1].split(", ")
    )


def test_frames_that_could_not_be_put_back_are_kept_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    micro_clip(2).save(tmp_path / "walk.png", keep_photo=False)
    real, calls = os.replace, iter(range(9))

    def replace(old: Path, new: Path) -> None:
        if next(calls):
            raise OSError(errno.EIO, "cable")
        real(old, new)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ClipError, match=r"No longer as before: walk_frames; save again"):
        micro_clip(4).save(tmp_path / "walk.png", keep_photo=False)
    [aside] = tmp_path.glob(".svdkit-*.old")
    assert len(list(aside.iterdir())) == 2


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_an_old_folder_of_frames_survives_a_failed_rename(call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    micro_clip(2).save(tmp_path / "walk.png")
    before = listing(tmp_path)
    monkeypatch.setattr(os, "replace", fail_at(call, OSError(errno.EIO, "cable"))("replace"))
    with pytest.raises(ClipError, match="cable"):
        micro_clip(4).save(tmp_path / "walk.png")
    assert (listing(tmp_path) == before) == (call < 4)  # at the fourth, the JSON, the frames are already the new ones
    assert all("svdkit" not in path.name for path in tmp_path.iterdir())


def test_stopping_by_hand_leaves_nothing_behind_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fsync", fail_at(2, KeyboardInterrupt())("fsync"))
    with pytest.raises(KeyboardInterrupt):
        micro_clip().save(tmp_path / "walk.gif")
    assert not list(tmp_path.iterdir())


def test_a_limit_set_by_the_system_is_an_error_without_leftovers(tmp_path: Path):
    """A real refusal of the kernel, in a process of its own: no file may grow over 1,000 bytes there."""
    pytest.importorskip("resource", reason="Windows has no such limits")
    code = (
        "import resource\nfrom tests.clips import micro_clip\nfrom svdkit.errors import ClipError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "for name in ('walk.webp', 'walk.mp4', 'walk.png'):\n"
        "    try:\n        micro_clip().save(name)\n"
        "    except ClipError as error:\n        print(error)\n"
    )
    path = {"PYTHONPATH": os.getcwd(), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}  # noqa: PTH109
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=path, capture_output=True, check=False)
    said = done.stdout.decode().splitlines()
    assert len(said) == 3, done.stderr.decode()
    assert "the file is larger than this disk or account allows" in said[0]
    assert "ffmpeg failed" in said[1]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(ClipError, match="that folder does not exist; create it first"):
        micro_clip().save(tmp_path / "new" / "walk.gif")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file(tmp_path: Path):
    (tmp_path / "clips").write_text("a file")
    with pytest.raises(ClipError, match="a part of that path is a file, not a folder; use another folder"):
        micro_clip().save(tmp_path / "clips" / "walk.gif")
    assert listing(tmp_path) == {"clips": b"a file"}


def test_a_name_that_is_too_long(tmp_path: Path):
    with pytest.raises(ClipError, match=r"is not a usable path|the name is too long; choose a shorter one"):
        micro_clip().save(tmp_path / f"{'x' * 300}.gif")
    assert not list(tmp_path.iterdir())


POOR_FFMPEG = {
    "none at all": (None, "a .mp4 file: ffmpeg cannot be started"),
    "no libx264": (
        "[vost#0:0 @ 0x1] Unknown encoder 'libx264'\n[vost#0:0 @ 0x1] Error selecting an encoder",
        "a .mp4 file: ffmpeg failed (Unknown encoder 'libx264'); try another format, such as .png, or run: pip install",
    ),
    "a failure": ("Conversion failed!", "a .mp4 file: ffmpeg failed (Conversion failed!); try another format, such"),
}


@pytest.fixture(params=POOR_FFMPEG)
def poor_ffmpeg(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An ffmpeg that cannot encode; what is to be said of it."""
    log, said = POOR_FFMPEG[request.param]
    program = tmp_path / "ffmpeg"
    if log is not None:
        program.write_text(f"#!/bin/sh\ncat > /dev/null\ncat >&2 <<'END'\n{log}\nEND\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    return said


def test_frames_that_cannot_be_encoded_are_kept(poor_ffmpeg: str, tmp_path: Path):
    clip, folder = micro_clip(), tmp_path / "clips"
    folder.mkdir()
    for number in (1, 2):  # nothing kept is replaced
        with pytest.raises(ClipError) as caught:
            clip.save(folder / "walk.mp4")
        assert str(caught.value).startswith(poor_ffmpeg)
        [kept] = re.findall(r"\. The frames are kept in '(.*)', which Clip.read opens$", str(caught.value))
        again = Clip.read(kept)
        assert again == clip
        assert again.photo is not None
        assert len(list(folder.iterdir())) == 3 * number


def test_frames_are_kept_among_temporary_files_where_the_folder_takes_none(
    poor_ffmpeg: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ClipError, match=rf"The frames are kept in '{tmp_path}/walk-\w+_frames'"):
        micro_clip().save(tmp_path / "nowhere" / "walk.mp4")


def test_frames_are_not_kept_where_that_is_not_wanted(poor_ffmpeg: str, tmp_path: Path):
    before = listing(tmp_path)
    with pytest.raises(ClipError) as caught:
        micro_clip().save(tmp_path / "walk.mp4", keep_frames=False)
    assert "frames are kept" not in str(caught.value)
    assert listing(tmp_path) == before


def test_an_encoder_is_missed_before_the_clip_is_made(poor_ffmpeg: str, tmp_path: Path):
    with pytest.raises(ClipError, match=re.escape(poor_ffmpeg)):
        check_saving(tmp_path / "walk.mp4", num_bytes=0)
    check_saving(tmp_path / "walk.png", num_bytes=0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"{'x' * 300}.png", "the name is too long; choose a shorter one"),
        (f"{'犬' * 83}.png", "the name is too long; choose a shorter one"),  # 253 bytes, but not with .photo.png
        ("nowhere/walk.png", "that folder does not exist; create it first"),
        ("a\0b.png", "embedded null byte; use another folder"),
        ("walk.png", None),
    ],
)
def test_names_and_folders_are_tried_before_the_clip_is_made(name: str, said: str | None, tmp_path: Path):
    if said is None:
        check_saving(tmp_path / name, num_bytes=1000)
    else:
        with pytest.raises(ClipError, match=f"cannot be saved in '.*': {said}$"):
            check_saving(tmp_path / name, num_bytes=1000)
    assert not list(tmp_path.iterdir())


def test_room_is_tried_before_the_clip_is_made(tmp_path: Path):
    """A real refusal of the kernel, in a process of its own."""
    pytest.importorskip("resource", reason="Windows has no such limits")
    code = (
        "import resource, signal\nfrom pathlib import Path\nfrom svdkit.clip.storage import check_saving\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "check_saving(Path('walk.png'), num_bytes=900)\ncheck_saving(Path('walk.png'), num_bytes=2000)\n"
    )
    path = {"PYTHONPATH": os.getcwd(), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}  # noqa: PTH109
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=path, capture_output=True, check=False)
    said = (
        "ClipError: walk.png cannot be saved in '.': the file is larger than this disk or account allows; use another"
    )
    assert said in done.stderr.decode()
    assert not list(tmp_path.iterdir())


def test_existing_files_are_kept_on_request(tmp_path: Path):
    micro_clip().save(tmp_path / "walk.gif")
    before = listing(tmp_path)
    with pytest.raises(ClipError, match="exists; pass overwrite=True to replace it, or choose another name"):
        micro_clip(2).save(tmp_path / "walk.gif", overwrite=False)
    assert listing(tmp_path) == before
    micro_clip(2).save(tmp_path / "walk.gif")
    assert listing(tmp_path).keys() == before.keys()
    assert listing(tmp_path) != before


def test_frames_of_an_older_clip_do_not_stay(tmp_path: Path):
    micro_clip(4).save(tmp_path / "walk.png")
    folder = micro_clip(2).save(tmp_path / "walk.png")
    assert len(list(folder.iterdir())) == 2
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_with_other_things_is_not_replaced(tmp_path: Path):
    folder = micro_clip().save(tmp_path / "walk.png")
    (folder / "diary.txt").write_text("mine")
    before = listing(tmp_path)
    with pytest.raises(ClipError, match="walk_frames holds more than numbered PNG frames and is not replaced"):
        micro_clip(2).save(tmp_path / "walk.png")
    assert listing(tmp_path) == before


def test_a_folder_in_the_way(tmp_path: Path):
    (tmp_path / "walk.gif").mkdir()
    with pytest.raises(ClipError, match=r"walk.gif is a folder; choose another name"):
        micro_clip().save(tmp_path / "walk.gif")


def test_the_json_is_renamed_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """So that its presence says that the clip is complete."""
    names = []
    real = os.replace

    def replace(old: Path, new: Path) -> None:
        names.append(new.name)
        real(old, new)

    monkeypatch.setattr(os, "replace", replace)
    micro_clip().save(tmp_path / "walk.gif")
    assert names == ["walk.photo.png", "walk.gif", "walk.json"]
