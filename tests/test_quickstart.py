"""The quickstart notebook: what a reader meets, what installing leaves alone, and that it runs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from svdkit.cli import app, notebook
from svdkit.cli.notebook import run_notebook
from svdkit.clip import Clip
from tests.toy import write_hub_folder

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "notebooks" / "01_quickstart.ipynb"
COLAB = "https://colab.research.google.com/github/svdkit/svdkit/blob/main/notebooks/01_quickstart.ipynb"

# of the libraries that run notebooks, about one another
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def cells(path: Path = QUICKSTART) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found]


def source(name: str) -> str:
    """Give the text of the cell with an id."""
    return next(str(cell["source"]) for cell in cells() if cell["id"] == name)


def test_it_is_that_of_the_demo_opens_on_colab_asks_questions_and_is_honest_about_micro() -> None:
    assert notebook._DEMO == QUICKSTART
    assert f"colab-badge.svg)]({COLAB})" in cells()[0]["source"]
    headings = re.findall(r"^## (.+)$", "\n".join(cell["source"] for cell in cells()), re.MULTILINE)
    assert len(headings) == 11
    assert all(heading.endswith("?") for heading in headings)
    assert "The model here is called *micro*" in source("title")
    assert "never a photograph" in source("title")


def test_after_a_result_there_is_something_to_notice() -> None:
    """Installing and setting parameters show nothing; every other cell of code does."""
    shown = cells()
    followers = {
        cell["id"]: after["source"]
        for cell, after in itertools.pairwise(shown)
        if cell["cell_type"] == "code" and cell["id"] not in {"install", "parameters"}
    }
    assert len(followers) == 10
    assert [name for name, text in followers.items() if not text.startswith("**Things to notice**")] == []


def test_the_first_clip_comes_soon() -> None:
    before = list(itertools.takewhile(lambda cell: cell["id"] != "clip", cells()))
    assert len(before) < 4
    assert len(" ".join(cell["source"] for cell in before).split()) < 250


def test_its_parameters_are_those_of_the_demo() -> None:
    """The demo hands over only what differs, so the defaults have to be the same."""
    names: dict[str, Any] = {}
    exec(source("parameters"), names)
    usual = {name: each.default for name, each in inspect.signature(notebook.demo).parameters.items()}
    assert {name: names[name] for name in usual} == usual | {"output_folder": usual["output_folder"].as_posix()}
    assert {"num_inference_steps", "motion_bucket_id", "seed", "fps", "fit_mode", "focus"} <= names.keys()


class Shell:
    """Stands in for IPython's shell and keeps what would have been run."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, str]] = []

    def run_line_magic(self, name: str, line: str) -> None:
        self.ran.append((name, line))


def install() -> list[tuple[str, str]]:
    """Run the cell that installs, as IPython would."""
    from IPython.core.inputtransformer2 import TransformerManager

    shell = Shell()
    exec(TransformerManager().transform_cell(source("install")), {"get_ipython": lambda: shell})
    return shell.ran


def test_installing_does_nothing_where_svdkit_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert install() == []
    assert list(tmp_path.iterdir()) == []


def test_installing_keeps_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip is told the very versions that are here, torch's above all, and the file holds nothing that is not here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert install() == [
        ("pip", "install --quiet --constraint keep.txt git+https://github.com/svdkit/svdkit"),
    ]
    kept = dict(line.split("==") for line in (tmp_path / "keep.txt").read_text(encoding="utf-8").splitlines())
    assert {"torch", "numpy", "pillow"} <= kept.keys()
    assert kept == {name: importlib.metadata.version(name) for name in kept}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, in which the notebook's kernel finds this svdkit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def faults(executed: list[dict[str, Any]]) -> list[str]:
    """List the cells of code that failed or were not run."""
    return [
        cell["id"]
        for cell in executed
        if cell["cell_type"] == "code"
        and (not cell["execution_count"] or any(output["output_type"] == "error" for output in cell["outputs"]))
    ]


def text_of(executed: list[dict[str, Any]], name: str) -> str:
    """Give all that a cell shows, as JSON."""
    return json.dumps(next(cell["outputs"] for cell in executed if cell["id"] == name))


def children_seconds() -> float:
    """Processor seconds of the processes that ended here; what else the machine does is not in it."""
    times = os.times()
    return times.children_user + times.children_system


@pytest.mark.slow
def test_the_demo_on_micro(workplace: Path) -> None:
    """As `make demo` runs it: everything is there, says that it is of micro, and took less than three minutes."""
    start = children_seconds()
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 0, result.output
    assert children_seconds() - start < 180
    folder = workplace / "outputs" / "quickstart"
    names = {"clip.mp4", "clip.json", "clip.photo.png", QUICKSTART.name, "01_quickstart.html"}
    assert names == {path.name for path in folder.iterdir()}
    executed = cells(folder / QUICKSTART.name)
    assert faults(executed) == []
    assert "made again" in text_of(executed, "replay")
    assert text_of(executed, "motion").count("<video") == 2
    assert str(workplace) not in json.dumps(executed)
    clip = Clip.read(folder / "clip.mp4")
    assert clip.provenance is not None
    assert clip.provenance.kind == "micro"
    assert clip.label == "micro · 14 frames · 7 fps · bucket 127 · seed 7"
    assert (folder / "01_quickstart.html").stat().st_size < 5_000_000


@pytest.mark.slow
def test_another_model_photo_and_size(workplace: Path) -> None:
    """Every parameter reaches the clip; the model is a folder, as a user's own would be."""
    model, ids = write_hub_folder(workplace / "toy-svd"), {cell["id"] for cell in cells()}
    parameters = {
        "photo": str(ROOT / "svdkit" / "samples" / "coffee.jpg"),
        "model": str(model),
        "fit_mode": "pad",
        "num_inference_steps": 2,
        "motion_bucket_id": 60,
        "fps": 9,
        "seed": 3,
        "output_folder": "my clips",
    }
    run_notebook(QUICKSTART, workplace / "executed.ipynb", parameters=parameters)
    executed = [cell for cell in cells(workplace / "executed.ipynb") if cell["id"] in ids]
    assert len(executed) == len(ids)
    assert faults(executed) == []
    made = Clip.read(workplace / "my clips" / "clip.mp4").provenance
    assert made is not None
    assert (made.kind, made.name, made.image["source"], made.image["mode"]) == ("svd", "toy-svd", "coffee.jpg", "pad")
    wanted = {"num_inference_steps": 2, "motion_bucket_id": 60, "fps": 9, "seed": 3}
    assert wanted.items() <= made.settings.items()
