"""The driver: every run ends as the right row, nothing finished is lost or repeated, whatever is killed."""

from __future__ import annotations

import errno
import importlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner

from svdkit.bench.record import read_records
from svdkit.child import Child
from svdkit.errors import ClipError, SvdkitError
from svdkit.sweep import results as results_module
from svdkit.sweep import run_sweep, sweep, worker
from svdkit.sweep.run import _Display
from tests.sweeps import DIES, FAILS_SECOND, FILLS, HANGS, LOSES_GPU, ROOT, WORKER, jobs_of, seeds

if TYPE_CHECKING:
    from svdkit.sweep import Plan, Sweep

DIED = "the worker ended by signal 9 (SIGKILL); Linux ends processes by signal 9 when memory is short, in each of 2"
FULL = Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
ALLOWED = 8  # seconds: a worker's start takes half a second, and ten times that on a busy machine


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "WORKER", WORKER)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def run(plan: Plan, folder: Path, **how: Any) -> Sweep:
    return run_sweep(plan, results=folder, report=False, **how)


def ends(found: Sweep) -> dict[int, tuple[str, str]]:
    return {record.clip["seed"]: (record.status, (record.error or {}).get("message", "")) for record in found.records}


def watch_children(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Keep every worker process that is started."""
    children: list[Any] = []

    def start(*given: Any, **how: Any) -> Any:
        children.append(Child(*given, **how))
        return children[-1]

    monkeypatch.setattr(worker, "Child", start)
    return children


def committed(folder: Path) -> dict[str, list[Any]]:
    """Say what is in every committed run, so that a second making of it would show."""
    found = {}
    for place in (folder / "runs").iterdir():
        stats = [(place / name).stat() for name in ("clip.mp4", "poster.jpg", "record.json")]
        assert all(stat.st_size for stat in stats)
        assert json.loads((place / "record.json").read_text(encoding="utf-8"))["id"] == place.name
        found[place.name] = [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]
    return found


def test_a_sweep_leaves_a_results_folder_and_starting_again_repeats_nothing(tmp_path: Path) -> None:
    """A record keeps what was forecast, of a run that failed too."""
    plan = seeds(1, LOSES_GPU)
    each = ({"gpu": "a CPU", "seconds": 7.5}, {"gpu": "a CPU", "seconds": 8.5})
    plan = replace(plan, jobs=tuple(replace(job, forecast=one) for job, one in zip(plan.jobs, each, strict=True)))
    found = run(plan, tmp_path, command="svdkit sweep seeds.yaml")
    assert str(found) == f"1 of 2 runs ended well (1 error); {tmp_path.as_posix()}"
    names = {".lock", "environment.json", "records.jsonl", "runs", "sweep.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    asked = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    assert asked["asked"]["axes"] == {"seed": [1, LOSES_GPU]}
    assert asked["runs"] == [record.id for record in found.records]
    assert asked["options"]["command"] == "svdkit sweep seeds.yaml"
    assert [record.forecast["seconds"] for record in read_records(tmp_path)] == [7.5, 8.5]
    before = committed(tmp_path)
    assert set(before) == {found.records[0].id}
    found, first = run(seeds(1, LOSES_GPU, 3), tmp_path), found.records[1]
    assert len(found.records) == len(read_records(tmp_path)) == 3
    assert before.items() <= committed(tmp_path).items()
    assert found.records[1] == first  # failed runs are final until asked for
    again = run(seeds(1, LOSES_GPU), tmp_path, retry_failed=True).records[1]
    assert (again.id, again.started_at > first.started_at) == (first.id, True)
    assert len(read_records(tmp_path)) == 3


def test_a_run_that_is_poison_hangs_or_loses_the_gpu_is_a_row_and_the_sweep_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a new worker each time; the time allowed is for one run, not for all."""
    started = watch_children(monkeypatch)
    found = ends(run(seeds(1, LOSES_GPU, 2, DIES, 3, HANGS, 4), tmp_path, timeout_seconds=ALLOWED))
    assert found == {
        **dict.fromkeys((1, 2, 3, 4), ("ok", "")),
        DIES: ("error", f"{DIED} tries of this run"),
        HANGS: ("timeout", "run: no answer in 8 s; the worker was killed"),
        LOSES_GPU: ("error", "CUDA error: an illegal memory access was encountered"),
    }
    assert len(started) == 5


@pytest.mark.parametrize("trouble", [LOSES_GPU, DIES])
def test_a_reload_that_fails_once_costs_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: int
) -> None:
    """As when the memory of a worker that died is not free yet."""
    monkeypatch.setenv("SVDKIT_TEST_LOADS", str(tmp_path / "loads"))
    found = ends(run(seeds(1, trouble, 2, 3, load={"weights": "random", "random_seed": FAILS_SECOND}), tmp_path))
    assert [seed for seed, (status, _) in found.items() if status != "ok"] == [trouble]


@pytest.mark.parametrize(
    ("random_seed", "status", "message"),
    [
        (1, "error", "no such weights"),
        (DIES, "error", f"{DIED} tries of this load"),
        (HANGS, "timeout", "load: no answer in 8 s; the worker was killed"),
    ],
)
def test_a_model_that_cannot_be_loaded_fails_its_runs_once(
    tmp_path: Path, random_seed: int, status: str, message: str
) -> None:
    """The runs of other loads are made."""
    plan = seeds(1, 2, load={"weights": "random", "random_seed": random_seed})
    both = replace(plan, jobs=(*plan.jobs, *seeds(1, load={"weights": "random"}).jobs))
    found = run(both, tmp_path, timeout_seconds=ALLOWED if status == "timeout" else 60)
    ended = [(record.status, (record.error or {}).get("message")) for record in found.records]
    assert ended == [(status, message), (status, message), ("ok", None)]


def test_a_full_disk_of_the_worker_stops_the_sweep_and_it_continues(tmp_path: Path) -> None:
    with pytest.raises(SvdkitError, match=r"the disk of .* is full: the sweep stopped after 1 runs, .*it continues"):
        run(seeds(1, FILLS, 2), tmp_path)
    assert [record.clip["seed"] for record in read_records(tmp_path)] == [1]
    assert len(run(seeds(1, 2), tmp_path).records) == 2


def test_a_full_disk_of_the_driver_stops_the_sweep_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line of the first run cannot be written; its folder is there, and the next start finds it."""
    with monkeypatch.context() as patch:
        patch.setattr(results_module, "write_record", FULL)
        with pytest.raises(SvdkitError, match="is full: the sweep stopped after 0 runs"):
            run(seeds(1, 2), tmp_path)
    before = committed(tmp_path)
    assert len(before) == 1
    run(seeds(1, 2), tmp_path)
    assert before.items() <= committed(tmp_path).items()
    assert len(read_records(tmp_path)) == 2


@pytest.mark.parametrize("then", ["nothing", "an empty folder"])
def test_a_results_folder_that_is_removed_stops_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    folder, ended = tmp_path / "results", []

    def remove(self: _Display, record: Any) -> None:
        ended.append(record.status)
        shutil.rmtree(folder)
        if then == "an empty folder":
            folder.mkdir()

    monkeypatch.setattr(_Display, "ended", remove)
    with pytest.raises(SvdkitError, match="is gone: the folder was removed or moved, its disk dropped off, or another"):
        run_sweep(seeds(1, 2, 3), results=folder)
    assert ended == ["ok"]
    assert [*folder.iterdir()] == [] if then == "an empty folder" else not folder.exists()


def test_a_sweep_tries_its_encoder_and_its_disk_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = watch_children(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
        told = r"a \.mp4 file: ffmpeg cannot be started .*; run: pip install imageio-ffmpeg"
        with pytest.raises(ClipError, match=told):
            run(seeds(1), tmp_path / "results")
    assert not (tmp_path / "results").exists()
    full = Mock(side_effect=OSError(errno.EDQUOT, "x"))
    monkeypatch.setattr(importlib.import_module("svdkit.sweep.run"), "try_room", full)
    with pytest.raises(SvdkitError, match="cannot be written: your disk quota is used up; free some space"):
        run(seeds(1), tmp_path, scale=2)
    assert (full.call_args.args[1], children) == (14 * 72 * 128 * 3 * 4, [])


def test_the_plan_is_printed_where_the_output_is_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    sweep("rocket", axes={"seed": [1]}, results=tmp_path, forecast=False, report=False, quality=False)
    sys.stdout.seek(0)
    assert sys.stdout.readline() == "1 run: 1 photo ? seed (1)\n"


def test_an_interrupt_ends_the_worker_and_keeps_what_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children = watch_children(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(_Display, "ended", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(seeds(1, 2), tmp_path)
    assert children[0]._process.poll() is not None
    assert len(read_records(tmp_path)) == 1
    assert len(run(seeds(1, 2), tmp_path).records) == 2


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"results": None}, r"there is no results folder \(results=None\); give results='bench_results/NAME'"),
        ({"results": ""}, r"there is no results folder \(results=''\); give results='bench_results/NAME'"),
        ({"engine": "dask"}, "engine='dask' is not known; give .* engine='local' or 'ray'"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds=inf: must be seconds above 0; a day is 86400"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds=nan: must be"),
        ({"results": __file__}, "cannot be written: a part of that path is a file, not a folder; use another folder"),
    ],
)
def test_what_a_sweep_needs(tmp_path: Path, how: dict[str, Any], told: str) -> None:
    with pytest.raises(SvdkitError, match=told):
        run_sweep(seeds(1), **{"results": tmp_path / "x", **how})
    assert not (tmp_path / "x").exists()


def test_progress_in_a_log_is_quiet_and_names_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(seeds(1, 2, LOSES_GPU, 3, 4), tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"1/5 runs, 0 failed, about .* left", lines[0])
    assert lines[1].endswith("error: RuntimeError: CUDA error: an illegal memory access was encountered")
    assert lines[2:] == ["5/5 runs, 1 failed"]
    run(seeds(1, 2, LOSES_GPU, 3, 4), tmp_path, progress=False)
    assert capsys.readouterr().err == ""


def test_time_left_comes_from_the_runs_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that failed has ended too; what was there already says nothing."""
    clock = iter([0.0, 30.0, 40.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    jobs = jobs_of(seeds(*range(5)))
    display = _Display(jobs, {jobs[4].id: jobs[4].record(status="ok", environment={})}, shown=False)
    assert str(display) == "1/5 runs, 0 failed"
    display.ended(jobs[0].record(status="ok", environment={}))
    assert str(display) == "2/5 runs, 0 failed, about 1 min 30 s left"
    display.ended(jobs[1].record(status="error", environment={}, error={"type": "X", "message": "y"}))
    assert str(display) == "3/5 runs, 1 failed, about 40 s left"


DRIVER = """
import sys
from pathlib import Path
from svdkit.sweep import worker, plan_sweep, run_sweep
from tests.sweeps import WORKER, seeds
if sys.argv[2] == "noop":
    worker.WORKER = WORKER
    plan = seeds(*range(200))
else:
    how = {"load": {"model": sys.argv[2]}, "clip": {"num_inference_steps": 2}, "forecast": False}
    plan = plan_sweep("rocket", axes={"seed": list(range(20)), "decode_chunk_size": [1, 2, 4]}, **how)
run_sweep(plan, results=sys.argv[1], report=False, quality=False)
"""


def children_of(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children() if child.is_running()]
    except psutil.NoSuchProcess:
        return []


def kill_at_random(folder: Path, model: str, *, kills: int, seed: int) -> list[str]:
    """Start the driver again and again, and kill it or its worker at random moments until it ends by itself.

    Returns what was killed. After each kill every committed run is whole and as it was before.
    """
    chance = random.Random(seed)
    before: dict[str, list[Any]] = {}
    killed: list[str] = []
    # Two threads on a busy machine wait for each other, 50 times slower.
    how: dict[str, Any] = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}}
    how |= {"stderr": subprocess.DEVNULL, "start_new_session": True}
    while True:
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(folder), model], **how)
        worker_was_killed = False
        while driver.poll() is None and len(killed) < kills:
            have = len(before)
            while driver.poll() is None and len(list(folder.glob("runs/*"))) <= have:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.1))
            workers = children_of(driver.pid)
            # One worker a driver: a run that kills two is poison, which this run would then be taken for.
            victim = workers[0] if workers and not worker_was_killed and chance.random() < 0.5 else driver.pid
            worker_was_killed |= victim != driver.pid
            os.kill(victim, signal.SIGKILL)
            killed.append("driver" if victim == driver.pid else "worker")
            if victim == driver.pid:
                driver.wait()
            found = committed(folder)
            assert before.items() <= found.items()
            before = found
        if driver.wait() == 0:
            found = committed(folder)
            assert before.items() <= found.items()
            return killed


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize(
    ("is_real", "kills", "count"),
    [(False, 6, 200), pytest.param(True, 20, 60, marks=[pytest.mark.long, pytest.mark.slow])],
)
def test_killed_at_random_moments(tmp_path: Path, is_real: bool, kills: int, count: int) -> None:
    """With runs that make no clip, so that this is quick: real processes, files and locks; and with clips of toy."""
    from tests.toy import write_hub_folder

    model = str(write_hub_folder(tmp_path / "toy-svd")) if is_real else "noop"
    killed = kill_at_random(tmp_path / "results", model, kills=kills, seed=1 if is_real else 3)
    assert set(killed) == {"driver", "worker"}
    assert not is_real or len(killed) == kills
    records = read_records(tmp_path / "results")
    assert [record.status for record in records] == ["ok"] * count
    assert set(committed(tmp_path / "results")) == {record.id for record in records}
    assert len({record.id for record in records}) == count


# The command


@pytest.fixture
def app() -> Any:
    import typer

    from svdkit.cli.make import sweep
    from svdkit.cli.options import Commands

    found = typer.Typer(cls=Commands)
    found.command()(sweep)
    found.callback()(lambda debug=False: None)
    return found


def command(app: Any, file: Path, axes: str, *words: object) -> Any:
    file.write_text(f"photos: [rocket]\naxes: {axes}\nforecast: false\n", encoding="utf-8")
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["sweep", str(file), *map(str, words)])


@pytest.mark.parametrize(
    ("axes", "words", "code", "said"),
    [
        ("{seed: [1, 2]}", ("--dry-run", "-o", "out"), 0, "2 runs: 1 photo × seed (2)\nshared work: 1 load, 2 encodes"),
        ("{seed: [-1], fps: [0]}", ("-o", "out"), 2, "2 problems"),
        ("{seed: [1]}", (), 2, "there is no results folder"),
        ("{seed: [1]}", ("--dry-run", "--forecast"), 0, "forecast: "),  # the option goes before the file
    ],
)
def test_the_command_checks_first(
    app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axes: str, words: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command(app, tmp_path / "a.yaml", axes, *words)
    assert done.exit_code == code
    assert said in done.output
    assert ("forecast: " in done.output) == ("--forecast" in words)
    assert not (tmp_path / "out").exists()


def test_the_command_fails_when_a_run_does(app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = importlib.import_module("svdkit.sweep")  # "import … as" would give the function of that name
    usual = home.run_sweep
    monkeypatch.setattr(home, "run_sweep", lambda plan, **how: usual(plan, **{**how, "report": False}))
    good = command(app, tmp_path / "a.yaml", "{seed: [1]}", "-o", tmp_path / "out")
    assert good.exit_code == 0
    assert "1 of 1 runs ended well" in good.output
    bad = command(app, tmp_path / "b.yaml", f"{{seed: [1, {LOSES_GPU}]}}", "-o", tmp_path / "out")
    assert bad.exit_code == 1
    assert "1 of 2 runs ended well (1 error)" in bad.output
    assert read_records(tmp_path / "out")[0].command == "svdkit sweep a.yaml -o out"  # without its user's folders
