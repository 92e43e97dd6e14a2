"""One run at a time in a panel: started once however often it is clicked, stopped between steps, told as it goes."""

from __future__ import annotations

import base64
import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from svdkit.errors import Cancelled, SvdkitError
from svdkit.ui.parts import as_html, box, on_click, safe
from svdkit.units import format_seconds

if TYPE_CHECKING:
    from svdkit.generate import Progress
    from svdkit.ui.news import News
    from svdkit.ui.words import Words

_SECONDS_BETWEEN = 0.2  # five messages a second: more would cost time and nobody reads faster
_SECONDS_FOR_CLICKS = 0.3  # in which clicks made during a foreground run arrive, to be passed over
_STOPPING = {"encode": "stopping_encode", "decode": "stopping_decode", "loading": "stopping_load"}

Work = Callable[[Callable[["News"], object], threading.Event], object]


class Runner:
    """Start, stop, progress and preview.

    In the background a run is a thread, and Stop works between steps. In the foreground, for Colab, where updates of
    widgets from a thread do not show (github.com/googlecolab/colabtools/issues/3373), it happens inside the click, and
    interrupting the kernel stops it.

    Args:
        words: Texts.
        background: Whether runs are threads.
        on_idle: Called when a run has ended, however.
    """

    def __init__(self, words: Words, *, background: bool, on_idle: Callable[[], object] = lambda: None) -> None:
        import ipywidgets as w

        self._words, self.background, self._on_idle = words, background, on_idle
        self._stop = threading.Event()
        self._starting = threading.Lock()
        # Between "stopping" of a click and "stopped" of the thread: without it the first could be said last, and stay.
        self._ending = threading.Lock()
        self._ended = True
        self._stage, self._prefix, self._told = "", "", 0.0
        self._spoken = ""
        self.busy = False
        self._passing_over = False  # clicks made during a foreground run, which arrive after it
        self.handler_seconds = 0.0  # spent in the panel's own code during runs: a benchmark reads it
        self.thread: threading.Thread | None = None
        self.stop = w.Button(icon="stop", disabled=True)
        self.bar = as_html(class_="svdkit-bar")
        self.state = as_html(class_="svdkit-state")
        self.picture = as_html(class_="svdkit-picture")
        self.error, self.live = as_html(class_="svdkit-error-box"), as_html(class_="svdkit-live")
        on_click(self.stop, self.ask_to_stop)
        self.widget = box(self.state, self.bar, self.error, self.live, class_="svdkit-run")
        self._progress: Progress | None = None
        self._say("ready")
        words.bind(self._write)

    @property
    def can_start(self) -> bool:
        """Whether a click may begin a run: none is going on, and the clicks made during the last one have arrived."""
        return not (self.busy or self._passing_over)

    def start(self, work: Work, *, doing: str = "starting", done: str = "done", can_stop: bool = True) -> bool:
        """Run ``work(tell, stop)``; False if a run is going on already.

        Errors of any kind are shown in the panel, which can be used again afterwards. ``doing`` names the text to show
        until there is news, ``done`` the one for the end.
        """
        with self._starting:
            if not self.can_start:
                return False
            self.busy = True
        self._stop.clear()
        self._ended = False
        self._stage, self._prefix, self.handler_seconds = "", "", 0.0
        self.stop.disabled = not (self.background and can_stop)
        self.show_error(None)
        self._say(doing)
        if self.background:
            self.thread = threading.Thread(target=self._run, args=(work, done), daemon=True)
            self.thread.start()
        else:
            self._run(work, done)
        return True

    def ask_to_stop(self) -> None:
        """Stop at the next moment at which that is possible, and say when that is."""
        with self._ending:
            if not self._ended:
                self._stop.set()
                self.stop.disabled = True
                self._say(_STOPPING.get(self._stage, "stopping"))

    def part(self, text: str) -> None:
        """Say which of several parts is running, such as a draft."""
        self._prefix = text

    def show_error(self, error: BaseException | None) -> None:
        """Show an error in plain words, until the next run or None takes it away."""
        if error is None:
            self.error.value = ""
            return
        kind = "" if isinstance(error, SvdkitError) else f"{type(error).__name__}: "
        title = safe(self._words("failed"))
        self.error.value = f'<div class="svdkit-error" role="alert"><b>{title}</b><br>{safe(kind)}{safe(error)}</div>'

    def _run(self, work: Work, done: str) -> None:
        start = time.perf_counter()
        try:
            work(self._tell, self._stop)
            self._say_end("stopped_part" if self._stop.is_set() else done, seconds=_since(start))
        except (Cancelled, KeyboardInterrupt):
            self._say_end("stopped")
        except Exception as error:  # noqa: BLE001 - a panel shows errors, for those of a callback vanish
            self._say_end("ready")
            self.show_error(error)
        finally:
            self._progress = None
            self._show_bar(None)
            self.picture.value = ""
            self._end()

    def _say_end(self, name: str, **values: object) -> None:
        """Say how the run ended; a click on Stop that comes later says nothing any more."""
        with self._ending:
            self._ended = True
            self._prefix = ""
            self.stop.disabled = True
            self._say(name, **values)

    def _end(self) -> None:
        """Be ready for the next run; after one in the foreground not before the clicks made meanwhile have arrived.

        All that is to be seen is told now, within the click: what comes after its end Colab does not show.
        """
        loop = None if self.background else _kernel_loop()
        self._passing_over = loop is not None
        self.busy = False
        try:
            self._on_idle()
        finally:  # a second interrupt may come here
            if loop is not None:
                loop.call_later(_SECONDS_FOR_CLICKS, self._hear)

    def _hear(self) -> None:
        self._passing_over = False

    def _tell(self, news: News) -> None:
        """Show news, at most five a second but for those that end or begin something."""
        start = time.perf_counter()
        try:
            self._show(news, start)
        finally:
            self.handler_seconds += time.perf_counter() - start

    def _show(self, news: News, now: float) -> None:
        if news.kind == "picture":
            source = base64.b64encode(news.picture).decode()
            alt = safe(self._words("picture_alt"))
            self.picture.value = f'<img alt="{alt}" src="data:image/webp;base64,{source}">'
        elif news.kind in {"waiting", "loading"}:
            self._stage = news.kind
            name = safe(self._words(news.kind, place=news.place))
            self.bar.value = f'<progress aria-label="{name}"></progress>'  # it moves, and says no share
            self._say(news.kind, place=news.place)
        elif news.progress is not None:
            progress = self._progress = news.progress
            self._stage = progress.stage
            if progress.step not in {0, progress.steps} and now - self._told < _SECONDS_BETWEEN:
                return
            self._told = now
            self._show_bar(progress)
            if not self._stop.is_set():
                left = self._words("left_unknown")
                if progress.remaining_seconds is not None:
                    left = self._words("left", seconds=format_seconds(progress.remaining_seconds))
                told = {"step": progress.step, "steps": progress.steps, "left": left}
                self._say("progress", stage=self._words(progress.stage), **told)

    def _show_bar(self, progress: Progress | None) -> None:
        value, most = (0, 1) if progress is None else (progress.step, progress.steps)
        name = safe(self._words("denoise" if progress is None else progress.stage))
        hidden = " hidden" if progress is None else ""
        self.bar.value = f'<progress aria-label="{name}" value="{value}" max="{most}"{hidden}></progress>'

    def _say(self, name: str, **values: object) -> None:
        text = self._words(name, **values)
        text = f"{self._prefix} · {text}" if self._prefix and self.busy else text
        self.state.value = f'<div class="svdkit-said">{safe(text)}</div>'
        # A screen reader hears what begins and ends; numbers five times a second it would never finish.
        spoken = self._words(self._stage) if name == "progress" else text
        if spoken != self._spoken:
            self._spoken, self.live.value = spoken, safe(spoken)

    def _write(self) -> None:
        self.stop.description = self._words("stop")
        self._show_bar(self._progress)
        if not self.busy:
            self._say("ready")


def _kernel_loop() -> Any:
    """The loop of the kernel we run in; None outside of one."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    if get_shell is None or not hasattr(get_shell(), "kernel"):
        return None
    with contextlib.suppress(Exception):  # a kernel without a loop, or one that is not running: nothing to wait for
        import asyncio

        return asyncio.get_running_loop()
    return None


def _since(start: float) -> str:
    return format_seconds(time.perf_counter() - start)
