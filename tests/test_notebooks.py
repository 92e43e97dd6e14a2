"""The notebooks are the product's face: clean in git, short cells, more prose than code, and they run."""

from __future__ import annotations

import ast
import copy
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

Cell = dict[str, Any]
Notebook = dict[str, Any]


def read(path: Path) -> Notebook:
    found: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return found


def cells(notebook: Notebook, kind: str) -> list[Cell]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def lines(cell: Cell) -> int:
    """Count the lines of a cell that are neither blank nor a comment."""
    text = [line.strip() for line in "".join(cell["source"]).splitlines()]
    return sum(bool(line) and not line.startswith("#") for line in text)


def faults(notebook: Notebook) -> list[str]:
    """Say everything that keeps a notebook out of git; nothing when it is clean."""
    return [*faults_of_file(notebook), *faults_of_style(notebook)]


def faults_of_file(notebook: Notebook) -> list[str]:
    """Outputs, counters, ids, kernel, and the cell that papermill looks for."""
    code = cells(notebook, "code")
    ids = [cell.get("id") for cell in notebook["cells"]]
    kernel = notebook.get("metadata", {}).get("kernelspec", {}).get("name")
    tagged = sum("parameters" in cell["metadata"].get("tags", []) for cell in code)
    checks = {
        "a cell has outputs: clear them before a commit": any(cell["outputs"] for cell in code),
        "a cell has an execution count: clear it before a commit": any(cell["execution_count"] for cell in code),
        "a cell has no id": not all(ids),
        "two cells have the same id": len(set(ids)) < len(ids),
        "widget state is saved": "widgets" in notebook.get("metadata", {}),
        f"the kernelspec is {kernel}, not python3": kernel != "python3",
        f"{tagged} cells are tagged parameters, not one": tagged != 1,
        "the format is older than 4.5": (notebook["nbformat"], notebook["nbformat_minor"]) < (4, 5),
    }
    return [fault for fault, found in checks.items() if found]


def faults_of_style(notebook: Notebook) -> list[str]:
    """Short cells, prose between them, functions in the package and not here."""
    code, prose = cells(notebook, "code"), cells(notebook, "markdown")
    lengths = sorted(lines(cell) for cell in code)
    middle, long = statistics.median(lengths), lengths[int(0.9 * (len(lengths) - 1))]
    checks = {
        f"the median cell has {middle} lines, more than 4": middle > 4,
        f"one cell in ten has {long} lines or more; 12 are allowed": long > 12,
        f"{len(prose)} prose cells for {len(code)} code cells, fewer than 0.7 each": len(prose) < 0.7 * len(code),
        "a cell defines a function or a class: it belongs in svdkit": any(defines(cell) for cell in code),
    }
    return [fault for fault, found in checks.items() if found]


def defines(cell: Cell) -> bool:
    """Whether a cell defines a function or class; lines that are IPython's (% and !) are left out."""
    text = "\n".join(line for line in "".join(cell["source"]).splitlines() if not line.lstrip().startswith(("%", "!")))
    return any(
        isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)) for node in ast.walk(ast.parse(text))
    )


def good_notebook() -> Notebook:
    """Build the smallest notebook without a fault."""
    common: Cell = {"metadata": {"tags": ["parameters"]}, "outputs": [], "execution_count": None}
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "cells": [
            {"cell_type": "markdown", "id": "say", "metadata": {}, "source": ["# Title"]},
            {"cell_type": "code", "id": "do", "source": ["%matplotlib inline\n", "steps = 3"], **common},
        ],
    }


WIDGETS = {**good_notebook()["metadata"], "widgets": {}}


def spoil(**changes: Any) -> Notebook:
    """Change the code cell of the good notebook."""
    notebook = copy.deepcopy(good_notebook())
    notebook["cells"][1].update(changes)
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_clean_and_has_tests_that_run_it(path: Path) -> None:
    """01_quickstart in test_quickstart, and so on: from top to bottom, with parameters that make it quick."""
    assert faults(read(path)) == []
    tests = ROOT / "tests" / f"test_{path.stem.partition('_')[2] or path.stem}.py"
    assert re.search(r"run_notebook\(|execute_notebook\(|execute\(", tests.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("notebook", "fault"),
    [
        (spoil(outputs=[{"output_type": "stream"}]), "a cell has outputs: clear them before a commit"),
        (spoil(execution_count=7), "a cell has an execution count: clear it before a commit"),
        (spoil(id=None), "a cell has no id"),
        (spoil(id="say"), "two cells have the same id"),
        (spoil(metadata={}), "0 cells are tagged parameters, not one"),
        (spoil(source=["def f():\n", "    pass"]), "a cell defines a function or a class: it belongs in svdkit"),
        (spoil(source=["a = 1\n"] * 5), "the median cell has 5 lines, more than 4"),
        (good_notebook() | {"metadata": {}}, "the kernelspec is None, not python3"),
        (good_notebook() | {"metadata": WIDGETS}, "widget state is saved"),
        (good_notebook() | {"nbformat_minor": 4}, "the format is older than 4.5"),
    ],
)
def test_the_notebook_check_can_fail(notebook: Notebook, fault: str) -> None:
    assert faults(notebook) == [fault]


def test_long_cells_and_silent_ones_are_found() -> None:
    notebook = good_notebook()
    extra = [{**notebook["cells"][1], "id": f"more-{n}", "metadata": {}, "source": ["a = 1\n"] * 13} for n in range(9)]
    notebook["cells"] += extra
    assert faults(notebook) == [
        "the median cell has 13.0 lines, more than 4",
        "one cell in ten has 13 lines or more; 12 are allowed",
        "1 prose cells for 10 code cells, fewer than 0.7 each",
    ]
