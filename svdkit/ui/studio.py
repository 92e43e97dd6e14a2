"""A pipeline that several panels can share: one clip at a time, with news on the way."""

from __future__ import annotations

import dataclasses
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any

from svdkit.errors import Cancelled, SvdkitWarning
from svdkit.generate import Progress, generate
from svdkit.models import ModelInfo, find_model
from svdkit.settings import LoadSettings
from svdkit.ui.news import News, Tell
from svdkit.ui.preview import Preview
from svdkit.ui.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from svdkit.clip import Clip
    from svdkit.image import Frame
    from svdkit.pipeline import LoadReport
    from svdkit.settings import ClipSettings

_TURNS: weakref.WeakKeyDictionary[Any, Turns] = weakref.WeakKeyDictionary()  # two panels of one pipeline share a line
_OWN = ModelInfo(name="own pipeline", title="a pipeline that svdkit did not load")


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
        self._turns = _TURNS.setdefault(pipe, Turns()) if given else Turns()

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

        with self._turns.turn(on_place=lambda place: tell(News(kind="waiting", place=place)), stop=stop):
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
