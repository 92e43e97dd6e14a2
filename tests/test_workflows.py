"""The workflows and the Dockerfile: checkers pass, and fail on planted faults; what jobs may do, and for how long."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
CHECKERS = {
    "actionlint": ["actionlint"],
    "zizmor": ["zizmor", "--offline", "--quiet", ".github"],
    "schema": ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", ".github/workflows/gpu.yml"],
    "action": ["check-jsonschema", "--builtin-schema", "vendor.github-actions", ".github/actions/gpu/action.yml"],
    "hadolint": ["hadolint", "Dockerfile"],
}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTION = ROOT / ".github" / "actions" / "gpu" / "action.yml"


def check(checker: str, folder: Path) -> subprocess.CompletedProcess[str]:
    name, *words = CHECKERS[checker]
    return subprocess.run([str(BIN / name), *words], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout with nothing but what is checked here."""
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    shutil.copy(ROOT / "Dockerfile", tmp_path)
    (tmp_path / ".git").mkdir()  # by which actionlint finds the project
    return tmp_path


@pytest.mark.parametrize("checker", CHECKERS)
def test_they_are_in_order(copy: Path, checker: str) -> None:
    done = check(checker, copy)
    assert (done.returncode, done.stdout if checker == "actionlint" else "") == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("checker", "name", "old", "new", "words"),
    [
        (
            "actionlint",
            ".github/workflows/gpu.yml",
            "inputs.model ||",
            "inputs.modle ||",
            'property "modle" is not defined',
        ),
        ("actionlint", ".github/workflows/gpu.yml", "needs: cpu", "needs: gpus", "does not exist in"),
        ("zizmor", ".github/workflows/gpu.yml", "@3d3c42e5aac5ba805825da76410c181273ba90b1", "@v7", "unpinned-uses"),
        ("zizmor", ".github/workflows/gpu.yml", "persist-credentials: false", "fetch-depth: 1", "artipacked"),
        ("zizmor", ".github/workflows/gpu-label.yml", '"$NUMBER"', '"${{ github.head_ref }}"', "template-injection"),
        (
            "zizmor",
            ".github/workflows/gpu-label.yml",
            "# zizmor: ignore[dangerous-triggers]",
            "#",
            "dangerous-triggers",
        ),
        ("schema", ".github/workflows/gpu.yml", "timeout-minutes: 30", "timeout-minutes: [30]", "timeout-minutes"),
        ("action", ".github/actions/gpu/action.yml", "using: composite", "using: compost", "compost"),
        ("hadolint", "Dockerfile", "USER 10001", "USER root", "DL3002"),
    ],
)
def test_a_planted_fault_is_found(copy: Path, checker: str, name: str, old: str, new: str, words: str) -> None:
    file = copy / name
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    done = check(checker, copy)
    assert done.returncode != 0
    assert words in done.stdout + done.stderr


def read(path: Path) -> dict[str, Any]:
    """Read a workflow; PyYAML takes the key ``on`` for a truth value."""
    found: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {("on" if name is True else name): value for name, value in found.items()}


def jobs() -> dict[str, dict[str, Any]]:
    return {f"{path.stem}/{name}": job for path in WORKFLOWS for name, job in read(path)["jobs"].items()}


def test_nothing_is_allowed_but_what_a_job_asks_for() -> None:
    assert [path.name for path in WORKFLOWS if read(path)["permissions"] != {}] == []
    asked = {name: job["permissions"] for name, job in jobs().items() if job["permissions"] != {"contents": "read"}}
    assert asked == {"gpu/report": {"issues": "write"}, "gpu-label/remove": {"pull-requests": "write"}}


def test_every_job_ends_by_itself() -> None:
    assert [name for name, job in jobs().items() if "timeout-minutes" not in job] == []


def test_a_secret_is_where_no_pull_request_gets() -> None:
    """The one job that has a secret is started by hand or by the clock."""
    with_secret = {name: job for name, job in jobs().items() if "secrets." in yaml.safe_dump(job)}
    assert [*with_secret] == ["gpu/gpu-trained"]
    condition = with_secret["gpu/gpu-trained"]["if"]
    assert re.findall(r"event_name == '(\w+)'", condition) == ["workflow_dispatch", "schedule"]


def test_nothing_of_a_pull_request_runs_with_rights_to_write() -> None:
    triggers = {path.stem: read(path)["on"] for path in WORKFLOWS}
    assert [name for name, on in triggers.items() if "pull_request_target" in on] == ["gpu-label"]
    steps = jobs()["gpu-label/remove"]["steps"]
    assert [step for step in steps if "uses" in step] == []


def test_a_gpu_is_paid_for_after_a_cpu_has_run_the_same() -> None:
    needs = {name: job.get("needs") for name, job in jobs().items() if name.startswith("gpu/")}
    assert (needs["gpu/gpu"], needs["gpu/gpu-trained"], needs["gpu/colab"]) == ("cpu", "gpu", "cpu")


def test_what_they_run_are_make_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    texts = [path.read_text(encoding="utf-8") for path in [*WORKFLOWS, ACTION]]
    named = {name for text in texts for name in re.findall(r"run: make ([\w-]+)", text)}
    rules = {name for line in re.findall(r"(?m)^([\w -]+):(?!=)", makefile) for name in line.split()}
    assert {"check", "notebooks", "wheel", "gpu-install", "gpu-look", "gpu-notebooks", "gpu-compare"} <= named <= rules


@pytest.mark.parametrize(
    ("after", "code", "words"),
    [
        ("torch==2.11.0\nsvdkit @ file:///here\n", 0, "added: svdkit file:///here"),
        ("torch==2.13.0\n", 1, "torch: 2.11.0 -> 2.13.0"),
        ("numpy==2.1.3\n", 1, "torch: 2.11.0 -> gone"),
    ],
)
def test_an_install_may_only_add(tmp_path: Path, after: str, code: int, words: str) -> None:
    (tmp_path / "before.txt").write_text("torch==2.11.0\n", encoding="utf-8")
    (tmp_path / "after.txt").write_text(after, encoding="utf-8")
    command = [sys.executable, str(ROOT / ".ci" / "only_added.py"), "before.txt", "after.txt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, words in done.stdout) == (code, True), done.stdout
