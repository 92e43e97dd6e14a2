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
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from typing import Any

import numpy as np
import numpy.typing as npt
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
_LINES: weakref.WeakKeyDictionary[Any, list[object]] = weakref.WeakKeyDictionary()  # of pipelines: panels share them


@dataclasses.dataclass(frozen=True, kw_only=True)
class News:
    """One message of a run.

    Attributes:
        kind: ``"waiting"`` (others are ahead), ``"loading"`` (the model), ``"progress"`` or ``"picture"`` (what
            the clip looks like so far).
        place: Runs ahead, for ``"waiting"``.
        progress: Of the stage, for ``"progress"``.
        picture: An animated WebP of all frames, one pixel a latent cell, for ``"picture"``.
    """

    kind: str
    place: int = 0
    progress: Progress | None = None
    picture: bytes = b""


Tell = Callable[[News], object]


class Studio:
    """Makes clips on a pipeline, which may be loaded only when the first clip is wanted.

    ipywidgets keeps every panel for as long as the kernel lives. A pipeline of ``svdkit.load`` is therefore held
    weakly: it goes when the notebook lets go of it, and is loaded again if a clip is wanted after that.

    Attributes:
        model: What ``svdkit.load`` takes for it: a name, or a folder.
        info: What is known of the model.
        load: The settings it will be loaded with; once it is, those of now.
        loaded: Whether it is.
    """

    def __init__(self, pipe: Any = "micro") -> None:
        self._loading = threading.Lock()
        self._held: Callable[[], Any] = lambda: None
        given = hasattr(pipe, "unet")
        if given:
            report = report_of(pipe)
            self._held = weakref.ref(pipe) if report.is_ours else lambda: pipe
            self._asked = report.settings
            self.info = dataclasses.replace(report.model, num_frames=pipe.unet.config.num_frames)
            if self.info.folder and self.info.hub_id is None and self.info.name != "micro":
                self._asked = self._asked.replace(model=str(self.info.folder))  # of which a report keeps the last name
        else:
            self._asked = pipe if isinstance(pipe, LoadSettings) else LoadSettings(model=str(pipe))
            self.info = find_model(self._asked.model)
        self.model = self._asked.model
        self._line: list[object] = _LINES.setdefault(pipe, []) if given else []

    @property
    def load(self) -> LoadSettings:
        """The settings of loading; those of a loaded model change when a clip that did not fit needed a technique."""
        return report_of(self._held()).settings if self.loaded else self._asked

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._held() is not None

    def prepare(self, tell: Tell) -> Any:
        """Load the model unless that is done; return the pipeline. Others who ask meanwhile wait, and are told so."""
        if not self.loaded:
            tell(News(kind="loading"))
        with self._loading:
            if (pipe := self._held()) is None:
                from svdkit.pipeline import load

                pipe = load(settings=self._asked)
                self._held = lambda: pipe
            return pipe

    def run(self, frame: Frame, settings: ClipSettings, *, tell: Tell, stop: threading.Event) -> Clip:
        """Make one clip, after all that were asked for before."""

        def check() -> None:
            if stop.is_set():
                raise Cancelled("stopped; nothing was kept of this clip")

        def report(progress: Progress) -> None:
            tell(News(kind="progress", progress=progress))
            if not progress.done:
                check()

        with _turn(self._line, on_place=lambda place: tell(News(kind="waiting", place=place)), stop=stop):
            pipe = self.prepare(tell)
            preview: Preview | None = Preview(frame, fps=settings.playback_fps or settings.fps)

            def on_step(step: int, latents: Any) -> None:
                nonlocal preview
                check()
                try:
                    picture = preview and preview.step(step, latents, sigmas=pipe.scheduler.sigmas)
                except Exception as error:  # noqa: BLE001 - a clip is not lost for a look at it
                    warnings.warn(f"no pictures on the way: {error}", SvdkitWarning, stacklevel=2)
                    preview = picture = None
                if picture:
                    tell(News(kind="picture", picture=picture))

            return generate(pipe, frame, settings, progress=report, on_step=on_step)


@contextlib.contextmanager
def _turn(line: list[object], *, on_place: Callable[[int], object], stop: threading.Event) -> Iterator[None]:
    """Hold the turn for the block when all who came before are done; whoever waits is told each place once.

    What a list does is one step to other threads. Cancelled if ``stop`` is set before the turn comes.
    """
    ticket, told = object(), 0
    line.append(ticket)
    try:
        while place := line.index(ticket):
            if stop.is_set():
                raise Cancelled("stopped while waiting for the run before")
            if place != told:
                on_place(place)
                told = place
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
        picture = _animate(_colours(_predicted(before, latents, high=high, low=low), self._photo), fps=self._fps)
        self._last = time.monotonic()
        return picture


def _predicted(before: Any, after: Any, *, high: float, low: float) -> npt.NDArray[np.float32]:
    """Say where a step from one sigma to a lower one was heading: the clip without noise, (frames, channels, h, w).

    An Euler step goes along a straight line that ends in the clean clip at sigma 0 (Karras et al. 2022, algorithm 1
    without churn), so two points of it are enough.
    """
    one, other = (part[0].float().cpu().numpy() for part in (before, after))
    clean: npt.NDArray[np.float32] = (high * other - low * one) / (high - low)
    return clean


def _colours(latents: npt.NDArray[np.float32], photo: Image.Image) -> npt.NDArray[np.uint8]:
    """Give each latent cell a colour, (frames, h, w, 3), by the linear map that fits frame 0 to the photo best."""
    frames, channels, height, width = latents.shape
    wanted = np.asarray(photo.resize((width, height), Image.Resampling.BOX), np.float32).reshape(-1, 3)
    cells = latents.transpose(0, 2, 3, 1).reshape(frames, -1, channels)
    cells = np.nan_to_num(np.pad(cells, [(0, 0), (0, 0), (0, 1)], constant_values=1), posinf=0.0, neginf=0.0)
    painted = cells @ np.linalg.lstsq(cells[0], wanted, rcond=None)[0]
    pixels: npt.NDArray[np.uint8] = painted.clip(0, 255).round().astype(np.uint8)
    return pixels.reshape(frames, height, width, 3)


def _animate(frames: npt.NDArray[np.uint8], *, fps: float) -> bytes:
    """Write frames as a small animated WebP that loops."""
    first, *others = map(Image.fromarray, frames)
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": others, "duration": round(1000 / fps), "loop": 0}
    first.save(buffer, "WEBP", quality=60, method=0, **more)
    return buffer.getvalue()


APP = "SVDKIT_APP"  # the environment variable by which a kernel learns of the studio: port, key and more, as JSON
_GONE = "the process that holds the model has ended; start `svdkit app` again"


class RemoteStudio:
    """Stands for a studio in another process; see ``Studio`` for what its parts are."""

    def __init__(self, *, port: int, key: bytes) -> None:
        self._where = {"address": ("127.0.0.1", port), "authkey": key}
        about, _ = self._ask({"want": "about"})
        self.model: str = about["model"]
        self.info = find_model(about["model"])

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
