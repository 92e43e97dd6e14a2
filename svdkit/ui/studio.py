"""A pipeline that several panels can share, in this process or another: one clip at a time, news on the way.

``svdkit app`` starts a process that holds the pipeline and runs :func:`serve`; every browser tab has a Python process
of its own, in which a :class:`RemoteStudio` stands for the studio. The connection is on loopback and asks for a key
(``multiprocessing.connection``, which answers a challenge by HMAC); its ``send_bytes`` carries bytes and no objects,
JSON and raw pixels, and nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from typing import Any

import numpy as np
from PIL import Image

from svdkit import errors
from svdkit.clip import Clip, Provenance
from svdkit.errors import Cancelled, PipelineError, SvdkitError, SvdkitWarning
from svdkit.generate import Progress, generate
from svdkit.image import Frame
from svdkit.models import find_model
from svdkit.pipeline import report_of
from svdkit.settings import ClipSettings, LoadSettings

_SECONDS_BETWEEN_PICTURES = 0.5  # each costs some milliseconds, and a message to the browser
_SECONDS_BETWEEN_LOOKS = 0.05  # at whether the user pressed stop, or who waits has given up
_LARGEST_SIGMA = 80.0  # above it there is nothing to see yet, and half precision cannot say what there is
_LINES = weakref.WeakKeyDictionary[Any, list[object]]()  # of pipelines: panels share them

Tell = Callable[..., object]
"""Hears the news of a run, in plain values: ``tell("waiting", place=runs_ahead)``; ``tell("loading")``, the model;
``tell(stage, step=, steps=, left=seconds_or_None)``; ``tell("picture", data=)``, an animated WebP of all frames so far,
one pixel a latent cell."""
Stop = Callable[[], bool]  # whether the user wants no more of a run


class Studio:
    """Makes clips on a pipeline, which may be loaded only when the first clip is wanted.

    ipywidgets keeps every panel for as long as the kernel lives. A pipeline of ``svdkit.load`` is therefore held
    weakly: it goes when the notebook lets go of it, and is loaded again if a clip is wanted after that.

    Attributes:
        model: What ``svdkit.load`` takes for it: a name, or a folder.
        info: What is known of the model.
        load: The settings it will be loaded with; once it is, those of now.
    """

    def __init__(self, pipe: Any = "micro") -> None:
        self._loading = threading.Lock()
        self._held: Callable[[], Any] = lambda: None
        self._line: list[object] = []
        if hasattr(pipe, "unet"):
            report = report_of(pipe)
            self._held = weakref.ref(pipe) if report.is_ours else lambda: pipe
            self._line = _LINES.setdefault(pipe, [])
            self._asked = report.settings
            self.info = dataclasses.replace(report.model, num_frames=pipe.unet.config.num_frames)
            if self.info.folder and self.info.hub_id is None and self.info.name != "micro":
                self._asked = self._asked.replace(model=str(self.info.folder))  # of which a report keeps the last name
        else:
            self._asked = pipe if isinstance(pipe, LoadSettings) else LoadSettings(model=str(pipe))
            self.info = find_model(self._asked.model)
        self.model = self._asked.model

    @property
    def load(self) -> LoadSettings:
        """The settings of loading; those of a loaded model change when a clip that did not fit needed a technique."""
        pipe = self._held()
        return self._asked if pipe is None else report_of(pipe).settings

    def prepare(self, tell: Tell) -> Any:
        """Load the model unless that is done; return the pipeline. Others who ask meanwhile wait, and are told so."""
        if self._held() is None:
            tell("loading")
        with self._loading:
            if (pipe := self._held()) is None:
                from svdkit.pipeline import load

                pipe = load(settings=self._asked)
                self._held = lambda: pipe
            return pipe

    def run(self, frame: Frame, settings: ClipSettings, *, tell: Tell, stop: Stop) -> Clip:
        """Make one clip, after all that were asked for before."""

        def report(now: Progress) -> None:
            tell(now.stage, step=now.step, steps=now.steps, left=now.remaining_seconds)
            if stop() and not now.done:
                raise Cancelled("stopped; nothing was kept of this clip")

        with _turn(self._line, tell=tell, stop=stop):
            pipe = self.prepare(tell)
            preview: Preview | None = Preview(frame, fps=settings.playback_fps or settings.fps)

            def on_step(step: int, latents: Any) -> None:
                nonlocal preview
                try:
                    if preview and (picture := preview.step(step, latents, sigmas=pipe.scheduler.sigmas)):
                        tell("picture", data=picture)
                except Exception as error:  # noqa: BLE001 - a clip is not lost for a look at it
                    warnings.warn(f"no pictures on the way: {error}", SvdkitWarning, stacklevel=2)
                    preview = None

            return generate(pipe, frame, settings, progress=report, on_step=on_step)


@contextlib.contextmanager
def _turn(line: list[object], *, tell: Tell, stop: Stop) -> Iterator[None]:
    """Hold the turn for the block when all who came before are done; whoever waits is told each place once.

    What a list does is one step to other threads. Cancelled if ``stop`` says so before the turn comes.
    """
    ticket, told = object(), 0
    line.append(ticket)
    try:
        while place := line.index(ticket):
            if stop():
                raise Cancelled("stopped while waiting for the run before")
            if place != told:
                told = place
                tell("waiting", place=place)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        yield
    finally:
        line.remove(ticket)


class Preview:
    """Turns latents into small pictures on the way, at most two a second, without a second model.

    A straight line from latents to colours is fitted anew for each picture: frame 0 is nearly the photo, so its latents
    and the photo's colours say what each latent channel means. That holds for any VAE, and needs no constants.
    """

    def __init__(self, frame: Frame, *, fps: float) -> None:
        self._photo, self._fps = frame.image, fps
        self._before: Any = None
        self._last = time.monotonic()

    def step(self, step: int, latents: Any, *, sigmas: Any) -> bytes | None:
        """Take the latents (1, frames, channels, h, w) after a step, from 1; give an animated WebP when one is due."""
        before, self._before = self._before, latents.detach().clone()
        high, low = (float(sigma) for sigma in sigmas[step - 1 : step + 1])
        if before is None or high > _LARGEST_SIGMA or time.monotonic() - self._last < _SECONDS_BETWEEN_PICTURES:
            return None
        first, *others = map(Image.fromarray, _colours(_predicted(before, latents, high=high, low=low), self._photo))
        buffer = io.BytesIO()
        loop = {"save_all": True, "append_images": others, "duration": round(1000 / self._fps), "loop": 0}
        first.save(buffer, "WEBP", quality=60, method=0, **loop)
        self._last = time.monotonic()
        return buffer.getvalue()


def _predicted(before: Any, after: Any, *, high: float, low: float) -> Any:
    """Say where a step from one sigma to a lower one was heading: the clip without noise, (frames, channels, h, w).

    An Euler step goes along a straight line that ends in the clean clip at sigma 0 (Karras et al. 2022, algorithm 1
    without churn), so two points of it are enough.
    """
    one, other = (part[0].float().cpu().numpy() for part in (before, after))
    return (high * other - low * one) / (high - low)


def _colours(latents: Any, photo: Image.Image) -> Any:
    """Give each latent cell a colour, (frames, h, w, 3), by the linear map that fits frame 0 to the photo best."""
    cells = np.nan_to_num(latents.transpose(0, 2, 3, 1), posinf=0.0, neginf=0.0)
    cells = np.pad(cells, [(0, 0)] * 3 + [(0, 1)], constant_values=1)
    _, height, width, channels = cells.shape
    wanted = np.asarray(photo.resize((width, height), Image.Resampling.BOX), np.float32)
    line = np.linalg.lstsq(cells[0].reshape(-1, channels), wanted.reshape(-1, 3), rcond=None)[0]
    return (cells @ line).clip(0, 255).round().astype(np.uint8)


APP = "SVDKIT_APP"  # the environment variable by which a kernel learns of the studio: port, key and more, as JSON
_GONE = "the process that holds the model has ended; start `svdkit app` again"


class RemoteStudio:
    """Stands for a studio in another process; see ``Studio`` for what its parts are."""

    def __init__(self, *, port: int, key: bytes) -> None:
        self._port, self._key = port, key
        self.model: str = self._ask("nothing")["model"]
        self.info = find_model(self.model)

    def prepare(self, tell: Tell) -> None:
        """Wait until the model is loaded."""
        self._ask("load", tell=tell)

    def run(self, frame: Frame, settings: ClipSettings, *, tell: Tell, stop: Stop) -> Clip:
        """Make one clip over there; the arguments and errors are those of ``Studio.run``."""
        png = io.BytesIO()
        frame.image.save(png, "PNG", compress_level=1)
        asked = {"frame": frame.to_dict(), "settings": settings.to_dict(), "data": png.getvalue()}
        made = self._ask("clip", tell=tell, stop=stop, **asked)
        frames = np.frombuffer(made["data"], np.uint8).reshape(made["shape"])
        about = Provenance.from_dict(made["provenance"])
        return Clip(frames=frames, fps=made["fps"], provenance=about, photo=frame.image)

    def _ask(self, want: str, *, tell: Tell = id, stop: Stop = bool, **asked: Any) -> dict[str, Any]:
        """Ask for something, pass news on, and a stop to the other side, and give the answer."""
        try:
            with Client(("127.0.0.1", self._port), authkey=self._key) as line:
                _send(line, want, **asked)
                while True:
                    if stop():
                        line.send_bytes(b"stop")
                        stop = bool  # which says False
                    if not line.poll(_SECONDS_BETWEEN_LOOKS):
                        continue
                    message = _receive(line)
                    if message["kind"] == "error":
                        raise _error(message)
                    if message["kind"] == "end":
                        self.load = LoadSettings.from_dict(message["load"])
                        return message
                    tell(**message)
        except (OSError, EOFError, AuthenticationError) as error:
            raise PipelineError(_GONE) from error


def serve(studio: Studio, listener: Listener, key: bytes) -> None:
    """Answer panels that know the key until the listener is closed; all stand in one line for the pipeline.

    The listener has no key of its own: it would ask for it between two visitors, and one who says nothing would keep
    all others out.
    """
    with contextlib.suppress(OSError):  # the listener was closed
        while True:
            with contextlib.suppress(ConnectionError):  # somebody who left at once
                line = listener.accept()
                threading.Thread(target=_answer, args=(studio, line, key), daemon=True).start()


def _answer(studio: Studio, line: Connection, key: bytes) -> None:
    """Do what one visitor wants, if he knows the key; stop when he says so or goes away: nobody waits for the clip."""
    tell, gone = partial(_send, line), threading.Event()

    def stop() -> bool:
        try:
            if line.poll():
                line.recv_bytes()
                gone.set()
        except (OSError, EOFError):
            gone.set()
        return gone.is_set()

    with line, contextlib.suppress(AuthenticationError, OSError, EOFError, ValueError):
        deliver_challenge(line, key)
        answer_challenge(line, key)
        asked = _receive(line)
        answer: dict[str, Any] = {}
        try:
            if asked["kind"] == "load":
                studio.prepare(tell)
            elif asked["kind"] == "clip":
                with Image.open(io.BytesIO(asked["data"]), formats=["PNG"]) as picture:
                    frame = Frame.from_dict(asked["frame"], image=picture.convert("RGB"))
                clip = studio.run(frame, ClipSettings.from_dict(asked["settings"]), tell=tell, stop=stop)
                assert clip.provenance is not None  # noqa: S101 - clips of generate have it
                answer = {"shape": clip.frames.shape, "fps": clip.fps, "provenance": clip.provenance.to_dict()}
                answer["data"] = clip.frames.tobytes()
            tell("end", **answer, load=studio.load.to_dict(), model=studio.model)
        except Exception as error:  # noqa: BLE001 - whatever it is, the panel says it
            tell("error", name=type(error).__name__, text=str(error))


def _send(line: Connection, kind: str, *, data: bytes = b"", **values: Any) -> None:
    line.send_bytes(json.dumps({"kind": kind, **values}).encode())
    line.send_bytes(data)


def _receive(line: Connection) -> dict[str, Any]:
    return {**json.loads(line.recv_bytes()), "data": line.recv_bytes()}


def _error(told: dict[str, Any]) -> SvdkitError:
    """Make the error again; one of another kind than svdkit's is named in the text."""
    kind = getattr(errors, told["name"], None)
    if isinstance(kind, type) and issubclass(kind, SvdkitError):
        return kind(told["text"])
    return SvdkitError(f"{told['name']}: {told['text']}")
