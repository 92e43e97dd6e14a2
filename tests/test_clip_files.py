"""Writing is all or nothing: a full or read-only disk is a ClipError that says what to do and leaves nothing behind."""

import errno
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from svdkit.clip import Clip
from svdkit.clip.storage import check_saving
from svdkit.errors import ClipError
from tests.clips import micro_clip


def listing(folder):
    """Return every file below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def fail_at(monkeypatch):
    """Let a function of os work until it raises at the given call."""

    def patch(name, call, error):
        calls, real = iter(range(1, 1000)), getattr(os, name)

        def act(*arguments):
            if next(calls) == call:
                raise error
            return real(*arguments)

        monkeypatch.setattr(os, name, act)

    return patch


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
def test_a_disk_that_refuses_leaves_nothing_behind(number, call, suffix, tmp_path, fail_at):
    """Whichever of photo, clip and JSON it is that does not fit."""
    (tmp_path / "other.txt").write_text("untouched")
    fail_at("fsync", call, OSError(number, os.strerror(number)))
    with pytest.raises(ClipError, match=rf"could not be saved in '.*': {REFUSALS[number]}.*Nothing was changed"):
        micro_clip().save(tmp_path / f"walk{suffix}")
    assert listing(tmp_path) == {"other.txt": b"untouched"}


@pytest.mark.parametrize("suffix", [".gif", ".png"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_rename_that_fails_takes_the_others_back(call, suffix, tmp_path, fail_at):
    fail_at("replace", call, OSError(errno.ENOSPC, "full"))
    with pytest.raises(ClipError, match="the disk is full"):
        micro_clip().save(tmp_path / f"walk{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("call", "changed"), [(1, ""), (2, "walk.photo.png"), (3, "walk.gif, walk.photo.png")])
def test_a_rename_that_fails_while_overwriting_says_what_was_replaced(call, changed, tmp_path, fail_at):
    micro_clip(2).save(tmp_path / "walk.gif")
    before = listing(tmp_path)
    fail_at("replace", call, OSError(errno.EIO, "cable"))
    state = f"No longer as before: {changed}; save again." if changed else "Nothing was changed."
    with pytest.raises(ClipError, match=re.escape(f"cable; use another folder. {state}") + "$"):
        micro_clip(4).save(tmp_path / "walk.gif")
    after = listing(tmp_path)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} <= set(changed.split(", "))


def test_frames_that_could_not_be_put_back_are_kept_aside(tmp_path, monkeypatch):
    micro_clip(2).save(tmp_path / "walk.png", keep_photo=False)
    real, calls = os.replace, iter(range(9))

    def replace(old, new):
        if next(calls):
            raise OSError(errno.EIO, "cable")
        real(old, new)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ClipError, match=r"No longer as before: walk_frames; save again"):
        micro_clip(4).save(tmp_path / "walk.png", keep_photo=False)
    [aside] = tmp_path.glob(".svdkit-*.old")
    assert len(list(aside.iterdir())) == 2


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_an_old_folder_of_frames_survives_a_failed_rename(call, tmp_path, fail_at):
    micro_clip(2).save(tmp_path / "walk.png")
    before = listing(tmp_path)
    fail_at("replace", call, OSError(errno.EIO, "cable"))
    with pytest.raises(ClipError, match="cable"):
        micro_clip(4).save(tmp_path / "walk.png")
    assert (listing(tmp_path) == before) == (call < 4)  # at the fourth, the JSON, the frames are already the new ones
    assert all("svdkit" not in path.name for path in tmp_path.iterdir())


def test_stopping_by_hand_leaves_nothing_behind_either(tmp_path, fail_at):
    fail_at("fsync", 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        micro_clip().save(tmp_path / "walk.gif")
    assert not list(tmp_path.iterdir())


def test_limits_set_by_the_system_are_errors_without_leftovers(tmp_path):
    """Real refusals of the kernel, in a process of its own: no file may grow over 1,000 bytes there."""
    pytest.importorskip("resource", reason="Windows has no such limits")
    code = """
import resource
from pathlib import Path
from tests.clips import micro_clip
from svdkit.clip.storage import check_saving
from svdkit.errors import ClipError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
check_saving(Path("walk.png"), num_bytes=900)
for name in ("walk.webp", "walk.mp4", "walk.png", None):
    try:
        micro_clip().save(name) if name else check_saving(Path("walk.png"), num_bytes=2000)
    except ClipError as error:
        print(error)
"""
    path = {"PYTHONPATH": os.getcwd(), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}  # noqa: PTH109
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=path, capture_output=True, check=False)
    said = done.stdout.decode().splitlines()
    assert len(said) == 4, done.stderr.decode()
    assert "the file is larger than this disk or account allows" in said[0]
    assert "ffmpeg failed" in said[1]
    assert said[3].startswith("walk.png cannot be saved in '.': the file is larger than this disk or account allows")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "said", "tried"),
    [
        ("new/walk.gif", "that folder does not exist; create it first", True),
        ("clips/walk.gif", "a part of that path is a file, not a folder; use another folder", True),
        (f"{'x' * 300}.png", "the name is too long; choose a shorter one", True),
        (f"{'犬' * 83}.png", "the name is too long; choose a shorter one", True),  # 253 bytes, not with .photo.png
        ("a\0b.png", "embedded null byte; use another folder", True),
        ("walk.gif", "walk.gif is a folder; choose another name", False),
    ],
)
def test_names_and_folders_are_tried_before_the_clip_is_made(name, said, tried, tmp_path):
    (tmp_path / "clips").write_text("a file")
    (tmp_path / "walk.gif").mkdir()
    with pytest.raises(ClipError, match=said):
        micro_clip().save(tmp_path / name)
    if tried:
        with pytest.raises(ClipError, match=f"cannot be saved in '.*': {said}$"):
            check_saving(tmp_path / name, num_bytes=1000)
    check_saving(tmp_path / "fine.png", num_bytes=1000)
    assert listing(tmp_path) == {"clips": b"a file"}


POOR_FFMPEG = {
    "none at all": (None, "a .mp4 file: ffmpeg cannot be started"),
    "no libx264": (
        "[vost#0:0 @ 0x1] Unknown encoder 'libx264'\n[vost#0:0 @ 0x1] Error selecting an encoder",
        "a .mp4 file: ffmpeg failed (Unknown encoder 'libx264'); try another format, such as .png, or run: pip install",
    ),
    "a failure": ("Conversion failed!", "a .mp4 file: ffmpeg failed (Conversion failed!); try another format, such"),
}


@pytest.mark.parametrize("kind", POOR_FFMPEG)
def test_frames_that_cannot_be_encoded_are_kept(kind, tmp_path, monkeypatch):
    """Beside the clip, else among temporary files, and not where that is not wanted; a check finds out before."""
    (log, said), clip, folder = POOR_FFMPEG[kind], micro_clip(), tmp_path / "clips"
    program = tmp_path / "ffmpeg"
    if log is not None:
        program.write_text(f"#!/bin/sh\ncat > /dev/null\ncat >&2 <<'END'\n{log}\nEND\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    folder.mkdir()
    with pytest.raises(ClipError, match=re.escape(said)):
        check_saving(folder / "walk.mp4", num_bytes=0)
    with pytest.raises(ClipError, match=re.escape(said)) as caught:
        clip.save(folder / "walk.mp4", keep_frames=False)
    assert "frames are kept" not in str(caught.value)
    assert not listing(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for path, place in ((folder, folder), (folder, folder), (tmp_path / "nowhere", tmp_path)):  # nothing is replaced
        with pytest.raises(ClipError, match=f"^{re.escape(said)}") as caught:
            clip.save(path / "walk.mp4")
        [kept] = re.findall(r"\. The frames are kept in '(.*)', which Clip.read opens$", str(caught.value))
        again = Clip.read(kept)
        assert (again, Path(kept).parents[1]) == (clip, place)
        assert Path(kept).parent.stat().st_mode & 0o77 == 0, "among temporary files anybody could look at the photo"
        assert again.photo is not None
    assert len(list(folder.iterdir())) == 2


def test_existing_files_are_kept_on_request(tmp_path):
    micro_clip().save(tmp_path / "walk.gif")
    before = listing(tmp_path)
    with pytest.raises(ClipError, match="exists; pass overwrite=True to replace it, or choose another name"):
        micro_clip(2).save(tmp_path / "walk.gif", overwrite=False)
    assert listing(tmp_path) == before
    micro_clip(2).save(tmp_path / "walk.gif")
    assert listing(tmp_path).keys() == before.keys()
    assert listing(tmp_path) != before


def test_only_a_folder_of_frames_is_replaced_and_none_of_them_stays(tmp_path):
    micro_clip(4).save(tmp_path / "walk.png")
    folder = micro_clip(2).save(tmp_path / "walk.png")
    assert (len(list(folder.iterdir())), len(list(tmp_path.iterdir()))) == (2, 3)
    (folder / "diary.txt").write_text("mine")
    before = listing(tmp_path)
    with pytest.raises(ClipError, match="walk_frames holds more than numbered PNG frames and is not replaced"):
        micro_clip(2).save(tmp_path / "walk.png")
    assert listing(tmp_path) == before


def test_the_json_is_renamed_last(tmp_path, monkeypatch):
    """So that its presence says that the clip is complete."""
    names, real = [], os.replace

    def replace(old, new):
        names.append(new.name)
        real(old, new)

    monkeypatch.setattr(os, "replace", replace)
    micro_clip().save(tmp_path / "walk.gif")
    assert names == ["walk.photo.png", "walk.gif", "walk.json"]
