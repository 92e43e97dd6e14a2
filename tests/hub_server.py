"""A hub mirror on 127.0.0.1: the few answers of the Hugging Face API that a download asks for, from a local folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMIT = "9e43909513c6714f1bc78bcb44d96e733cd242aa"


@dataclass
class HubServer:
    """What the mirror holds and what it was asked for.

    Attributes:
        models: repository id -> folder.
        gated: repository ids whose files need a licence.
        broken: every answer is "503 busy".
        asked: path of every request, in order.
        url: for HF_ENDPOINT.
    """

    models: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    broken: bool = False
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def downloads(self) -> set[str]:
        """Names of the files that were fetched."""
        return {
            path.partition(f"/resolve/{COMMIT}/")[2]
            for path in self.asked
            if path.startswith("GET") and "/resolve/" in path
        }


@contextlib.contextmanager
def serve(models: dict[str, Path]) -> Iterator[HubServer]:
    """Run a mirror until the block ends."""
    hub = HubServer(models=models)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, hub)

        do_HEAD = do_GET  # noqa: N815 - the name http.server looks for

        def log_message(self, *_: Any) -> None:
            """Keep the test output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(request: BaseHTTPRequestHandler, hub: HubServer) -> None:
    path = request.path.partition("?")[0]
    hub.asked.append(f"{request.command} {path}")
    parts = path.removeprefix("/api/models/").strip("/").split("/")
    name, rest = "/".join(parts[:2]), parts[2:]
    if hub.broken:
        _send(request, b"busy", status=503)
    elif name not in hub.models:
        _send(request, b"{}", status=404, headers={"X-Error-Code": "RepoNotFound"})
    elif len(rest) >= 2 and rest[1] not in {"main", COMMIT}:
        _send(request, b"{}", status=404, headers={"X-Error-Code": "RevisionNotFound"})
    elif path.startswith("/api/"):
        _send(request, json.dumps(_api(hub.models[name], name, tree=rest[:1] == ["tree"])).encode())
    elif name in hub.gated:
        _send(request, b"{}", status=401, headers={"X-Error-Code": "GatedRepo"})
    else:
        _send_file(request, hub.models[name].joinpath(*rest[2:]))


def _api(folder: Path, name: str, *, tree: bool) -> Any:
    files = {str(file.relative_to(folder)): file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()}
    if tree:
        return [{"type": "file", "path": path, "size": size, "oid": _etag(path)} for path, size in files.items()]
    siblings = [{"rfilename": path, "size": size} for path, size in files.items()]
    return {"id": name, "modelId": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}


def _send_file(request: BaseHTTPRequestHandler, file: Path) -> None:
    if not file.is_file():
        _send(request, b"{}", status=404, headers={"X-Error-Code": "EntryNotFound"})
    else:
        _send(request, file.read_bytes(), headers={"ETag": f'"{_etag(str(file))}"', "X-Repo-Commit": COMMIT})


def _etag(path: str) -> str:
    return hashlib.sha1(path.encode()).hexdigest()


def _send(
    request: BaseHTTPRequestHandler, body: bytes, *, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    request.send_response(status)
    for name, value in {
        "Content-Length": str(len(body)),
        "Content-Type": "application/json",
        **(headers or {}),
    }.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
