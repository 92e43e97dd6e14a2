"""The notebook behind `svdkit app` runs from top to bottom; the command says no where it must."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

from svdkit.cli import web
from svdkit.cli.notebook import run_notebook
from svdkit.cli.options import RefusedInput
from svdkit.cli.tabs import MOST_TABS, Tabs
from svdkit.cli.web import _check_access, _free_port, _shown_host, absolute, is_loopback, write_app_notebook
from tests.test_cli import run as invoke

TOKEN = "open-sesame"
NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "app.ipynb"


def test_the_browser_is_led_by_a_file_so_that_no_process_shows_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[str]()
    monkeypatch.setattr(webbrowser, "open", opened.append)
    way_in = web._write_way_in(tmp_path, 'http://127.0.0.1:1/?token=a"b&c')
    with socket.create_server(("127.0.0.1", 0)) as answering:
        web.open_browser("127.0.0.1", answering.getsockname()[1], way_in)
    assert opened == [way_in.as_uri()]
    assert way_in.stat().st_mode & 0o077 == 0
    assert 'content="0; url=http://127.0.0.1:1/?token=a&quot;b&amp;c"' in way_in.read_text(encoding="utf-8")


def test_a_folder_is_given_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tabs' processes run in another folder; a name of the catalogue and a hub id are no folders."""
    monkeypatch.chdir(tmp_path)
    for name in ("my-svd", "svd"):
        (tmp_path / name).mkdir()
    assert absolute("./my-svd") == absolute("my-svd") == str(tmp_path / "my-svd")
    assert (absolute("svd"), absolute("./svd")) == ("svd", str(tmp_path / "svd"))
    assert absolute("somebody/my-svd") == "somebody/my-svd"


@pytest.mark.parametrize("installed", [False, True])
def test_the_notebook_runs_by_itself(tmp_path: Path, installed: bool) -> None:
    """Without `svdkit app` it shows the panel on micro; so does the one that an installed svdkit writes."""
    page = write_app_notebook(tmp_path) if installed else NOTEBOOK
    executed = run_notebook(page, tmp_path / "executed.ipynb", parameters={} if installed else {"model": "micro"})
    kinds = [kind for cell in executed.cells for out in cell.get("outputs", []) for kind in out.get("data", {})]
    assert "application/vnd.jupyter.widget-view+json" in kinds
    assert ("svdkit.panel(folder=None)" in nbformat.writes(executed)) is installed


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    _check_access(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.org", "::"])
def test_another_host_needs_a_token_and_says_why(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(RefusedInput, match=r"whoever reaches the page can use this machine's GPU, read pictures on it"):
        _check_access(host, None)
    _check_access(host, "a-long-random-word")


def test_a_port_in_use_is_refused_before_a_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RefusedInput, match=rf"cannot listen on 127.0.0.1:{port} .* give another --port, or 0"):
            _free_port("127.0.0.1", port)
    assert _free_port("127.0.0.1", 0) > 0


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("box", "box")]
)
def test_the_address_can_be_opened(host: str, shown: str) -> None:
    assert _shown_host(host) == shown


def test_without_voila_the_command_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = invoke("app", "--no-browser")
    assert done.exit_code == 2
    assert "pip install 'svdkit[app]'" in done.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--language", "fr"], "language='fr' is not one of the panel's; give 'en' (English), 'zh' (中文)"),
        (["--model", "svd-x"], "did you mean"),
        (["--host", "0.0.0.0"], "Add --token"),
    ],
)
def test_what_cannot_work_is_refused_at_once(options: list[str], says: str) -> None:
    done = invoke("app", "--no-browser", *options)
    assert done.exit_code == 2
    assert says in " ".join(done.output.split())


def test_tabs_are_as_many_as_a_machine_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when all come at once; one that could not start makes room again."""

    async def start(self: Any, *, kernel_id: str, **options: Any) -> None:
        await asyncio.sleep(0.01)
        if options:
            raise OSError
        self._kernels[kernel_id] = None

    monkeypatch.setattr(AsyncMappingKernelManager, "start_kernel", start)

    async def visits() -> list[Any]:
        found = Tabs()
        one = await asyncio.gather(found.start_kernel(bad=True), return_exceptions=True)
        many = await asyncio.gather(*(found.start_kernel() for _ in range(MOST_TABS + 2)), return_exceptions=True)
        return [*one, *many]

    failed, *came = asyncio.run(visits())
    assert isinstance(failed, OSError)
    assert len({one for one in came if isinstance(one, str)}) == MOST_TABS
    refused = [(one.status_code, one.reason) for one in came if not isinstance(one, str)]
    assert refused == [(503, "20 tabs are open, which is all there is room for; close one and try again")] * 2


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run `svdkit app` on micro in a folder, with a folder for temporary files in that; give it and its port."""
    (folder / "tmp").mkdir()
    port = _free_port("127.0.0.1", 0)
    command = [sys.executable, "-m", "svdkit", "app", "--model", "micro", "--port", str(port), "--token", TOKEN]
    environment = {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp"), "BROWSER": "true"}
    (other := folder / "jupyter" / "kernels" / "python3").mkdir(parents=True)  # as another project may have left one
    (other / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "other", "language": "python"}')
    environment["JUPYTER_PATH"] = str(folder / "jupyter")
    started = subprocess.Popen([*command, *options], cwd=folder, env={**os.environ, **environment})
    try:
        within(60, lambda: answers(port))
        yield started, port
        within(30, lambda: not answers(port))
    finally:
        started.kill()
        started.wait()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def within(seconds: float, is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.2)


def get(address: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


@pytest.mark.slow
def test_a_token_keeps_strangers_out_and_the_end_leaves_nothing_behind(tmp_path: Path) -> None:
    """Without the token there is no page and no file beside it; SIGTERM ends the command and Voilà with it."""
    with serving(tmp_path, "--no-browser", "--host", "0.0.0.0") as (started, port):
        for path in ("static/nothing", "files/picture.png", f"files/picture.png?token={TOKEN}"):
            assert get(f"http://127.0.0.1:{port}/voila/{path}")[0] == 403
        _, text = get(f"http://127.0.0.1:{port}/")
        assert "svdkit-panel" not in text
        assert "token" in text
        started.send_signal(signal.SIGTERM)
        assert started.wait(20) == 0


@pytest.mark.slow
def test_a_link_writes_nothing_into_the_page_and_a_killed_command_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither Voilà, nor a kernel, nor the file that leads a browser in, though SIGKILL gives no time to tidy up."""
    (tmp_path / "voila.json").write_text('{"Voila": {"token": "of the current folder"}}', encoding="utf-8")
    with serving(tmp_path) as (started, port):
        status, text = get(f"http://127.0.0.1:{port}/?token={TOKEN}&theme=<script>evil()</script>&template=evil")
        assert (status, "evil" in text) == (200, False)
        (connection,) = (tmp_path / "tmp").glob("voila_*/kernel-*.json")
        kernel = json.loads(connection.read_text(encoding="utf-8"))["shell_port"]
        within(30, lambda: answers(kernel))
        assert any(TOKEN in file.read_text(encoding="utf-8") for file in (tmp_path / "tmp").rglob("svdkit.html"))
        left = {path for path in (tmp_path / "tmp").iterdir() if not path.name.startswith("torchinductor_")}
        started.kill()
        within(90, lambda: not answers(kernel) and not any(map(Path.exists, left)))
