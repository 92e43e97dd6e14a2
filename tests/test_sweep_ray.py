"""The Ray engine, for real: a local cluster of two nodes, one of which is killed in the middle of a sweep."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from svdkit.clip import Clip
from svdkit.errors import PipelineError
from svdkit.sweep import plan_sweep, ray_engine, run_sweep
from svdkit.sweep.ray_engine import run_ray
from svdkit.sweep.results import Results
from tests.sweeps import DIES, FILLS, HANGS, LOSES_GPU, ROOT, Faulty, jobs_of, seeds
from tests.test_sweep_worker import plan_of
from tests.toy import write_hub_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from svdkit.bench.record import Record
    from svdkit.sweep import Plan


def ray_or_skip() -> Any:
    return pytest.importorskip("ray", reason="needs ray: pip install 'svdkit[ray]'")


def test_without_ray_the_engine_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PipelineError, match=r"engine 'ray' needs Ray: pip install 'svdkit\[ray\]', or use engine"):
        run_sweep(seeds(1), results=tmp_path, engine="ray", report=False)


@pytest.mark.parametrize(
    ("address", "variable", "asked", "told"),
    [
        (None, "", {"address": "local", "_node_ip_address": "127.0.0.1"}, "Ray could not be started here (late); try"),
        (None, "10.0.0.1:6379", {"address": "10.0.0.1:6379"}, "no Ray cluster at address='10.0.0.1:6379' (late); "),
        ("auto", "", {"address": "auto"}, "no Ray cluster at address='auto' (late); start one with `ray start --head`"),
    ],
)
def test_only_a_cluster_listens_to_other_machines(
    monkeypatch: pytest.MonkeyPatch, address: str | None, variable: str, asked: dict[str, str], told: str
) -> None:
    """And Ray that is not there in time, which it says by a plain Exception, is an error of ours."""
    heard: list[dict[str, Any]] = []

    def init(**options: Any) -> None:
        heard.append(options)
        raise Exception("late")  # noqa: TRY002 - Ray's own

    monkeypatch.setenv("RAY_ADDRESS", variable)
    ray = ray_or_skip()
    for name, stand_in in {"is_initialized": bool, "init": init, "shutdown": int}.items():
        monkeypatch.setattr(ray, name, stand_in)
    with pytest.raises(PipelineError, match=rf"^{re.escape(told)}"):
        ray_engine._connect(address)
    assert [{name: said[name] for name in ("address", "_node_ip_address") if name in said} for said in heard] == [asked]


LISTENING = """
import json, psutil, ray
from svdkit.sweep.ray_engine import _connect
_connect(None)
ray.get(ray.remote(lambda: 1).remote())
me = psutil.Process()
found = [one.laddr.ip for process in (me, *me.children(recursive=True)) for one in process.net_connections("inet")
         if one.status == psutil.CONN_LISTEN]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_ray_on_one_machine_listens_to_it_alone() -> None:
    ray_or_skip()
    how: dict[str, Any] = {
        "env": {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "", "RAY_AUTH_MODE": "disabled"}
    }
    done = subprocess.run([sys.executable, "-c", LISTENING], check=True, capture_output=True, text=True, **how)
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) > 3
    assert set(found) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_what_shares_a_denoise_is_one_batch() -> None:
    """Decode chunks and playback rates come after it."""
    axes = {"seed": [1, 2], "decode_chunk_size": [2, 7], "playback_fps": [5, 10]}
    jobs = plan_sweep("rocket", axes=axes, forecast=False).jobs
    assert len({job.keys["denoise"] for job in jobs}) == 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of two CPU slots each, and a driver connected to them."""
    ray = ray_or_skip()
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("OMP_NUM_THREADS", "1")
        size = {"num_cpus": 2, "object_store_memory": 100 << 20}
        found = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
        found.second = found.add_node(**size)
        ray.init(address=found.address, logging_level="error", log_to_driver=False)
        yield found
        ray.shutdown()
        found.shutdown()


def run(plan: Plan, folder: Path, *, runner: Any = Faulty, timeout_seconds: float = 60.0, **how: Any) -> list[Record]:
    """Run a plan with the engine alone, and commit as the driver does."""
    jobs = jobs_of(plan)
    with Results(folder) as results:
        for outcome in run_ray(jobs, timeout_seconds=timeout_seconds, runner=runner, **how):
            results.commit(*outcome)
        return [results.finished[job.id] for job in jobs]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
class TestOnACluster:
    """Slow, for Ray takes its time to start."""

    def test_trouble_is_rows_and_the_others_are_made(self, cluster: Any, tmp_path: Path) -> None:
        plan = seeds(1, DIES, 2, LOSES_GPU, HANGS, 3)
        records = run(plan, tmp_path, timeout_seconds=30)
        found = {record.clip["seed"]: (record.status, (record.error or {}).get("type")) for record in records}
        assert {seed: found[seed] for seed in (1, 2, 3)} == dict.fromkeys((1, 2, 3), ("ok", None))
        assert found[DIES] == ("error", "WorkerDied")
        assert found[LOSES_GPU] == ("error", "RuntimeError")
        assert found[HANGS] == ("timeout", "Timeout")

    def test_a_full_disk_stops_the_sweep(self, cluster: Any, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="No space left"):
            run(seeds(FILLS, *range(8)), tmp_path)

    @pytest.mark.long
    def test_a_node_is_killed_in_the_middle(self, cluster: Any, tmp_path: Path) -> None:
        """Every run ends well, and the records are those of the local engine but for times."""
        model = write_hub_folder(tmp_path / "toy-svd")
        axes = {"seed": list(range(12)), "decode_chunk_size": [2, 4]}
        plan = plan_of(model, axes=axes)
        local = run_sweep(plan, results=tmp_path / "local", report=False, progress=False)
        done: list[Record] = []
        jobs = jobs_of(plan, quality=True)
        with Results(tmp_path / "ray") as results:
            for outcome in run_ray(jobs, timeout_seconds=120):
                results.commit(*outcome)
                done.append(outcome.record)
                if len(done) == 4:
                    cluster.remove_node(cluster.second, allow_graceful=False)
        assert len(done) == 24
        for expected, record in zip(local.records, sorted(done, key=lambda run: run.order), strict=True):
            assert timeless(record) == timeless(expected)
            files = [tmp_path / where / "runs" / expected.id / "clip.mp4" for where in ("ray", "local")]
            assert (Clip.read(files[0]).frames == Clip.read(files[1]).frames).all()


def timeless(record: Record) -> dict[str, Any]:
    """Give a record without what is of the moment: times, memory, and whether a stage was shared."""
    left_out = {"samples", "started_at", "memory", "cost", "method", "processes"}
    return {name: value for name, value in record.to_dict().items() if name not in left_out}
