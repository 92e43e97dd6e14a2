"""The panel as a web page: one process holds the model, Voilà shows the notebook, each tab gets a place in the line."""

from __future__ import annotations

import contextlib
import html
import importlib.util
import ipaddress
import json
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable, Mapping
from multiprocessing.connection import Listener
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import typer

from svdkit.child import Child
from svdkit.cli.notebook import FOLDER
from svdkit.cli.options import FAILED, RefusedInput, judging_input, takes

if TYPE_CHECKING:
    from svdkit.child import Channel
    from svdkit.ui.studio import Studio

_EXPOSED = (
    "whoever reaches the page can use this machine's GPU, read pictures on it by their path, and make it fetch "
    "addresses"
)


@takes()
def web(
    *,
    model: str | None = None,
    weights: str = "trained",
    port: int = 8866,
    host: str = "127.0.0.1",
    token: str | None = None,
    language: str = "en",
    price: float = 0.0,
    currency: str = "USD",
    browser: bool = True,
) -> None:
    """Show the panel as a web page: choose a photo, press a button, watch the clip.

    All tabs share one model; who comes later waits in line. Ctrl-C ends it.

    Args:
        model: As for animate; svd-xt where a GPU can hold it, else micro.
        weights: trained; random needs no download.
        port: Of the page; 0 for a free one.
        host: Any but this machine's own needs --token.
        token: That visitors have to give; also read from SVDKIT_APP_TOKEN.
        language: en or zh, to begin with.
        price: Of this machine, an hour, for what a clip costs.
        currency: ISO 4217 code of the price.
        browser: Open it here.
    """
    from svdkit.environment import default_model
    from svdkit.settings import LoadSettings
    from svdkit.ui.parts import Words
    from svdkit.ui.studio import APP, Studio, serve

    token = token or os.environ.get("SVDKIT_APP_TOKEN")
    _check_access(host, token)
    if importlib.util.find_spec("voila") is None:
        raise RefusedInput("the page is shown by Voila, which is not installed: pip install 'svdkit[app]'")
    with judging_input():
        Words(language)
        model = model or default_model()
        studio = Studio(LoadSettings(model=absolute(model), weights=weights))
    port = _free_port(host, port)
    key = secrets.token_bytes(32)
    token = token or secrets.token_urlsafe(18)  # also on loopback: any page in the browser can reach an open port
    with Listener(("127.0.0.1", 0)) as listener, tempfile.TemporaryDirectory() as folder:
        _begin(serve, studio, listener, key)
        _begin(_prepare, studio)
        inner = {
            "port": listener.address[1],
            "key": key.hex(),
            "language": language,
            "hourly_price": price,
            "currency": currency,
        }
        address = f"http://{_shown_host(host)}:{port}/?token={quote(token)}"
        typer.echo(f"{studio.info.title}\n{address}")
        if not is_loopback(host):
            typer.echo(f"{_EXPOSED}. The token goes over the network as it is: only on networks you trust.", err=True)
        elif browser:
            _begin(open_browser, host, port, _write_way_in(Path(folder), address))
        asked = {"folder": folder, "configuration": _configuration(host, port, token)}
        if _show_page(asked, {APP: json.dumps(inner)}):
            raise typer.Exit(FAILED)


def _begin(work: Callable[..., object], *arguments: object) -> None:
    threading.Thread(target=work, args=arguments, daemon=True).start()


def _check_access(host: str, token: str | None) -> None:
    """Refuse to serve other machines without a token."""
    if not token and not is_loopback(host):
        raise RefusedInput(
            f"--host {host} lets other machines in: {_EXPOSED}. Add --token with a long random word, which visitors "
            "then need; or leave --host out and come through an SSH tunnel"
        )


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def absolute(model: str) -> str:
    """Give a folder its whole path, for the processes of the tabs run elsewhere; a catalogue name stays as it is."""
    from svdkit.models import find_model

    folder = find_model(model).folder
    return str(folder.resolve()) if folder and model.lower() != "micro" else model


def _free_port(host: str, port: int) -> int:
    """Check that nobody uses a port; 0 finds one."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family) as one:
            return int(one.getsockname()[1])
    except OSError as error:
        reason = error.strerror or error
        message = f"cannot listen on {host}:{port} ({reason}); give another --port, or 0 for a free one"
        raise RefusedInput(message) from error


def _prepare(studio: Studio) -> None:
    """Load the model; an error waits for whoever asks for a clip, who gets it too."""
    with contextlib.suppress(Exception):
        studio.prepare(id)  # the news interest nobody yet


def _shown_host(host: str) -> str:
    """Name the host as an address to open."""
    return "127.0.0.1" if host in {"0.0.0.0", ""} else f"[{host}]" if ":" in host else host  # noqa: S104 - compared


def _configuration(host: str, port: int, token: str) -> dict[str, Any]:
    """Give all that Voilà is to know, for its process to hear: every user here may read the arguments of a process."""
    return {
        "Voila": {"ip": host, "port": port, "token": token, "open_browser": False, "log_level": "WARN"}
        | {"config_file_paths": []},  # among which the current folder would be
        "VoilaConfiguration": {
            "strip_sources": True,
            # A link that chooses them writes into the page.
            "allow_template_override": "NO",
            "allow_theme_override": "NO",
            "file_denylist": [".*"],  # it asks for no token for pictures beside the notebook
            "multi_kernel_manager_class": "svdkit.cli.tabs.Tabs",
            # Notebook 7's extension, where that is installed, fails in Voilà and tells the browser's console so.
            "extension_denylist": ["@jupyter-notebook/lab-extension"],
        },
        # A phone that goes to sleep never says that it left: its process ends some time after the connection.
        "MappingKernelManager": {"cull_idle_timeout": 1800, "cull_interval": 60, "cull_connected": False},
    }


def _write_way_in(folder: Path, address: str) -> Path:
    """Write a file that leads to the page: a browser's arguments, and so the token, everybody here may read."""
    file = folder / "svdkit.html"
    file.touch(mode=0o600)
    link = html.escape(address)
    file.write_text(
        f'<!doctype html><meta http-equiv="refresh" content="0; url={link}"><a href="{link}">svdkit</a>',
        encoding="utf-8",
    )
    return file


def open_browser(host: str, port: int, way_in: Path) -> None:
    """Open the page as soon as somebody answers there."""
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
            webbrowser.open(way_in.as_uri())
            return
        time.sleep(0.2)


def _show_page(asked: dict[str, Any], environment: Mapping[str, str]) -> int:
    """Run Voilà until it ends; return its exit code, 0 after Ctrl-C."""
    running = Child("svdkit.cli.web:_serve_page", environment=environment, grace_seconds=60)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else a service that is stopped leaves the page behind
    try:
        running.say(asked)
        return running.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        running.end(10)  # seconds for Voilà to end its kernels


def _serve_page(channel: Channel) -> None:
    """Be Voilà, in the process that ``_show_page`` starts; at its end no kernel is left, and no file with the token."""
    import voila.app
    from traitlets.config import Config

    asked = channel.hear()
    try:
        voila.app.main([str(FOLDER / "app.ipynb")], config=Config(asked["configuration"]))
    finally:
        shutil.rmtree(asked["folder"], ignore_errors=True)  # also where the command that made it was killed
