"""The results folder: one writer, whole runs, and what a crash left put right."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from svdkit.bench.record import Record, now, read_records
from svdkit.errors import SvdkitError, SvdkitWarning
from svdkit.sweep.results import Results
from tests.sweeps import ROOT

FILES = {"clip.mp4": b"frames"}


def record(number: int, *, status: str = "ok") -> Record:
    error = None if status == "ok" else {"type": "Timeout", "message": "no answer in 1 s"}
    model = {"name": "micro", "weights": "trained"}
    values = {"load": {}, "clip": {"seed": number}, "image": {}, "model": model, "environment": {}}
    return Record(id=f"{number:016x}", status=status, error=error, started_at=now(), **values)  # type: ignore[arg-type]


ONE, TWO = record(1).id, record(2).id


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A results folder with a run that failed and one that did not."""
    with Results(tmp_path) as results:
        results.commit(record(2, status="timeout"))
        results.commit(record(1), FILES)
    return tmp_path


def test_a_run_is_a_folder_and_a_line(folder: Path) -> None:
    assert (folder / "runs" / ONE / "clip.mp4").read_bytes() == b"frames"
    assert json.loads((folder / "runs" / ONE / "record.json").read_bytes())["id"] == ONE
    assert [one.status for one in read_records(folder)] == ["timeout", "ok"]
    assert {path.name for path in folder.iterdir()} == {".lock", "records.jsonl", "runs"}
    assert (folder / ".lock").read_bytes() == b""  # it named the machine
    with Results(folder) as results:
        assert set(results.finished) == {ONE, TWO}
        results.forget_failed()
        assert set(results.finished) == {ONE}
    assert [one.id for one in read_records(folder)] == [ONE]


def _tear(folder: Path) -> None:
    (folder / "records.jsonl").write_bytes((folder / "records.jsonl").read_bytes()[:-40])


def _lose_line(folder: Path) -> None:
    (folder / "records.jsonl").unlink()


def _leave_half(folder: Path) -> None:
    (folder / ".work" / "half").mkdir(parents=True)


@pytest.mark.parametrize(("damage", "left"), [(_tear, {ONE, TWO}), (_lose_line, {ONE}), (_leave_half, {ONE, TWO})])
def test_what_a_crash_leaves_is_put_right(folder: Path, damage: Any, left: set[str]) -> None:
    """A torn line, kill -9 between the rename and the line, a run that was being made: folders get their lines."""
    damage(folder)
    with Results(folder) as results:
        assert set(results.finished) == left
        assert list(results.work.iterdir()) == []
        results.commit(record(3))
    assert {one.id for one in read_records(folder)} == left | {record(3).id}
    assert not (folder / ".work").exists()


def test_a_folder_that_lost_its_record_is_made_again(tmp_path: Path) -> None:
    """As a synchronised drive leaves it half-way."""
    (tmp_path / "runs" / ONE).mkdir(parents=True)
    (tmp_path / "runs" / ONE / "clip.mp4").write_bytes(b"half")
    with Results(tmp_path) as results:
        results.commit(record(1), FILES)
    assert (tmp_path / "runs" / ONE / "clip.mp4").read_bytes() == b"frames"


@pytest.mark.parametrize("text", ["{", "{}", json.dumps(record(9).to_dict())])
def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "runs" / "notes").mkdir(parents=True)
    (tmp_path / "runs" / "notes" / "record.json").write_text(text, encoding="utf-8")
    with Results(tmp_path) as results:
        assert results.finished == {}
    assert (tmp_path / "runs" / "notes" / "record.json").read_text(encoding="utf-8") == text


def test_a_second_sweep_on_the_folder_is_refused(tmp_path: Path) -> None:
    told = rf"another sweep is writing to .* \(process {os.getpid()}, since .*UTC\): wait"
    with Results(tmp_path), pytest.raises(SvdkitError, match=told), Results(tmp_path):
        pass
    with Results(tmp_path):
        pass  # free again


@pytest.mark.parametrize("name", [".lock", "records.jsonl", ".work", "runs"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "results"
    outside.write_text("mine", encoding="utf-8")
    folder.mkdir()
    (folder / name).symlink_to(outside)
    with pytest.raises(SvdkitError, match=rf"^{name} in results .* is a link, .*: remove the link, or choose another"):
        Results(folder).__enter__()
    assert outside.read_text(encoding="utf-8") == "mine"
    assert [path.name for path in folder.iterdir()] == [name]


def test_a_folder_with_files_that_a_report_would_replace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("my page", encoding="utf-8")
    (tmp_path / "table.csv").write_text("my table", encoding="utf-8")
    with pytest.raises(SvdkitError, match=r"has no sweep, but index.html, table.csv, which one would replace: choose"):
        Results(tmp_path).__enter__()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("then", ["nothing", "an empty folder", "another sweep"])
def test_a_folder_that_is_gone_gets_no_more_rows(tmp_path: Path, then: str) -> None:
    """As when a drive drops off: nothing is made where it was, nor put into what stands there now."""
    folder = tmp_path / "results"
    first = Results(folder).__enter__()
    first.commit(record(1), FILES)
    folder.rename(tmp_path / "moved")
    if then == "an empty folder":
        folder.mkdir()
    with Results(folder if then == "another sweep" else tmp_path / "other") as second:
        with pytest.raises(SvdkitError, match=r"is gone: .* what ended before, 1 runs, is complete"):
            first.commit(record(2, status="timeout"))
        first.__exit__()
        second.commit(record(3), FILES)
    assert [one.id for one in read_records(tmp_path / "moved")] == [ONE]
    assert folder.exists() == (then != "nothing")
    assert [one.id for one in read_records(second.folder)] == [record(3).id]


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_killed_sweep_leaves_no_lock(tmp_path: Path) -> None:
    code = "import sys, time; from svdkit.sweep.results import Results\n"
    code += "with Results(sys.argv[1]): print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(SvdkitError, match=f"process {other.pid}, "), Results(tmp_path):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
    start = time.monotonic()
    with Results(tmp_path):
        assert time.monotonic() - start < 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs a system with flock")
def test_without_locks_the_last_sweep_goes_on_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.warns(SvdkitWarning, match="is on a file system without locks: see to it that no other"):
        first, second = Results(tmp_path).__enter__(), Results(tmp_path).__enter__()
    with pytest.raises(SvdkitError, match="another sweep took it over"):
        first.commit(record(1))
    first.__exit__()
    second.commit(record(2), FILES)
    second.__exit__()
    assert [one.id for one in read_records(tmp_path)] == [TWO]
