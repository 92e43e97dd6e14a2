"""The notebook that compares results folders: of other machines, of one folder alone, and of none."""

from __future__ import annotations

import csv
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from svdkit.bench.record import write_record
from svdkit.cli.notebook import run_notebook
from tests.bench_records import GPU, VERSIONS, record
from tests.test_quickstart import COLAB, ROOT, cells, faults, text_of
from tests.test_quickstart import source as quickstart_source

COMPARE = ROOT / "notebooks" / "04_compare_runs.ipynb"
# of the libraries that run notebooks, about one another
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def source(name: str) -> str:
    return next(str(cell["source"]) for cell in cells(COMPARE) if cell["id"] == name)


def test_what_a_reader_meets() -> None:
    """A badge for Colab, the quickstart's way to install, headings that ask, and what to notice after a result."""
    assert f"colab-badge.svg)]({COLAB.replace('01_quickstart', COMPARE.stem)})" in source("title")
    assert source("install") == quickstart_source("install")
    headings = re.findall(r"^##? (.+)$", "\n".join(cell["source"] for cell in cells(COMPARE)), re.MULTILINE)
    assert [heading.endswith("?") for heading in headings] == [True] * 12
    silent = [
        first["id"]
        for first, second in itertools.pairwise(cells(COMPARE))
        if (first["cell_type"], second["cell_type"]) == ("code", "markdown")
        and not second["source"].startswith("**Things to notice**")
    ]
    assert silent == ["install", "parameters", "measure", "money", "save"]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, in which the notebook's kernel finds this svdkit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def execute(folder: Path, **parameters: Any) -> list[dict[str, Any]]:
    """Run the notebook and give its cells, all of which ran well."""
    run_notebook(COMPARE, folder / "executed.ipynb", parameters=parameters)
    executed = cells(folder / "executed.ipynb")
    assert faults(executed) == []
    assert str(folder) not in json.dumps(executed)
    return executed


def two_machines(folder: Path) -> list[str]:
    """Write the same grid as two GPUs would leave it; the second is half as fast and fails once."""
    slow: dict[str, Any] = {"environment": GPU | VERSIONS | {"gpu": "NVIDIA T4", "vram_bytes": 16 * 2**30}}
    for steps, chunk in ((10, 2), (25, 2), (25, 5)):
        several: dict[str, Any] = {"steps": steps, "chunk": chunk, "processes": [*"aabbccc"]}
        write_record(folder / "h200", record(**several))
        write_record(folder / "t4", record(factor=2.0, **several, **slow))
    error = {"type": "OutOfMemoryError", "message": "no room"}
    write_record(folder / "t4", record(chunk=25, status="oom", samples={}, memory={}, order=[], error=error, **slow))
    return ["h200", "t4"]


def read_costs(folder: Path) -> list[dict[str, str]]:
    with (folder / "outputs" / "compare" / "costs.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_two_machines(workplace: Path) -> None:
    """Costs are the price of the folder's own hour; a comparison across hardware is made when it is allowed."""
    names = two_machines(workplace)
    prices = {"h200": 3.6, "t4": 0.36}
    executed = execute(workplace, results_folders=names, hourly_prices=prices, allow_different=["environment"])
    assert "NVIDIA H200" in text_of(executed, "overview")
    costs = read_costs(workplace)
    assert [row["folder"] for row in costs] == ["h200", "h200", "h200", "t4", "t4", "t4", "t4"]
    for row in costs:
        wanted = float(row["seconds"] or "nan") * prices[row["folder"]] / 3600 * 1000
        assert float(row["USD for 1,000 clips"] or "nan") == pytest.approx(wanted, nan_ok=True)
    compared = text_of(executed, "compare")
    assert "old: h200, new: t4" in compared
    assert text_of(executed, "changes").count(">slower<") == 3
    assert "only in new" in compared


@pytest.mark.slow
def test_other_hardware_is_refused_until_allowed(workplace: Path) -> None:
    executed = execute(workplace, results_folders=two_machines(workplace))
    assert "hardware or versions differ" in text_of(executed, "compare")


@pytest.mark.slow
def test_one_folder(workplace: Path) -> None:
    """The committed sweep alone: compared with itself, and no plot over steps, which it says."""
    executed = execute(workplace, results_folders=[(ROOT / "bench_results" / "motion").as_posix()])
    assert "old: motion, new: motion" in text_of(executed, "compare")
    assert "give timed records of at least two num_inference_steps" in text_of(executed, "steps")
    (row,) = read_costs(workplace)
    assert (row["folder"], row["runs"]) == ("motion", "40")


@pytest.mark.long
@pytest.mark.slow
def test_without_any_folder_it_measures_two(workplace: Path) -> None:
    """In an empty folder: micro with guidance and without, with repeats, so that rows can be judged."""
    executed = execute(workplace, num_inference_steps=1)
    assert "old: with_guidance, new: without_guidance" in text_of(executed, "compare")
    assert {row["folder"] for row in read_costs(workplace)} == {"with_guidance", "without_guidance"}
    assert re.search(r">(faster|same)<", text_of(executed, "changes"))  # on a noisy machine the same
