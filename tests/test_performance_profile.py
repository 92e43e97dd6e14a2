"""The profile notebook: what a reader meets, and that it measures, draws and keeps what it says."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from svdkit import read_records
from svdkit.cli.notebook import _check_parameters, run_notebook
from svdkit.forecast import find_card
from svdkit.models import find_model
from tests.test_quickstart import COLAB, ROOT, cells, children_seconds, faults, source, text_of, workplace

__all__ = ["workplace"]  # a fixture

NOTEBOOK = ROOT / "notebooks" / "03_performance_profile.ipynb"
PLOTS = ("waterfall", "steps", "memory", "pareto", "drift")
SILENT = {"install", "parameters"}  # cells of code that show nothing, or nothing yet

# of the libraries that run notebooks, about one another
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def parameters() -> dict[str, Any]:
    """Give the notebook's parameters with their defaults."""
    names: dict[str, Any] = {}
    exec(next(cell["source"] for cell in cells(NOTEBOOK) if cell["id"] == "parameters"), {}, names)
    return names


def test_it_opens_on_colab_by_a_badge() -> None:
    assert f"colab-badge.svg)]({COLAB.replace('01_quickstart', NOTEBOOK.stem)})" in cells(NOTEBOOK)[0]["source"]


def test_each_heading_is_a_question() -> None:
    headings = re.findall(r"^## (.+)$", "\n".join(cell["source"] for cell in cells(NOTEBOOK)), re.MULTILINE)
    assert len(headings) == 17
    assert all(heading.endswith("?") for heading in headings)


def test_after_a_result_there_is_something_to_notice() -> None:
    """The choice and its reasons are one result."""
    shown = [cell for cell in cells(NOTEBOOK) if cell["id"] != "reason-why"]
    followers = {
        cell["id"]: after["source"]
        for cell, after in itertools.pairwise(shown)
        if cell["cell_type"] == "code" and cell["id"] not in {*SILENT, "choice"}
    }
    assert len(followers) == 15
    assert [name for name, text in followers.items() if not text.startswith("**Things to notice**")] == []


def test_installing_is_that_of_the_quickstart() -> None:
    """Which is tested to leave torch alone."""
    assert cells(NOTEBOOK)[2]["source"] == source("install")


def test_it_is_honest_about_micro() -> None:
    title = cells(NOTEBOOK)[0]["source"]
    assert "The model measured here is called *micro*" in title
    assert "they say nothing" in title
    assert "the pictures are noise" in title


def test_its_parameters_are_those_that_change_a_profile() -> None:
    """The defaults run anywhere: micro, nothing that only a GPU has, a card and a model that svdkit knows."""
    given = parameters()
    assert [*given] == [
        *("model", "weights", "num_inference_steps", "decode_chunk_size", "dtype", "memory", "photo"),
        *("repeats", "budget_seconds", "forecast_model", "gpu", "hourly_price", "currency", "results_folder"),
    ]
    assert (given["model"], given["weights"], given["dtype"], given["memory"]) == (
        "micro",
        "trained",
        ["auto"],
        ["auto"],
    )
    assert find_card(given["gpu"]).name == given["gpu"]
    assert find_model(given["forecast_model"]).name == given["forecast_model"]
    assert given["results_folder"].startswith("bench_results/")


def test_its_parameters_can_be_given_in_the_terminal(tmp_path: Path) -> None:
    """`svdkit notebook` reads lists, and puts the records where everything else goes."""
    pairs = [("num_inference_steps", "[2, 25]"), ("dtype", "[fp16, bf16]"), ("budget_seconds", "900")]
    values, folder = _check_parameters(NOTEBOOK, pairs, output_folder=tmp_path)
    assert folder == tmp_path
    assert values == {
        "num_inference_steps": [2, 25],
        "dtype": ["fp16", "bf16"],
        "budget_seconds": 900,
        "results_folder": tmp_path.as_posix(),
    }


TINY = {
    "num_inference_steps": [2, 3],
    "decode_chunk_size": [7, 14],
    "repeats": 3,
    "budget_seconds": 0,
    "weights": "random",
    "hourly_price": 2.0,
    "currency": "CNY",
    "gpu": "RTX 3060",
    "results_folder": "kept here",
}


def run(folder: Path, **changes: Any) -> list[dict[str, Any]]:
    """Run the notebook with tiny parameters and give its cells as executed."""
    ids = {cell["id"] for cell in cells(NOTEBOOK)}
    run_notebook(NOTEBOOK, folder / "executed.ipynb", parameters=TINY | changes)
    executed = [cell for cell in cells(folder / "executed.ipynb") if cell["id"] in ids]
    assert len(executed) == len(ids)
    return executed


@pytest.mark.long
@pytest.mark.slow
def test_a_tiny_profile(workplace: Path) -> None:
    """All combinations are recorded and drawn, parameters reach what they are for; a second run measures nothing."""
    executed = run(workplace)
    assert faults(executed) == []
    records = read_records(workplace / "kept here")
    assert {record.status for record in records} == {"ok"}
    assert {record.model["weights"] for record in records} == {"random"}
    composed = [record.clip for record in records if record.method == "composed"]
    asked = {(clip["num_inference_steps"], clip["decode_chunk_size"]) for clip in composed}
    assert asked == {(2, 7), (2, 14), (3, 7), (3, 14)}
    assert [record.method for record in records].count("measured") == 2
    assert {len(record.timed) for record in records} == {3}  # processes
    assert all(len(record.samples["timed"]["total"]) == 3 for record in records)
    for name in PLOTS:
        assert '"image/png"' in text_of(executed, name), name
    assert "RTX 3060" in text_of(executed, "forecast")
    assert "\\u00a52.00 an hour" in text_of(executed, "forecast")
    assert "random" in text_of(executed, "table")
    assert text_of(executed, "reason").count("takes the least memory") == 2
    assert "random" in (workplace / "kept here" / "table.md").read_text(encoding="utf-8")
    assert str(workplace) not in json.dumps(executed)
    run(workplace)
    assert read_records(workplace / "kept here") == records


@pytest.mark.long
@pytest.mark.slow
def test_as_it_is(workplace: Path) -> None:
    """With its defaults it takes minutes, and its page is light.

    Less than four on two quick cores; on slow ones, beside other work, 551 and 559 s of both together were measured.
    Threads that wait had no part in it.
    """
    start = children_seconds()
    run_notebook(NOTEBOOK, workplace / "executed.ipynb", parameters={})
    assert children_seconds() - start < 2 * 480  # of two cores
    executed = cells(workplace / "executed.ipynb")
    assert faults(executed) == []
    records = read_records(workplace / parameters()["results_folder"])
    assert {record.method for record in records} == {"composed", "measured"}
    assert len([record for record in records if record.method == "composed"]) == 6
    assert (workplace / "executed.ipynb").stat().st_size < 2_000_000
