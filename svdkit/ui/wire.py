"""How panels in other processes reach one studio: JSON and raw bytes over a local connection, nothing unpickled.

``svdkit app`` starts a process that holds the pipeline and runs :func:`serve`; every browser tab has a Python process
of its own, in which a :class:`RemoteStudio` stands for the studio. The connection is on loopback and asks for a key
(``multiprocessing.connection``, which answers a challenge by HMAC); its ``send_bytes`` carries bytes and no objects.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import threading
from multiprocessing.connection import Client, Connection, Listener
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from svdkit import errors
from svdkit.clip import Clip, Provenance
from svdkit.errors import PipelineError, SvdkitError
from svdkit.generate import Progress
from svdkit.image import Frame
from svdkit.models import find_model
from svdkit.settings import ClipSettings, LoadSettings
from svdkit.ui.news import News, Tell

if TYPE_CHECKING:
    from svdkit.models import ModelInfo
    from svdkit.ui.studio import Studio

APP = "SVDKIT_APP"  # the environment variable by which a kernel learns of the studio: port, key and more, as JSON
_SECONDS_BETWEEN_LOOKS = 0.05  # at whether the user pressed stop
_GONE = "the process that holds the model has ended; start `svdkit app` again"


class RemoteStudio:
    """Stands for a studio in another process; see ``Studio`` for what its parts are.

    Args:
        port: Of the studio, on this machine.
        key: That the studio asks for.

    Raises:
        PipelineError: Nobody answers there.
    """

    def __init__(self, *, port: int, key: bytes) -> None:
        self._where = {"address": ("127.0.0.1", port), "authkey": key}
        with self._connect({"want": "about"}) as line:
            about, _ = _receive(line)
        self.load = LoadSettings.from_dict(about["load"])
        self.info: ModelInfo = find_model(about["model"])
        self.loaded: bool = about["loaded"]

    def prepare(self, tell: Tell) -> None:
        """Wait until the model is loaded."""
        with self._connect({"want": "load"}) as line:
            self._listen(line, tell, threading.Event())

    def run(self, frame: Frame, settings: ClipSettings, *, tell: Tell, stop: threading.Event) -> Clip:
        """Make one clip over there; the arguments and errors are those of ``Studio.run``."""
        png = io.BytesIO()
        frame.image.save(png, "PNG", compress_level=1)
        asked = {"want": "clip", "frame": frame.to_dict(), "settings": settings.to_dict()}
        with self._connect(asked, png.getvalue()) as line:
            about, pixels = self._listen(line, tell, stop)
        frames = np.frombuffer(pixels, np.uint8).reshape(about["shape"])
        made = Provenance.from_dict(about["provenance"])
        return Clip(frames=frames, fps=about["fps"], provenance=made, photo=frame.image)

    def _connect(self, header: dict[str, Any], data: bytes = b"") -> Connection:
        try:
            line = Client(**self._where)  # type: ignore[arg-type]  # the types of both values are right
        except (OSError, EOFError) as error:
            raise PipelineError(_GONE) from error
        _send(line, header, data)
        return line

    def _listen(self, line: Connection, tell: Tell, stop: threading.Event) -> tuple[dict[str, Any], bytes]:
        """Pass news on until the end comes; pass a stop on to the other side."""
        asked_to_stop = False
        try:
            while True:
                if stop.is_set() and not asked_to_stop:
                    line.send_bytes(b"stop")
                    asked_to_stop = True
                if not line.poll(_SECONDS_BETWEEN_LOOKS):
                    continue
                header, data = _receive(line)
                if header["kind"] == "end":
                    self.load, self.loaded = LoadSettings.from_dict(header["load"]), True
                    return header, data
                if header["kind"] == "error":
                    raise _error(header)
                tell(_news(header, data))
        except (OSError, EOFError) as error:
            raise PipelineError(_GONE) from error


def serve(studio: Studio, listener: Listener) -> None:
    """Answer panels until the listener is closed; each on a thread of its own, all in one line for the pipeline."""
    from multiprocessing import AuthenticationError

    while True:
        try:
            line = listener.accept()
        except (AuthenticationError, EOFError, ConnectionError):
            continue  # somebody without the key, or who left at once
        except OSError:
            return  # the listener was closed
        threading.Thread(target=_answer, args=(studio, line), daemon=True).start()


def _answer(studio: Studio, line: Connection) -> None:
    """Do what one panel asks for; if it goes away, stop."""
    stop, sending = threading.Event(), threading.Lock()

    def send(header: dict[str, Any], data: bytes = b"") -> None:
        try:
            with sending:
                _send(line, header, data)
        except OSError:
            stop.set()  # the tab was closed

    def tell(news: News) -> None:
        values = dataclasses.asdict(news)
        send(values, values.pop("picture"))

    with line:
        try:
            header, data = _receive(line)
            if header["want"] == "about":
                send({"load": studio.load.to_dict(), "model": studio.load.model, "loaded": studio.loaded})
                return
            threading.Thread(target=_await_stop, args=(line, stop), daemon=True).start()
            about: dict[str, Any] = {}
            pixels = b""
            if header["want"] == "load":
                studio.prepare(tell)
            else:
                with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
                    frame = Frame.from_dict(header["frame"], image=picture.convert("RGB"))
                clip = studio.run(frame, ClipSettings.from_dict(header["settings"]), tell=tell, stop=stop)
                assert clip.provenance is not None  # noqa: S101 - clips of generate have it
                about = {"shape": clip.frames.shape, "fps": clip.fps, "provenance": clip.provenance.to_dict()}
                pixels = clip.frames.tobytes()
            send({**about, "kind": "end", "load": studio.load.to_dict()}, pixels)
        except (OSError, EOFError):
            return  # the panel is gone, and with it whoever wanted an answer
        except Exception as error:  # noqa: BLE001 - whatever it is, the panel says it
            send({"kind": "error", "error": type(error).__name__, "text": str(error)})


def _await_stop(line: Connection, stop: threading.Event) -> None:
    """Wait for the panel to say stop, or to go away: both mean that nobody waits for the clip."""
    with contextlib.suppress(OSError, EOFError):
        line.recv_bytes()
    stop.set()


def _send(line: Connection, header: dict[str, Any], data: bytes = b"") -> None:
    line.send_bytes(json.dumps(header).encode())
    line.send_bytes(data)


def _receive(line: Connection) -> tuple[dict[str, Any], bytes]:
    header: dict[str, Any] = json.loads(line.recv_bytes())
    return header, line.recv_bytes()


def _news(header: dict[str, Any], picture: bytes) -> News:
    progress = header.pop("progress")
    return News(**header, progress=None if progress is None else Progress(**progress), picture=picture)


def _error(header: dict[str, Any]) -> SvdkitError:
    """Make the error again; one of another kind than svdkit's is named in the text."""
    kind = getattr(errors, header["error"], None)
    if isinstance(kind, type) and issubclass(kind, SvdkitError):
        return kind(header["text"])
    return SvdkitError(f"{header['error']}: {header['text']}")
