"""The promises of tests/conftest.py: which tests need a model, and that none reaches the network."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import NEEDS_MODEL, imports, pytest_report_header

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "import torch.nn.functional as F",
        "from diffusers import StableVideoDiffusionPipeline",
        "def test_a():\n    import torch",
        "from tests import toy",
        "from tests.toy import toy_pipeline",
    ],
)
def test_a_file_that_imports_torch_or_the_toy_needs_a_model(tmp_path: Path, source: str) -> None:
    (tmp_path / "test_a.py").write_text(source, encoding="utf-8")
    assert imports(tmp_path / "test_a.py", NEEDS_MODEL)


@pytest.mark.parametrize("source", ["import numpy", "import torchless", "# import torch", "from tests import helpers"])
def test_any_other_file_does_not(tmp_path: Path, source: str) -> None:
    (tmp_path / "test_a.py").write_text(source, encoding="utf-8")
    assert not imports(tmp_path / "test_a.py", NEEDS_MODEL)


OF_EACH_KIND = """
import pytest
def test_a(): pass
@pytest.fixture
def page(chromium): pass
def test_b(page): pass
@pytest.mark.long
def test_c(): pass
@pytest.mark.long
def test_d(page): pass
"""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_the_last_lines_say_what_was_left_out_and_what_adds_it(tmp_path: Path, workers: str) -> None:
    """A test that asks for a browser, through whatever fixture, needs no mark by hand; xdist counts too."""
    (tmp_path / "test_small.py").write_text(OF_EACH_KIND, encoding="utf-8")
    run = ["-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-n", workers, "--rootdir", str(tmp_path)]
    run += ["-c", "pyproject.toml", "-m", "not long and not browser", str(tmp_path)]
    done = subprocess.run([sys.executable, *run], cwd=ROOT, check=True, capture_output=True, text=True)
    assert [line for line in done.stdout.splitlines() if line][-3:-1] == [
        "left out: 2 tests in a browser: apt-get install chromium, then make test-browser",
        "left out: 1 long tests: make test-long; and the panel with Colab's widgets: make test-colab",
    ]


def test_without_chromium_a_test_in_a_browser_is_skipped_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "test_small.py").write_text(OF_EACH_KIND, encoding="utf-8")
    run = ["-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "pyproject.toml", str(tmp_path)]
    bare = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, *run], cwd=ROOT, check=True, capture_output=True, text=True, env=bare)
    assert "needs chromium: apt-get install chromium" in done.stdout
    assert "2 passed, 2 skipped" in done.stdout


def test_this_test_needs_no_model(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("model") is None


def test_the_network_is_out_of_reach() -> None:
    with pytest.raises(ConnectionRefusedError, match="tests do not use the network, but one asked for"):
        socket.create_connection(("192.0.2.1", 443), timeout=0.1)


def test_this_machine_is_within_reach() -> None:
    """Notebook kernels talk to their client over a local port."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_the_header_names_versions() -> None:
    assert "torch 2." in pytest_report_header()
    assert "imageio-ffmpeg 0.6.0" in pytest_report_header()
