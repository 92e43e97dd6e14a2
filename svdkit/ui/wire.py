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
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
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
from svdkit.ui.studio import News

if TYPE_CHECKING:
    from svdkit.models import ModelInfo
    from svdkit.ui.studio import Studio, Tell

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
        about, _ = self._ask({"want": "about"})
        self.model: str = about["model"]
        self.info: ModelInfo = find_model(about["model"])

    def prepare(self, tell: Tell) -> None:
        """Wait until the model is loaded."""
        self._ask({"want": "load"}, tell=tell)

    def run(self, frame: Frame, settings: ClipSettings, *, tell: Tell, stop: threading.Event) -> Clip:
        """Make one clip over there; the arguments and errors are those of ``Studio.run``."""
        png = io.BytesIO()
        frame.image.save(png, "PNG", compress_level=1)
        asked = {"want": "clip", "frame": frame.to_dict(), "settings": settings.to_dict()}
        about, pixels = self._ask(asked, png.getvalue(), tell=tell, stop=stop)
        frames = np.frombuffer(pixels, np.uint8).reshape(about["shape"])
        made = Provenance.from_dict(about["provenance"])
        return Clip(frames=frames, fps=about["fps"], provenance=made, photo=frame.image)

    def _ask(
        self, header: dict[str, Any], data: bytes = b"", *, tell: Tell = id, stop: threading.Event | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """Ask for something, pass news on, and a stop to the other side, and give the answer."""
        try:
            with Client(**self._where) as line:  # type: ignore[arg-type]  # the types of both values are right
                _send(line, header, data)
                header = {"kind": "asked"}
                while header["kind"] != "end":
                    if stop and stop.is_set():
                        line.send_bytes(b"stop")
                        stop = None
                    if line.poll(_SECONDS_BETWEEN_LOOKS):
                        header, data = _receive(line)
                        if header["kind"] == "error":
                            raise _error(header)
                        if header["kind"] != "end":
                            tell(_news({**header}, data))
        except (OSError, EOFError, AuthenticationError) as error:
            raise PipelineError(_GONE) from error
        self.load, self.loaded = LoadSettings.from_dict(header["load"]), bool(header["loaded"])
        return header, data


def serve(studio: Studio, listener: Listener, key: bytes) -> None:
    """Answer panels that know the key until the listener is closed; all stand in one line for the pipeline.

    The listener has no key of its own: it would ask for it between two visitors, and one who says nothing would keep
    all others out.
    """
    while True:
        try:
            line = listener.accept()
        except (EOFError, ConnectionError):
            continue  # somebody who left at once
        except OSError:
            return  # the listener was closed
        threading.Thread(target=_answer, args=(studio, line, key), daemon=True).start()


def _answer(studio: Studio, line: Connection, key: bytes) -> None:
    """Hear what one visitor wants, if he knows the key."""
    with line:
        try:
            deliver_challenge(line, key)
            answer_challenge(line, key)
            header, data = _receive(line)
        except (AuthenticationError, OSError, EOFError, ValueError):
            return
        _serve_one(studio, line, header, data)


class _Stop(threading.Event):
    """Set when the panel says stop, or goes away: both mean that nobody waits for the clip."""

    def __init__(self, line: Connection) -> None:
        super().__init__()
        self._line = line

    def is_set(self) -> bool:
        with contextlib.suppress(OSError, EOFError):
            if super().is_set() or not self._line.poll():
                return super().is_set()
            self._line.recv_bytes()
        self.set()
        return True


def _serve_one(studio: Studio, line: Connection, header: dict[str, Any], data: bytes) -> None:
    """Do what a panel asks for; if it goes away, stop."""
    stop = _Stop(line)

    def send(header: dict[str, Any], data: bytes = b"") -> None:
        try:
            _send(line, header, data)
        except OSError:
            stop.set()  # the tab was closed

    def tell(news: News) -> None:
        values = dataclasses.asdict(news)
        send(values, values.pop("picture"))

    about: dict[str, Any] = {}
    pixels = b""
    try:
        if header["want"] == "load":
            studio.prepare(tell)
        elif header["want"] == "clip":
            with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
                frame = Frame.from_dict(header["frame"], image=picture.convert("RGB"))
            clip = studio.run(frame, ClipSettings.from_dict(header["settings"]), tell=tell, stop=stop)
            assert clip.provenance is not None  # noqa: S101 - clips of generate have it
            about = {"shape": clip.frames.shape, "fps": clip.fps, "provenance": clip.provenance.to_dict()}
            pixels = clip.frames.tobytes()
    except Exception as error:  # noqa: BLE001 - whatever it is, the panel says it
        send({"kind": "error", "error": type(error).__name__, "text": str(error)})
        return
    known = {"load": studio.load.to_dict(), "model": studio.model, "loaded": studio.loaded}
    send({**about, **known, "kind": "end"}, pixels)


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
