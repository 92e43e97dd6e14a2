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

import pytest
from typer.testing import CliRunner

from svdkit.bench.record import read_records
from svdkit.child import Child
from svdkit.errors import ClipError, SettingsError, SvdkitError
from svdkit.sweep import plan_sweep, run_sweep, sweep, worker
from svdkit.sweep import results as results_module
from svdkit.sweep.run import _Display
from tests.sweeps import DIES, FAILS_SECOND, FILLS, HANGS, LOSES_GPU, SLOW, WORKER, jobs_of, seeds

if TYPE_CHECKING:
    from svdkit.sweep import Plan, Sweep

ROOT = Path(__file__).parents[1]
DIED = (
    "the worker ended by signal 9 (SIGKILL); Linux ends processes by signal 9 when memory is short, in each of 2 tries "
    "of this {}"
)
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
    usual = Child

    def start(*given: Any, **how: Any) -> Any:
        children.append(usual(*given, **how))
        return children[-1]

    monkeypatch.setattr(worker, "Child", start)
    return children


def committed(folder: Path) -> dict[str, tuple[int, ...]]:
    """Say what is in every committed run, so that a second making of it would show."""
    found = {}
    for run_folder in (folder / "runs").iterdir():
        sizes = []
        for name in ("clip.mp4", "poster.jpg", "record.json"):
            stat = (run_folder / name).stat()
            assert stat.st_size > 0
            sizes += [stat.st_ino, stat.st_size, stat.st_mtime_ns]
        assert json.loads((run_folder / "record.json").read_text(encoding="utf-8"))["id"] == run_folder.name
        found[run_folder.name] = tuple(sizes)
    return found


def test_a_sweep_leaves_a_results_folder(tmp_path: Path) -> None:
    found = run(seeds(1, 2, 3), tmp_path / "here", command="svdkit sweep seeds.yaml")
    assert str(found) == f"3 of 3 runs ended well; {(tmp_path / 'here').as_posix()}"
    assert set(committed(found.folder)) == {record.id for record in found.records}
    assert {path.name for path in found.folder.iterdir()} == {
        *(".lock", "environment.json", "records.jsonl", "runs", "sweep.json")
    }
    asked = json.loads((found.folder / "sweep.json").read_text(encoding="utf-8"))
    assert asked["asked"]["axes"] == {"seed": [1, 2, 3]}
    assert asked["runs"] == [record.id for record in found.records]
    assert asked["options"]["command"] == "svdkit sweep seeds.yaml"


def test_a_record_keeps_what_was_forecast(tmp_path: Path) -> None:
    """Of a run that failed too."""
    plan = seeds(1, DIES)
    each = ({"gpu": "a CPU", "seconds": 7.5}, {"gpu": "a CPU", "seconds": 8.5})
    plan = replace(plan, jobs=tuple(replace(job, forecast=one) for job, one in zip(plan.jobs, each, strict=True)))
    run(plan, tmp_path)
    kept = {record.clip["seed"]: record.forecast["seconds"] for record in read_records(tmp_path)}
    assert kept == {1: 7.5, DIES: 8.5}


def test_starting_again_repeats_nothing(tmp_path: Path) -> None:
    run(seeds(1, 2), tmp_path)
    before = committed(tmp_path)
    found = run(seeds(1, 2, 3), tmp_path)
    assert len(found.records) == 3
    assert {name: files for name, files in committed(tmp_path).items() if name in before} == before
    assert len(read_records(tmp_path)) == 3


def test_a_poison_run_is_a_row_and_the_sweep_goes_on(tmp_path: Path) -> None:
    assert ends(run(seeds(1, DIES, 2), tmp_path)) == {
        1: ("ok", ""),
        DIES: ("error", DIED.format("run")),
        2: ("ok", ""),
    }


def test_a_hung_run_is_a_row_and_the_sweep_goes_on(tmp_path: Path) -> None:
    found = ends(run(seeds(1, HANGS, 2), tmp_path, timeout_seconds=ALLOWED))
    assert found[HANGS] == ("timeout", "run: no answer in 8 s; the worker was killed")
    assert (found[1][0], found[2][0]) == ("ok", "ok")


def test_after_a_lost_gpu_another_worker_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = watch_children(monkeypatch)
    found = ends(run(seeds(1, LOSES_GPU, 2), tmp_path))
    assert [status for status, _ in found.values()] == ["ok", "error", "ok"]
    assert len(started) == 2


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
        (DIES, "error", DIED.format("load")),
        (HANGS, "timeout", "load: no answer in 8 s; the worker was killed"),
    ],
)
def test_a_model_that_cannot_be_loaded_fails_its_runs_once(
    tmp_path: Path, random_seed: int, status: str, message: str
) -> None:
    """The runs of other loads are made."""
    plan = seeds(1, 2, load={"weights": "random", "random_seed": random_seed})
    good = seeds(1, load={"weights": "random"})
    both = type(plan)(jobs=(*plan.jobs, *good.jobs), asked=plan.asked)
    found = run(both, tmp_path, timeout_seconds=ALLOWED if status == "timeout" else 60)
    assert [(record.status, (record.error or {}).get("message")) for record in found.records] == [
        (status, message),
        (status, message),
        ("ok", None),
    ]


def test_failed_runs_are_final_until_asked_for(tmp_path: Path) -> None:
    run(seeds(1, LOSES_GPU), tmp_path)
    assert len(read_records(tmp_path)) == 2
    first = run(seeds(1, LOSES_GPU), tmp_path).records[1]
    again = run(seeds(1, LOSES_GPU), tmp_path, retry_failed=True).records[1]
    assert first.id == again.id
    assert first.started_at < again.started_at
    assert len(read_records(tmp_path)) == 2


def test_a_full_disk_of_the_worker_stops_the_sweep_and_it_continues(tmp_path: Path) -> None:
    with pytest.raises(SvdkitError, match=r"the disk of .* is full: the sweep stopped after 1 runs, .*it continues"):
        run(seeds(1, FILLS, 2), tmp_path)
    assert [record.clip["seed"] for record in read_records(tmp_path)] == [1]
    assert len(run(seeds(1, 2), tmp_path).records) == 2


def test_a_full_disk_of_the_driver_stops_the_sweep_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line of the first run cannot be written; its folder is there, and the next start finds it."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(results_module, "write_record", full)
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


def test_a_sweep_tries_its_encoder_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    with pytest.raises(ClipError, match=r"a \.mp4 file: ffmpeg cannot be started .*; run: pip install imageio-ffmpeg"):
        run(seeds(1), tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_sweep_tries_its_disk_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def full(folder: Path, size: int) -> None:
        sizes.append(size)
        raise OSError(errno.EDQUOT, "x")

    children = watch_children(monkeypatch)
    monkeypatch.setattr(importlib.import_module("svdkit.sweep.run"), "try_room", full)
    with pytest.raises(SvdkitError, match="cannot be written: your disk quota is used up; free some space"):
        run(seeds(1), tmp_path, scale=2)
    assert (sizes, children) == ([14 * 72 * 128 * 3 * 4], [])


def test_the_plan_is_printed_where_the_output_is_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    sweep("rocket", axes={"seed": [1]}, results=tmp_path, forecast=False, report=False, quality=False)
    sys.stdout.seek(0)
    assert sys.stdout.readline() == "1 run: 1 photo ? seed (1)\n"


def test_an_interrupt_ends_the_worker_and_keeps_what_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: _Display, record: Any) -> None:
        raise KeyboardInterrupt

    children = watch_children(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(_Display, "ended", interrupt)
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
    ],
)
def test_what_a_sweep_needs(tmp_path: Path, how: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
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


def test_time_left_comes_from_the_work_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that share a denoise are short; a run that failed is done too."""
    clock = iter([0.0, 30.0, 34.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    axes = {"motion_bucket_id": [1, 2, 3, 4], "decode_chunk_size": [2, 7]}
    jobs = jobs_of(plan_sweep("rocket", clip={"num_inference_steps": 13}, axes=axes, forecast=False))
    display = _Display(jobs, {}, shown=False)
    assert str(display) == "0/8 runs, 0 failed"
    display.ended(jobs[0].record(status="ok", environment={}))
    assert str(display) == "1/8 runs, 0 failed, about 1 min 46 s left"  # 15 of 68 are done
    display.ended(jobs[1].record(status="error", environment={}, error={"type": "X", "message": "y"}))
    assert str(display) == "2/8 runs, 1 failed, about 1 min 42 s left"  # 17 of 68


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
    before: dict[str, tuple[int, ...]] = {}
    killed: list[str] = []
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }  # two threads on a busy machine wait for each other, 50 times slower
    while True:
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(folder), model],
            cwd=ROOT,
            env=env,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
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


def check_all_made_once(folder: Path, *, count: int) -> None:
    records = read_records(folder)
    assert [record.status for record in records] == ["ok"] * count
    assert len({record.id for record in records}) == count
    assert set(committed(folder)) == {record.id for record in records}


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_killed_at_six_random_moments(tmp_path: Path) -> None:
    """With runs that make no clip, so that this is quick: real processes, files and locks."""
    killed = kill_at_random(tmp_path, "noop", kills=6, seed=3)
    assert set(killed) == {"driver", "worker"}
    check_all_made_once(tmp_path, count=200)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    """With real clips of the toy model."""
    from tests.toy import write_hub_folder

    model = write_hub_folder(tmp_path / "toy-svd")
    killed = kill_at_random(tmp_path / "results", str(model), kills=20, seed=1)
    assert len(killed) == 20
    assert set(killed) == {"driver", "worker"}
    check_all_made_once(tmp_path / "results", count=60)


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


def command(app: Any, *words: object) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["sweep", *map(str, words)])


def write(path: Path, axes: str) -> Path:
    path.write_text(f"photos: [rocket]\naxes: {axes}\nforecast: false\n", encoding="utf-8")
    return path


def test_the_command_prints_the_plan_and_runs_nothing(app: Any, tmp_path: Path) -> None:
    done = command(app, write(tmp_path / "a.yaml", "{seed: [1, 2]}"), "--dry-run", "-o", tmp_path / "out")
    assert done.exit_code == 0
    assert done.output.startswith("2 runs: 1 photo × seed (2)\nshared work: 1 load, 2 encodes")
    assert not (tmp_path / "out").exists()


def test_the_command_lists_what_is_wrong(app: Any, tmp_path: Path) -> None:
    done = command(app, write(tmp_path / "a.yaml", "{seed: [-1], fps: [0]}"), "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert re.search(r"error: sweep: 2 problems\n- fps=0: .*\n- seed=-1: ", done.output) or "2 problems" in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("words", "shown"), [((), False), (("--forecast",), True), (("--no-forecast",), False)])
def test_the_option_goes_before_the_file(app: Any, tmp_path: Path, words: tuple[str, ...], *, shown: bool) -> None:
    done = command(app, write(tmp_path / "a.yaml", "{seed: [1]}"), "--dry-run", *words)
    assert ("forecast" in done.output) == shown


def test_the_command_without_a_results_folder(app: Any, tmp_path: Path) -> None:
    done = command(app, write(tmp_path / "a.yaml", "{seed: [1]}"))
    assert done.exit_code == 2
    assert "there is no results folder" in done.output


def test_the_command_fails_when_a_run_does(app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = importlib.import_module("svdkit.sweep")  # "import … as" would give the function of that name
    usual = home.run_sweep
    monkeypatch.setattr(home, "run_sweep", lambda plan, **how: usual(plan, **{**how, "report": False}))
    good = command(app, write(tmp_path / "a.yaml", "{seed: [1]}"), "-o", tmp_path / "out")
    assert good.exit_code == 0
    assert "1 of 1 runs ended well" in good.output
    bad = command(app, write(tmp_path / "b.yaml", f"{{seed: [1, {LOSES_GPU}]}}"), "-o", tmp_path / "out")
    assert bad.exit_code == 1
    assert "1 of 2 runs ended well (1 error)" in bad.output
    assert read_records(tmp_path / "out")[0].command == "svdkit sweep a.yaml -o out"  # without its user's folders


def test_a_slow_run_is_not_a_hung_one(tmp_path: Path) -> None:
    """The time allowed is for one run, not for all."""
    found = run(seeds(SLOW, *range(10)), tmp_path, timeout_seconds=30)
    assert found.failed == ()
