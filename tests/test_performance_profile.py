"""The profile notebook: what a reader meets, and that it measures, draws and keeps what it says."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from svdkit import read_records
from svdkit.cli.notebook import run_notebook
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


def test_what_a_reader_meets() -> None:
    """A badge for Colab, the quickstart's way to install, headings that ask, what to notice, honesty about micro."""
    title, install = cells(NOTEBOOK)[0]["source"], cells(NOTEBOOK)[2]["source"]
    assert f"colab-badge.svg)]({COLAB.replace('01_quickstart', NOTEBOOK.stem)})" in title
    for said in ("The model measured here is called *micro*", "they say nothing", "the pictures are noise"):
        assert said in title
    assert install == source("install")  # which is tested to leave torch alone
    headings = re.findall(r"^## (.+)$", "\n".join(cell["source"] for cell in cells(NOTEBOOK)), re.MULTILINE)
    assert [heading.endswith("?") for heading in headings] == [True] * 17
    shown = [cell for cell in cells(NOTEBOOK) if cell["id"] != "reason-why"]  # the choice and its reasons are one
    noticed = [
        after["source"].startswith("**Things to notice**")
        for cell, after in itertools.pairwise(shown)
        if cell["cell_type"] == "code" and cell["id"] not in {*SILENT, "choice"}
    ]
    assert noticed == [True] * 15


def test_its_parameters_are_those_that_change_a_profile() -> None:
    """The defaults run anywhere: micro, nothing that only a GPU has, a card and a model that svdkit knows."""
    given = parameters()
    assert [*given] == [
        *("model", "weights", "num_inference_steps", "decode_chunk_size", "dtype", "memory", "photo"),
        *("repeats", "budget_seconds", "forecast_model", "gpu", "hourly_price", "currency", "results_folder"),
    ]
    assert [given[name] for name in ("model", "weights", "dtype", "memory")] == ["micro", "trained", *[["auto"]] * 2]
    assert find_card(given["gpu"]).name == given["gpu"]
    assert find_model(given["forecast_model"]).name == given["forecast_model"]
    assert given["results_folder"].startswith("bench_results/")


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
