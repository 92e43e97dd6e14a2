"""A green run in which tests were skipped is not green: .ci/check_ran.py says so."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".ci" / "check_ran.py"


@pytest.fixture(scope="module")
def check_ran() -> Any:
    spec = importlib.util.spec_from_file_location("check_ran", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def complain(check_ran: Any, folder: Path, *cases: str) -> list[str]:
    """Write a report with these cases beside a tests folder that holds test_clip.py, and check it."""
    (folder / "tests").mkdir()
    (folder / "tests" / "test_clip.py").touch()
    report = folder / "tests.xml"
    report.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>", encoding="utf-8")
    found: list[str] = check_ran.complaints([report], files=(folder / "tests").glob("*.py"))
    return found


def case(name: str, inside: str = "", classname: str = "tests.test_clip") -> str:
    return f'<testcase classname="{classname}" name="{name}">{inside}</testcase>'


def skipped(why: str, kind: str = "pytest.skip") -> str:
    return f'<skipped type="{kind}" message="{why}">where</skipped>'


def test_a_run_without_skips_is_good(check_ran: Any, tmp_path: Path) -> None:
    assert complain(check_ran, tmp_path, case("test_save")) == []


def test_a_test_in_a_class_counts_for_its_file(check_ran: Any, tmp_path: Path) -> None:
    assert complain(check_ran, tmp_path, case("test_mp4", classname="tests.test_clip.TestSave")) == []


@pytest.mark.parametrize("why", ["needs a GPU", "needs CUDA 12", "needs a user who is not root"])
def test_what_the_machine_lacks_may_be_skipped(check_ran: Any, tmp_path: Path, why: str) -> None:
    assert complain(check_ran, tmp_path, case("test_save"), case("test_other", skipped(why))) == []


@pytest.mark.parametrize("why", ["no weights", "could not import 'cv2'", "", "later", "needs ray", "needs voila"])
def test_any_other_skip_is_a_fault(check_ran: Any, tmp_path: Path, why: str) -> None:
    found = complain(check_ran, tmp_path, case("test_save"), case("test_other", skipped(why)))
    assert found == [f"tests.test_clip::test_other was skipped: {why}"]


def test_an_expected_failure_has_run(check_ran: Any, tmp_path: Path) -> None:
    assert complain(check_ran, tmp_path, case("test_save"), case("t", skipped("a bug", kind="pytest.xfail"))) == []


def test_a_file_that_ran_nothing_is_a_fault(check_ran: Any, tmp_path: Path) -> None:
    assert complain(check_ran, tmp_path, case("t", classname="tests.test_image")) == ["test_clip.py ran no test"]


def test_a_file_in_which_all_was_skipped_is_a_fault(check_ran: Any, tmp_path: Path) -> None:
    assert complain(check_ran, tmp_path, case("t", skipped("needs a GPU"))) == ["test_clip.py ran no test"]


def test_it_reads_what_pytest_writes_and_fails(tmp_path: Path) -> None:
    """The script reads a report that this very pytest wrote, and its exit status says that a test was skipped."""
    (tmp_path / "tests").mkdir()
    source = "import pytest\ndef test_a(): pass\n@pytest.mark.skip(reason='no time')\ndef test_b(): pass\n"
    (tmp_path / "tests" / "test_small.py").write_text(source, encoding="utf-8")
    run = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", "tests.xml", "--rootdir", "."]
    subprocess.run([sys.executable, *run], cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, SCRIPT, "tests.xml"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout == "tests.test_small::test_b was skipped: no time\n"


def test_the_entry_point_can_be_run() -> None:
    entry = ROOT / ".ci" / "run"
    assert os.access(entry, os.X_OK)
    subprocess.run(["bash", "-n", entry], check=True)


def test_the_entry_point_proves_the_readme_before_it_installs_more() -> None:
    """As an ordinary user with Python and make; then what needs a browser, and no test twice."""
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    steps = ('"${newcomer[@]}" ', "dpkg")
    found = [line for line in text.splitlines() if line.startswith(steps) and " bash " not in line]
    assert [line.removeprefix(steps[0]) for line in found] == [
        'PATH="$place/bin" make demo',
        'PATH="$place/bin" make test',
        'dpkg -s "${more[@]}" >/dev/null 2>&1 || install "${more[@]}"',
        "make test-browser",
        "make test-long",
        ".venv/bin/python .ci/check_ran.py build/tests.xml build/browser.xml build/long.xml",
        "make test-colab",
        "make docs",
        "make lint",
    ]
