"""A pipeline that several panels can share: one clip at a time, with news and pictures on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from svdkit.errors import Cancelled, SvdkitWarning
from svdkit.generate import Progress, generate
from svdkit.models import ModelInfo, find_model
from svdkit.settings import LoadSettings

if TYPE_CHECKING:
    from svdkit.clip import Clip
    from svdkit.image import Frame
    from svdkit.pipeline import LoadReport
    from svdkit.settings import ClipSettings

_SECONDS_BETWEEN_PICTURES = 0.5  # each costs some milliseconds, and a message to the browser
_SECONDS_BETWEEN_LOOKS = 0.1  # at whether the one who waits has given up
_LARGEST_SIGMA = 80.0  # above it there is nothing to see yet, and half precision cannot say what there is
_LINES: weakref.WeakKeyDictionary[Any, list[object]] = weakref.WeakKeyDictionary()  # of pipelines: panels share them
_OWN = ModelInfo(name="own pipeline", title="a pipeline that svdkit did not load")


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

    Args:
        pipe: A ``StableVideoDiffusionPipeline``, or what ``svdkit.load`` takes: a name, a folder, LoadSettings.

    Raises:
        ModelError: There is no such model.

    Example:
        >>> Studio("micro").info.num_frames
        14
    """

    def __init__(self, pipe: Any = "micro") -> None:
        self._loading = threading.Lock()
        self._held: Callable[[], Any] = lambda: None
        given = hasattr(pipe, "unet")
        report = getattr(pipe, "svdkit", None) if given else None
        if report is not None:
            self._held, self.info = weakref.ref(pipe), report.model
            self._asked = report.settings
            if self.info.folder and self.info.hub_id is None and self.info.name != "micro":
                self._asked = self._asked.replace(model=str(self.info.folder))  # of which a report keeps the last name
        elif given:
            self._held, self._asked = lambda: pipe, LoadSettings()
            self.info = dataclasses.replace(_OWN, num_frames=pipe.unet.config.num_frames)
        else:
            self._asked = pipe if isinstance(pipe, LoadSettings) else LoadSettings(model=str(pipe))
            self.info = find_model(self._asked.model)
        self.model = self._asked.model
        self._line: list[object] = _LINES.setdefault(pipe, []) if given else []

    @property
    def load(self) -> LoadSettings:
        """The settings of loading; those of a loaded model change when a clip that did not fit needed a technique."""
        report: LoadReport | None = getattr(self._held(), "svdkit", None)
        return report.settings if report else self._asked

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
        """Make one clip, after all that were asked for before.

        Args:
            frame: The fitted photo.
            settings: Of the clip.
            tell: Called with news, in the thread that runs.
            stop: Set it to stop between denoising steps or decoded chunks, or while waiting.

        Raises:
            Cancelled: ``stop`` was set.
            SvdkitError: As ``svdkit.generate`` and ``svdkit.load``.
        """

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
