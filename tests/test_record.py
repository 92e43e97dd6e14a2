"""Records: checked when built, private, versioned, and whole on disk whatever happens."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svdkit.bench import record as module
from svdkit.bench.record import SCHEMA_VERSION, Record, read_records, run_id, write_record
from svdkit.errors import SettingsError, SvdkitError, SvdkitWarning
from svdkit.settings import ClipSettings, LoadSettings
from tests.bench_records import out_of_memory, record

GOLDEN = Path(__file__).parent / "golden"
VALUES: dict[str, Any] = {
    "load": {"dtype": "fp32"},
    "clip": {"seed": 1},
    "image_sha256": "ab",
    "model": {"name": "micro"},
}


def test_a_record_is_a_copy_and_survives_json() -> None:
    load: dict[str, Any] = {"dtype": "fp16"}
    made = record(load=load, quality={"motion": 1.5}, artifacts={"clip": "runs/a/clip.mp4"})
    load["dtype"] = "fp32"
    made.to_dict()["clip"]["seed"] = 99
    assert (made.load, made.clip["seed"]) == ({"dtype": "fp16"}, 7)
    assert Record.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_real_settings_fit() -> None:
    clip = ClipSettings(seed=1).resolve(height=576, width=1024, num_frames=25)
    made = record(load=LoadSettings().to_dict(), clip=clip.to_dict())
    assert ClipSettings.from_dict(made.clip) == clip
    assert LoadSettings.from_dict(made.load) == LoadSettings()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "abc"}, "id is 'abc'; run_id(...) gives it: 16 hexadecimal digits"),
        ({"id": 7}, "id is a int; give a str"),
        ({"load": []}, "load is a list; give a dict"),
        ({"status": "fine"}, "status is 'fine'; it is one of ok, oom, error, timeout, skipped"),
        ({"method": "guessed"}, "method is 'guessed'; it is one of measured, composed"),
        ({"model": {"name": "svd"}}, "it needs a name, and weights that are 'trained' or 'random'"),
        ({"started_at": "yesterday"}, "started_at is 'yesterday'; give ISO 8601 in UTC"),
        ({"started_at": "2026-01-01T00:00:00+02:00"}, "give ISO 8601 in UTC"),
        ({"started_at": "2026-01-01T00:00:00"}, "give ISO 8601 in UTC"),
        ({"schema_version": 7}, f"schema_version is 7; build version {SCHEMA_VERSION}"),
        ({"status": "oom"}, "error is None with status 'oom'; all but 'ok' need type and message"),
        ({"error": {"type": "A", "message": "b"}}, "with status 'ok'; all but 'ok' need type and message"),
        ({"status": "error", "error": {"type": "A"}}, "error is {'type': 'A'} with status 'error'"),
        ({"samples": {"hot": {}}}, "samples has 'hot'; it holds cold, warm_up, timed, each a dict of stages"),
        ({"samples": {"timed": {"nap": [1.0]}}}, "samples['timed']['nap'] is unknown; the stages are load, "),
        ({"samples": {"timed": {"unet": 1.0}}}, "samples['timed']['unet'] is 1.0; give a list of seconds"),
        ({"samples": {"timed": {"unet": [True]}}}, "samples['timed']['unet'] is [True]; give a list of seconds"),
        ({"samples": {"timed": {"unet": [-1.0]}}}, "samples['timed']['unet'] is [-1.0]; seconds are not negative"),
        ({"order": [0, -1]}, "order is [0, -1]; give positions, whole numbers from 0"),
        ({"processes": [3]}, "processes is [3]; give names, texts"),
        ({"cost": {"throttled_fraction": ["much"]}}, "cost['throttled_fraction'] is ['much']; give a list of numbers"),
        ({"memory": {"nap": {}}}, "memory['nap'] is unknown; the stages are"),
        ({"memory": {"unet": {"bytes": 1}}}, "memory['unet'] is {'bytes': 1}; it holds peak_allocated_bytes"),
        (
            {"memory": {"unet": {"process_bytes": 1.5}}},
            "memory['unet'] is {'process_bytes': 1.5}; it holds peak_allocated_bytes",
        ),
        ({"quality": {"psnr": float("inf")}}, "quality.psnr holds inf; only plain JSON values are kept; numbers are"),
        ({"quality": {"motion": np.float32(1)}}, "quality.motion holds np.float32(1.0)"),
        ({"clip": {"fps": "7"}}, "clip['fps'] is '7'; give a number, or None"),
        ({"quality": {"sharpness": [1.0]}}, "quality['sharpness'] is [1.0]; give a number, or None"),
        ({"environment": {"vram_bytes": {}}}, "environment['vram_bytes'] is {}; give a number, or None"),
        ({"environment": {"gpu": ["T4"]}}, "environment['gpu'] is ['T4']; give a number or a text, or None"),
        ({"load": {"dtype": {"a": 1}}}, "load['dtype'] is {'a': 1}; give a number or a text, or None"),
        ({"cost": {"money": "3"}}, "cost['money'] is '3'; give a number, or None"),
        ({"forecast": {"seconds": "9"}}, "forecast['seconds'] is '9'; give a number, or None"),
        ({"image": {"sha256": 5}}, "image['sha256'] is 5; give a text, or None"),
        (
            {"model": {"name": ["svd"], "weights": "random"}},
            "model is {'name': ['svd'], 'weights': 'random'}; it needs",
        ),
        ({"samples": {"timed": {"total": [1e300]}}}, "samples['timed']['total'] is [1e+300]; give a list of seconds"),
    ],
)
def test_what_tables_and_figures_could_not_read_is_no_record(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        record(**changes)


@pytest.mark.parametrize("path", ["/tmp/clip.mp4", "~/clip.mp4", "../clip.mp4", "runs/../../a", r"C:\a", "C:/a", "", 7])
def test_artifacts_stay_inside_the_results_folder(path: Any) -> None:
    with pytest.raises(SettingsError, match=r"artifacts has .*; give paths relative to the results folder, with /"):
        record(artifacts={"clip": path})


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        record(id="x", status="bad", order=[-1], samples={"timed": {"unattributed": [-0.001]}})  # which may be negative
    assert len(caught.value.problems) == 4  # a bad status needs an error too


def test_nothing_tells_on_the_user() -> None:
    made = out_of_memory(
        load={"model": "/home/alice/models/svd-xt"},
        error={"type": "RuntimeError", "message": "/home/alice/a/b.py: token hf_abcdefghijklmnopqrstuvwxyz012345"},
        command="svdkit profile --out /home/alice/results/mine",
    )
    text = json.dumps(made.to_dict())
    assert "alice" not in text
    assert "hf_" not in text
    assert made.load["model"] == "svd-xt"
    assert made.command == "svdkit profile --out mine"


def test_the_id_is_the_same_everywhere_and_always_and_changes_with_all_that_decides_a_run() -> None:
    """Its text is fixed: a sweep that an older svdkit of this version began is continued."""
    values = VALUES | {"code_version": "1"}
    assert run_id(**values) == run_id(**dict(reversed(values.items()))) == "f697f4dea6a8b11a"
    other = {"load": {"dtype": "fp16"}, "clip": {"seed": 2}, "image_sha256": None, "model": {"name": "svd"}}
    changed = {name: run_id(**values | {name: value}) for name, value in (other | {"code_version": "2"}).items()}
    assert len({*changed.values(), run_id(**values), run_id(**values | {"image_sha256": "cd"})}) == 7


def test_the_id_of_a_folder_does_not_depend_on_where_it_lies() -> None:
    here, there = ({"model": f"/home/{user}/svd-xt"} for user in ("alice", "bob"))
    assert run_id(**VALUES | {"load": here}) == run_id(**VALUES | {"load": there})


def test_records_are_read_in_the_order_written(tmp_path: Path) -> None:
    made = [record(steps=steps) for steps in (4, 10, 25)]
    for one in made:
        write_record(tmp_path / "results", one)
    assert read_records(tmp_path / "results") == made
    assert read_records(tmp_path / "results" / "records.jsonl") == made


def test_a_torn_last_line_is_left_out_and_then_replaced(tmp_path: Path) -> None:
    """At every byte where a crash may cut the last line, the others are read, and writing goes on cleanly."""
    file = tmp_path / "records.jsonl"
    first, second = record(steps=4), record(steps=10)
    write_record(file, first)
    whole = file.read_bytes()
    write_record(file, second)
    both = file.read_bytes()
    for cut in range(len(whole) + 1, len(both) - 1, 97):
        file.write_bytes(both[:cut])
        with pytest.warns(SvdkitWarning, match=r"records.jsonl: line 2 is torn, .*; its run has to be made again"):
            assert read_records(file) == [first]
        write_record(file, second)
        assert file.read_bytes() == both


@pytest.mark.parametrize(("start", "kept"), [(b'{"id": "12', 0), (json.dumps(record().to_dict()).encode(), 1)])
def test_a_first_line_that_is_torn_is_replaced_and_one_without_its_end_is_whole(
    tmp_path: Path, start: bytes, kept: int
) -> None:
    file = tmp_path / "records.jsonl"
    file.write_bytes(start)
    write_record(file, record(steps=10))
    assert read_records(file) == [record()] * kept + [record(steps=10)]


def test_a_kill_at_any_moment_loses_one_record_at_most(tmp_path: Path) -> None:
    """A process that writes without end is killed; what it said was written can be read."""
    code = (
        "import sys; from tests.bench_records import record; from svdkit.bench.record import write_record\n"
        "for steps in range(1, 900):\n"
        "    write_record(sys.argv[1], record(steps=steps)); print(steps, flush=True)"
    )
    root = Path(__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=root, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(5):
            said = child.stdout.readline()
        child.kill()
        said = (child.stdout.read().split() or [said])[-1]
    assert len(read_records(tmp_path)) in {int(said), int(said) + 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: this is not JSON"),
        ('{"a": 1}', "line 2: Record: schema_version is None; every record has one, a whole number"),
        ("[1]", "line 2: Record: a list is no record; give what to_dict() returned"),
        ("[" * 100_000, "line 2: this is not JSON"),
        ("\xff", "line 2: this is not JSON"),
    ],
)
def test_another_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "records.jsonl"
    good = json.dumps(record().to_dict())
    file.write_text(f"{good}\n{line}\n{good}\n", encoding="latin-1")
    with pytest.raises(SvdkitError, match=re.escape(message)):
        read_records(file)


def test_missing_and_unknown_names_are_listed() -> None:
    values = record().to_dict() | {"mood": "calm"}
    del values["load"], values["started_at"]
    with pytest.raises(
        SettingsError, match=r"3 problems\n- it lacks load\n- it lacks started_at\n- mood is not a name"
    ):
        Record.from_dict(values)


def test_the_golden_records_of_version_1_are_still_read() -> None:
    """The file is never written again: what svdkit once wrote it has to read for ever."""
    found = read_records(GOLDEN / "records-1.jsonl")
    assert [one.status for one in found] == ["ok"] * 5 + ["oom", "ok", "timeout"]
    assert found[0].samples["timed"]["total"][0] == 5.401177
    assert found[4].method == "composed"
    lines = [json.loads(line) for line in (GOLDEN / "records-1.jsonl").read_text().splitlines()]
    assert [one.to_dict() for one in found] == [line | {"processes": [], "schema_version": 2} for line in lines]


def test_the_golden_records_of_version_2_are_still_read() -> None:
    """Three lines of one run, of which two processes measured the first two; the third is of another machine."""
    first, other = read_records(GOLDEN / "records-2.jsonl")
    assert first.processes == [*["5f2c9a01"] * 3, *["c07d44be"] * 2]
    assert [len(each) for each in first.timed] == [3, 2]
    assert first.cost == {"throttled_fraction": [0.0, 0.2, 0.0, 0.0, 0.0], "energy_joules": 812.5, "never_warm": True}
    assert first.memory["total"]["device_bytes"] == 16_000_000_000
    assert other.environment["gpu"] == "NVIDIA L4"
    assert (GOLDEN / f"records-{SCHEMA_VERSION}.jsonl").is_file()  # a new version comes with its own


def test_a_version_that_never_was_is_refused() -> None:
    with pytest.raises(
        SvdkitError, match=r"records-0.jsonl, line 1: Record: schema version 0 was never written by svd"
    ):
        read_records(GOLDEN / "records-0.jsonl")


def test_an_older_version_is_read_by_its_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    """How a later svdkit will read today's records: with one function for each version."""

    def from_0(values: dict[str, Any]) -> dict[str, Any]:
        seconds = values.pop("seconds")
        return values | {"samples": {"timed": {"total": seconds}}}

    monkeypatch.setitem(module._UPGRADES, 0, from_0)
    (found,) = read_records(GOLDEN / "records-0.jsonl")
    assert found.schema_version == SCHEMA_VERSION
    assert len(found.samples["timed"]["total"]) == 5


def test_a_newer_version_says_update() -> None:
    values = record().to_dict() | {"schema_version": 99, "new_name": 1}
    with pytest.raises(
        SettingsError, match=r"schema version 99 is newer than 2, .*; update svdkit: pip install -U svd"
    ):
        Record.from_dict(values)


ADVICE = "give a results folder with records.jsonl in it, or a .jsonl file"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("nowhere", f"there is no nowhere/records.jsonl; {ADVICE}"),
        (5, "5 is no path of records; give a results folder, or a .jsonl file"),
        ("a\0b", f"'a\\x00b' cannot be read (embedded null byte); {ADVICE}"),
        ("x" * 300, f"'{'x' * 58}… cannot be read (File name too long); {ADVICE}"),
    ],
)
def test_what_is_no_file_of_records_is_said(
    given: Any, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SvdkitError) as caught:
        read_records(given)
    assert str(caught.value) == problem
