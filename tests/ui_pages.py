"""The panel in a browser, started as a user would: the page of `svdkit app`, JupyterLab, Notebook 7."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHOTS = ROOT / "build" / "screenshots"
# Voila's and JupyterLab's own: a style sheet of symbols, which they have on disk too, and a missing favicon. The
# notebook's: its badge. Notebook 7.6's: its settings, on an empty notebook too.
EXPECTED = re.compile(r"cdn\.jsdelivr\.net/npm/@fortawesome|favicon|colab-badge\.svg|undefined \(reading 'schema'\)")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@contextlib.contextmanager
def server(command: list[str], address: str, *, folder: Path, seconds: float = 60) -> Iterator[Path]:
    """Run a server until the block ends; give the file with its output."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    log = SHOTS.parent / f"server-{address.rpartition(':')[2]}.log"
    quiet = {"OMP_NUM_THREADS": "1", "JUPYTER_PREFER_ENV_PATH": "1", "JUPYTER_CONFIG_DIR": str(folder / "config")}
    with log.open("wb") as out:
        started = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **quiet}, stdout=out, stderr=out, start_new_session=True
        )
        try:
            wait_for(address, started, seconds=seconds, log=log)
            yield log
        finally:
            os.killpg(started.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)


def wait_for(address: str, started: subprocess.Popen[bytes], *, seconds: float, log: Path) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and started.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), 1):
            return
        time.sleep(0.2)
    raise AssertionError(f"the server did not come up:\n{log.read_text(errors='replace')[-3000:]}")


@contextlib.contextmanager
def app(folder: Path, *options: str) -> Iterator[str]:
    """Run `svdkit app` on micro; give its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "svdkit", "app", "--model", "micro", "--no-browser", "--port", str(port)]
    with server([*command, *options], address, folder=folder) as log:
        printed = re.search(rf"{address}/\?token=\S+", log.read_text(encoding="utf-8"))
        assert printed is not None
        yield printed.group()


@contextlib.contextmanager
def jupyter(folder: Path, *, front: str) -> Iterator[str]:
    """Run "jupyterlab" or "notebook" (Jupyter Notebook 7) in a folder; give its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    options = {
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "IdentityProvider.token": "",
        "ServerApp.password": "",
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "ServerApp.root_dir": folder,
        "LabApp.news_url": None,
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    command = [sys.executable, "-m", front, *(f"--{name}={value}" for name, value in options.items())]
    with server(command, address, folder=folder):
        yield address


@contextlib.contextmanager
def open_page(running: Any, address: str, **context: Any) -> Iterator[Any]:
    """Open an address in a context of its own; an error in a script fails the test."""
    opened = running.new_context(accept_downloads=True, **{"viewport": {"width": 1280, "height": 1000}, **context})
    opened.set_default_timeout(60_000)
    page = opened.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(f"script: {error}"))
    page.on("console", lambda line: faults.append(f"{line.text} {line.location}") if line.type == "error" else None)
    page.goto(address)
    try:
        yield page
    finally:
        opened.close()
    unexpected = [fault for fault in faults if not EXPECTED.search(fault)]
    assert not unexpected, unexpected


class PanelPage:
    """A panel on a page, by what a person calls its parts."""

    def __init__(self, page: Any, *, scroll: bool = False) -> None:
        self.page = page
        self.root = page.locator(".svdkit-panel")
        if scroll:
            self.root.scroll_into_view_if_needed()
        self.root.wait_for()
        self.root.locator(".svdkit-photo img").wait_for()
        page.locator(".svdkit-panel[data-svdkit=live]").wait_for()

    def button(self, name: str) -> Any:
        return self.root.get_by_role("button", name=name)

    def press(self, button: Any) -> None:
        """Click what may be below a player.

        The player is a sandboxed frame, a process of its own to Chromium: a click that follows a scroll at once is
        still handed to whatever was there before the scroll. A person is slower.
        """
        button.scroll_into_view_if_needed()
        self.page.wait_for_timeout(500)
        button.click()

    def field(self, name: str) -> Any:
        return self.root.get_by_role("spinbutton", name=name, exact=True)

    def slider(self, name: str) -> Any:
        return self.root.get_by_role("slider", name=name, exact=True)

    def set(self, name: str, value: object) -> None:
        self.field(name).fill(str(value))
        self.field(name).press("Tab")

    @property
    def state(self) -> str:
        return str(self.root.locator(".svdkit-state").inner_text()).strip()

    def wait_state(self, pattern: str, *, seconds: float = 60) -> str:
        """Wait until the line of state matches; a pattern that never does fails with what it said instead."""
        end, seen = time.monotonic() + seconds, ""
        while time.monotonic() < end:
            seen = self.state
            if re.search(pattern, seen):
                return seen
            time.sleep(0.05)
        raise AssertionError(f"the panel never said {pattern!r}; last it said {seen!r}")

    def upload(self, path: Path) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.button("Upload a photo").click()
        chooser.value.set_files(path)

    def photo(self) -> str:
        """The picture that shows what will be cut."""
        return str(self.root.locator(".svdkit-photo img").get_attribute("src"))

    def new_photo(self, before: str) -> str:
        self.page.wait_for_function("before => document.querySelector('.svdkit-photo img').src !== before", arg=before)
        return self.photo()

    def video(self) -> dict[str, float]:
        """What the browser knows of the clip once it can play."""
        self.page.wait_for_function("document.querySelector('.svdkit-result video')?.readyState >= 3")
        found: dict[str, float] = self.page.evaluate(
            "(() => { const v = document.querySelector('.svdkit-result video');"
            " return {ready: v.readyState, seconds: v.duration, width: v.videoWidth, height: v.videoHeight}; })()"
        )
        return found

    def shoot(self, name: str) -> None:
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)
