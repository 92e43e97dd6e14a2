"""A pipeline that several panels can share: one clip at a time, with news on the way."""

from __future__ import annotations

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
    from svdkit.clip import Clip
    from svdkit.image import Frame
    from svdkit.settings import ClipSettings

_TURNS: weakref.WeakKeyDictionary[Any, Turns] = weakref.WeakKeyDictionary()  # two panels of one pipeline share a line
_OWN = ModelInfo(name="own pipeline", title="a pipeline that svdkit did not load")


class Studio:
    """Makes clips on a pipeline, which may be loaded only when the first clip is wanted.

    Attributes:
        model: Its name, or its folder as it was given.
        info: What is known of the model.
        load: The settings it was, or will be, loaded with.
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
        self._pipe: Any = None
        self._loading = threading.Lock()
        if isinstance(pipe, LoadSettings):
            self.load = pipe
        elif hasattr(pipe, "unet"):
            self._pipe = pipe
            report = getattr(pipe, "svdkit", None)
            self.load = report.settings if report else LoadSettings()
        else:
            self.load = LoadSettings(model=str(pipe))
        if self._pipe is None:
            self.info = find_model(self.load.model)
        else:
            self.info = self._pipe.svdkit.model if hasattr(self._pipe, "svdkit") else _OWN
        self.model = self.load.model  # as asked: of a folder, settings keep only the name once it is loaded
        self._turns = Turns() if self._pipe is None else _TURNS.setdefault(self._pipe, Turns())

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._pipe is not None

    def prepare(self, tell: Tell) -> Any:
        """Load the model unless that is done; return the pipeline. Others who ask meanwhile wait, and are told so."""
        if self._pipe is None:
            tell(News(kind="loading"))
        with self._loading:
            if self._pipe is None:
                from svdkit.pipeline import load

                self._pipe = load(settings=self.load)
                self.load = self._pipe.svdkit.settings
            return self._pipe

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
