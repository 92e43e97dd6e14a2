"""What every test gets: versions in the header, a toy pipeline, no network, quiet threads, the same random cases."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import os
import platform
import socket
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Two pytest workers on two cores: one torch thread each, else they take each other's core and run four times slower.
# It has to stand in the environment before anything imports torch.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SHOWN = ("torch", "diffusers", "transformers", "accelerate", "numpy", "pillow", "imageio-ffmpeg", "mediapy")
NEEDS_MODEL = frozenset({"torch", "diffusers", "transformers", "accelerate", "tests.toy"})
# What a run may leave out, and the command that runs it; a test of both kinds is one of the first.
LEFT_OUT = {
    "browser": "tests in a browser: apt-get install chromium, then make test-browser",
    "long": "long tests: make test-long; and the panel with Colab's widgets: make test-colab",
}
left_out: Counter[str] = Counter()

# The same cases on every run and machine, and no deadline: a shared core makes one example slow now and then.
# To look for new cases: HYPOTHESIS_PROFILE=explore make test
hypothesis.settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("explore", parent=hypothesis.settings.get_profile("steady"), derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


def pytest_report_header() -> str:
    """Name the versions that a result depends on."""
    found = [f"{name} {version(name)}" for name in SHOWN]
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cpus, threads {threads}: {', '.join(found)}"


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a model, so that `make check` can leave it out without anybody having to remember.

    What drives a browser gets a second try, as Playwright's own runner gives it in CI: several programs of others
    take part, on a machine that may be busy. pytest names the tests that needed it.
    """
    for item in items:
        if "toy_pipe" in getattr(item, "fixturenames", ()) or imports(item.path, NEEDS_MODEL):
            item.add_marker(pytest.mark.model)
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count what is left out."""
    kinds = ((kind for kind in LEFT_OUT if item.get_closest_marker(kind)) for item in items)
    left_out.update(filter(None, (next(kind, None) for kind in kinds)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the counts to the process that started this one, where one did."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the counts of a worker of xdist: each collects the same."""
    left_out.update(Counter[str](getattr(node, "workeroutput", {}).get("left_out")) - left_out)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any) -> Iterator[None]:
    """Say below all else what was left out, and how to run it."""
    yield
    for kind, how in LEFT_OUT.items():
        if left_out[kind]:
            terminalreporter.line(f"left out: {left_out[kind]} {how}")


@functools.cache
def imports(path: Path, modules: frozenset[str]) -> bool:
    """Whether a test file imports one of some modules, or a part of one, anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return any(name == known or name.startswith(f"{known}.") for name in names for known in modules)


@pytest.fixture(scope="session")
def toy_pipe() -> Any:
    """Give diffusers' real StableVideoDiffusionPipeline at toy size, with random weights (one for all tests)."""
    from tests import toy

    return toy.toy_pipeline()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Give a headless Chromium; whatever asks for it is marked `browser`, and is skipped where there is none."""
    from tests.browser import CHROMIUM, browser

    if CHROMIUM is None:
        pytest.skip("needs chromium: apt-get install chromium")
    with browser() as running:
        yield running


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Refuse every connection that leaves this machine: a test that needs the network would fail on a train."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6} and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            raise ConnectionRefusedError(f"tests do not use the network, but one asked for {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield
