"""The notebook of parameter sweeps: what a reader meets, and that it runs and leaves what it says."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from svdkit.bench.record import read_records
from svdkit.cli.notebook import _check_parameters, run_notebook
from tests.test_quickstart import ROOT, cells, faults, text_of
from tests.test_quickstart import source as quickstart_source

SWEEP = ROOT / "notebooks" / "02_parameter_sweep.ipynb"
COLAB = "https://colab.research.google.com/github/svdkit/svdkit/blob/main/notebooks/02_parameter_sweep.ipynb"
KINDS = ["code", "markdown"]
TINY: dict[str, Any] = {
    "photos": ["cat", "coffee"],
    "motion_bucket_ids": [30, 220],
    "seeds": [4],
    "num_inference_steps": 2,
    "decode_chunk_sizes": [3, 14],
    "results_folder": "my sweep",
}

# of the libraries that run notebooks, about one another
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def source(name: str) -> str:
    return next(str(cell["source"]) for cell in cells(SWEEP) if cell["id"] == name)


def test_what_a_reader_meets() -> None:
    """It opens on Colab, installs as the quickstart does, asks, shows what to notice, and is honest about micro."""
    assert f"colab-badge.svg)]({COLAB})" in source("title")
    assert source("install") == quickstart_source("install")
    headings = re.findall(r"^##? (.+)$", "\n".join(cell["source"] for cell in cells(SWEEP)), re.MULTILINE)
    assert len(headings) == 14
    assert [heading for heading in headings if not heading.endswith("?")] == []
    pairs = [pair for pair in itertools.pairwise(cells(SWEEP)) if [one["cell_type"] for one in pair] == KINDS]
    silent = [first["id"] for first, then in pairs if not then["source"].startswith("**Things to notice**")]
    assert silent == ["install", "parameters"]
    title = " ".join(source("title").replace("\n> ", "\n").split())
    assert "a camera that goes to the lighter side of the photo, or closer" in title
    assert "It says nothing of how a full model answers" in title


def test_the_command_for_terminals_takes_its_parameters() -> None:
    """The line that the notebook prints is one that svdkit accepts."""
    line = re.search(r"`svdkit notebook 02_parameter_sweep (.+)`", source("parameters-why"))
    assert line is not None
    pairs = re.findall(r"-p (\w+) '?([^'`]+?)'?(?= -p|$)", line.group(1))
    values, folder = _check_parameters(SWEEP, pairs, output_folder=None)
    assert values == {"seeds": [1, 2, 3, 4, 5], "num_inference_steps": 25}
    assert folder == Path("outputs/motion")


@pytest.mark.slow
def test_it_runs_and_answers_its_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every parameter reaches the clips; the numbers shown are those of the records."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run_notebook(SWEEP, tmp_path / "executed.ipynb", parameters=TINY)
    executed = cells(tmp_path / "executed.ipynb")
    assert faults(executed) == []
    assert str(tmp_path) not in json.dumps(executed)
    records = read_records(tmp_path / "my sweep")
    assert len(records) == 8
    assert {run.image["source"] for run in records} == {"cat", "coffee"}
    assert {run.clip["num_inference_steps"] for run in records} == {2}
    plan = text_of(executed, "plan")
    assert "8 runs: 2 photos" in plan
    assert "shared work: 1 load, 2 encodes, 4 denoises, 8 decodes" in plan
    assert "8 of 8 runs ended well; my sweep" in text_of(executed, "run")
    assert "8 of 8 runs ended well; my sweep, this time in" in text_of(executed, "again")
    assert "on one L4" in text_of(executed, "price")
    assert "over all 4 clips" in text_of(executed, "answer")
    for run in records:
        if run.clip["motion_bucket_id"] == 30 and run.clip["decode_chunk_size"] == 3:
            assert f"{run.quality['motion_percent_width_per_second']:.2f}" in text_of(executed, "answer")
    assert "my sweep/index.html" in text_of(executed, "report")
    assert (tmp_path / "my sweep" / "index.html").is_file()
