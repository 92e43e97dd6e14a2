"""The promises of tests/conftest.py: which tests need a model, and that none reaches the network."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.conftest import DRIVES_A_BROWSER, NEEDS_MODEL, imports, pytest_report_header


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


def test_what_drives_a_browser_and_nothing_else_gets_a_second_try() -> None:
    here = Path(__file__).parent
    found = {path.stem for path in here.glob("test_*.py") if imports(path, DRIVES_A_BROWSER)}
    assert found == {"test_player", "test_report", "test_ui_lab", "test_ui_page"}


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
