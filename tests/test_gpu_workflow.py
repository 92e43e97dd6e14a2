"""The workflow for a GPU runner, run here by act: its own file, its own steps, and this machine in the runner's place.

Two things stand in for what GitHub has: actions/upload-artifact, which is fetched from there, is a copy into a folder;
and the containers are left out. The model is micro, which needs no GPU.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from svdkit.bench.record import read_records, write_record
from tests.bench_records import record

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.long

UPLOAD = re.search(
    r"actions/upload-artifact@\w+", (ROOT / ".github" / "actions" / "gpu" / "action.yml").read_text(encoding="utf-8")
)
STAND_IN = """
name: copies instead of uploading
inputs: {name: {}, path: {}, retention-days: {}, include-hidden-files: {}}
runs:
  using: composite
  steps:
    - run: mkdir -p "$ARTIFACTS/$NAME" && cp -r $FILES/. "$ARTIFACTS/$NAME"
      shell: bash
      env: {NAME: "${{ inputs.name }}", FILES: "${{ inputs.path }}"}
"""


class Done:
    """How a run of the workflow ended."""

    def __init__(self, process: subprocess.CompletedProcess[str], artifacts: Path) -> None:
        self.log, self.code, self.artifacts = process.stdout + process.stderr, process.returncode, artifacts

    @property
    def jobs(self) -> dict[str, str]:
        """How each job ended that ran."""
        return dict(re.findall(r"\[gpu/([\w-]+) *\] 🏁  Job (succeeded|failed)", self.log))


@pytest.fixture
def act(tmp_path: Path) -> Callable[..., Done]:
    (tmp_path / "upload").mkdir()
    (tmp_path / "upload" / "action.yml").write_text(STAND_IN, encoding="utf-8")
    assert UPLOAD is not None

    def run(
        event: str,
        *,
        payload: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
        variables: dict[str, str] | None = None,
        **given: str,
    ) -> Done:
        words = [str(Path(sys.executable).with_name("act")), event, "-W", ".github/workflows/gpu.yml", "-j", "gpu"]
        words += [f"--action-cache-path={tmp_path / 'cache'}", "--no-cache-server", "--concurrent-jobs=1"]
        words += ["-P", "ubuntu-latest=-self-hosted", "-P", "gpu-t4=-self-hosted"]
        words += ["--local-repository", f"{UPLOAD[0]}={tmp_path / 'upload'}"]
        known = {"GPU_PYTHON": sys.executable, "ARTIFACTS": str(tmp_path / "artifacts"), "OMP_NUM_THREADS": "1"}
        options = {"env": known | (env or {}), "var": {"GPU_CONTAINER": '""'} | (variables or {}), "input": given}
        for option, values in options.items():
            words += [word for name, value in values.items() for word in (f"--{option}", f"{name}={value}")]
        if payload:
            (tmp_path / "event.json").write_text(json.dumps(payload), encoding="utf-8")
            words += ["-e", str(tmp_path / "event.json")]
        outside = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
        done = subprocess.run(words, cwd=ROOT, env=outside, capture_output=True, text=True, timeout=900, check=False)
        return Done(done, tmp_path / "artifacts")

    return run


def write(folder: Path, *code: str, name: str = "fixture", parameters: str = "results_folder = ''") -> str:
    """Write a notebook whose cells do something on the GPU job alone; the job before it passes them by."""
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [
        nbformat.v4.new_code_cell(f"import os\nif os.environ['GITHUB_JOB'] == 'gpu':\n    {line}") for line in code
    ]
    path = folder / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return str(path)


def test_three_notebooks_from_trigger_to_artefacts(act: Callable[..., Done]) -> None:
    """The notebooks of the default, executed and as pages, the records, and a page for the job."""
    done = act("workflow_dispatch", model="micro", env={"HOURLY_PRICE": "3.6"})
    assert done.code == 0, done.log[-3000:]
    assert done.jobs == {"gpu": "succeeded"}
    folder = done.artifacts / "gpu"
    ran = json.loads((folder / "notebooks.json").read_text(encoding="utf-8"))
    names = ["01_quickstart", "02_parameter_sweep", "03_performance_profile"]
    assert [(row["notebook"], row["outcome"]) for row in ran] == [(name, "ok") for name in names]
    assert [name for name in names if not (folder / name / "notebook.html").is_file()] == []
    assert {one.status for one in read_records(folder / "03_performance_profile")} == {"ok"}
    assert (folder / "02_parameter_sweep" / "index.html").is_file()
    page = done.log.partition("⚙  Summary - ")[2]
    assert page.startswith("## micro, trained weights, on a CPU")
    assert re.search(r"\| 03_performance_profile \| ok \| [\d.]+ (s|min)", page)
    assert re.search(r"of the runner, its start and set-up apart, \$0\.\d+ at 3\.6 an hour", page)
    assert "clip time (95 %)" in page


@pytest.mark.parametrize(("label", "jobs"), [("docs", {}), ("gpu", {"cpu": "succeeded", "gpu": "succeeded"})])
def test_a_pull_request_runs_by_its_label_alone(
    act: Callable[..., Done], tmp_path: Path, label: str, jobs: dict[str, str]
) -> None:
    payload = {"action": "labeled", "label": {"name": label}, "pull_request": {"number": 7}}
    variables = {"GPU_MODEL": "micro", "GPU_NOTEBOOKS": write(tmp_path, "pass")}
    done = act("pull_request", payload=payload, variables=variables)
    assert done.jobs == jobs, done.log[-2000:]


@pytest.mark.parametrize(
    ("line", "env", "words"),
    [
        ("os.kill(os.getpid(), 9)", {}, "the kernel of fixture.ipynb died"),
        ("1 / 0", {}, "cell 3 of fixture.ipynb failed: ZeroDivisionError"),
        ("import time; time.sleep(300)", {"CELL_MINUTES": "0.1"}, "a cell of fixture.ipynb took longer than 0.1 min"),
        ("import time; time.sleep(300)", {"NOTEBOOK_MINUTES": "0.2"}, "fixture: stopped after 0.2 min"),
    ],
    ids=["dead kernel", "error", "slow cell", "slow notebook"],
)
def test_a_notebook_that_does_not_end_well_fails_the_job(
    act: Callable[..., Done], tmp_path: Path, line: str, env: dict[str, str], words: str
) -> None:
    """What was executed until then is kept, and the page of the job says what became of it."""
    done = act("workflow_dispatch", model="micro", notebooks=write(tmp_path, line), env=env)
    assert done.jobs == {"gpu": "failed"}, done.log[-2000:]
    assert words in done.log
    assert (done.artifacts / "gpu" / "fixture" / "notebook.ipynb").is_file()
    page = done.log.partition("⚙  Summary - ")[2]
    assert re.search(r"\| fixture \| (failed \(1\)|stopped after)", page)


def test_a_runner_without_a_gpu_is_found_out_first(act: Callable[..., Done], tmp_path: Path) -> None:
    """Before it the CPU has run the same; with micro, as above, that would be the same twice."""
    done = act("workflow_dispatch", model="svd-xt", notebooks=write(tmp_path, "pass"))
    assert done.jobs == {"cpu": "succeeded", "gpu": "failed"}, done.log[-2000:]
    assert "error: torch finds no GPU on this runner, and svd-xt needs one" in done.log
    assert not (done.artifacts / "gpu" / "fixture").exists()


@pytest.mark.parametrize(("factor", "ended"), [(1.5, "failed"), (1.0, "succeeded")])
def test_what_became_slower_fails_the_job(act: Callable[..., Done], tmp_path: Path, factor: float, ended: str) -> None:
    """The last accepted profile of the same GPU is in a folder of its name."""
    several: dict[str, Any] = {"processes": [*"aabbccc"]}
    write_record(tmp_path / "accepted" / "nvidia-h200-svd-xt-random", record(**several))
    write_record(tmp_path / "new", record(factor=factor, **several))
    line = f"import shutil; shutil.copy({str(tmp_path / 'new' / 'records.jsonl')!r}, results_folder)"
    notebook = write(tmp_path, line, name="03_performance_profile")
    done = act("workflow_dispatch", model="micro", notebooks=notebook, env={"ACCEPTED": str(tmp_path / "accepted")})
    assert done.jobs == {"gpu": ended}, done.log[-3000:]
    assert ("1 row slower by more than 10%" in done.log) == (ended == "failed")
