"""What the next clip will take, and a run with its progress, its stop and its errors."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from svdkit.bench.record import Record, run_id
from svdkit.errors import Cancelled, SvdkitError
from svdkit.forecast import Forecast, forecast
from svdkit.models import catalogue
from svdkit.ui.parts import as_html, as_uri, box, on_value, safe
from svdkit.units import format_bytes, format_money, format_seconds

if TYPE_CHECKING:
    from svdkit.clip import Clip
    from svdkit.generate import Progress
    from svdkit.models import ModelInfo
    from svdkit.settings import ClipSettings, LoadSettings
    from svdkit.ui.parts import Words
    from svdkit.ui.studio import News, Tell


_KEPT = 20  # clips whose seconds calibrate the forecast


class Outlook:
    """Seconds, memory and money of the settings that stand in the form."""

    def __init__(
        self,
        info: ModelInfo,
        words: Words,
        *,
        currency: str,
        hourly_price: float,
        on_apply: Callable[[ClipSettings], object],
    ) -> None:
        import ipywidgets as w

        self._words, self._currency = words, currency
        known = {model.name for model in catalogue()}
        self._model = info.name if info.name in known else str(info.folder or info.name)
        self._records: list[Record] = []
        self._asked: tuple[ClipSettings, LoadSettings] | None = None
        self._one_at_a_time = threading.RLock()
        self._fitting: ClipSettings | None = None
        self.forecast: Forecast | None = None
        self.text = as_html("svdkit-outlook")
        price = w.BoundedFloatText(value=hourly_price, min=0, max=10_000, step=0.1)
        self.price = words.name(price, "price", currency=currency)
        self.apply = w.Button(button_style="warning")
        self.apply.add_class("svdkit-hidden")
        on_value(self.price, lambda _: self._again())
        self.apply.on_click(lambda _: self._fitting and on_apply(self._fitting))
        self.widget = box("svdkit-outlook-box", self.text, self.apply, self.price)
        words.bind(self._again)

    def show(self, clip: ClipSettings, load: LoadSettings) -> None:
        """Forecast a clip and show it; the newest question is answered last."""
        with self._one_at_a_time:
            self._asked, self.forecast = (clip, load), None
            try:
                how: dict[str, Any] = {"hourly_price": self.price.value or None, "currency": self._currency}
                self.forecast = forecast(self._model, clip=clip, load=load, records=self._records, **how)
                text = self._described(self.forecast)
            except (SvdkitError, OSError) as error:
                text = self._words("no_forecast", why=safe(error))
            self._offer(clip)
            fits = self.forecast is None or self.forecast.fits is not False
            warning = "" if fits else f'<p class="svdkit-warning">{self._words("will_not_fit")}</p>'
            self.text.value = f"{text}{warning}"

    def learn(self, clip: Clip) -> None:
        """Take the seconds of a clip that was made here into the next forecasts."""
        made = clip.provenance
        if made is None or not made.load or not made.stage_seconds:
            return  # of a pipeline that svdkit did not load nobody knows what it is
        same: dict[str, Any] = {"load": made.load, "clip": made.settings, "model": made.model}
        samples = {"timed": {stage: [seconds] for stage, seconds in made.stage_seconds.items()}}
        record = Record(
            **same,
            id=run_id(**same, image_sha256=made.image.get("sha256")),
            status="ok",
            image={},
            environment=made.environment,
            samples=samples,
            started_at=made.created_at,
        )
        self._records = [*self._records[1 - _KEPT :], record]
        self._again()

    def _again(self) -> None:
        with self._one_at_a_time:
            if self._asked is not None:
                self.show(*self._asked)

    def _described(self, found: Forecast) -> str:
        words, lines, source = self._words, [], ""
        if found.seconds is None:
            lines.append(words("time_unknown"))
        else:
            ends = {"low": format_seconds(found.seconds_low or 0), "high": format_seconds(found.seconds_high or 0)}
            lines.append(words("time_known", seconds=format_seconds(found.seconds), **ends))
            source = words("source_of", source=safe(found.source))
        if found.cost is not None:
            lines.append(words("money", money=safe(format_money(found.cost, found.currency))))
        needed = format_bytes(found.memory_bytes)
        has = found.gpu_bytes and format_bytes(found.gpu_bytes)
        lines.append(words("memory", needed=needed, has=has) if has else words("memory_only", needed=needed))
        return f"<p>{' · '.join(lines)}</p><small>{source}</small>"

    def _offer(self, clip: ClipSettings) -> None:
        """Offer settings that fit, where these do not."""
        self._fitting = self.forecast.fitting if self.forecast else None
        if self._fitting is None:
            self.apply.add_class("svdkit-hidden")
        else:
            self._fitting = self._fitting.replace(seed=clip.seed)
            given, now = clip.to_dict(), self._fitting.to_dict()
            what = ", ".join(f"{name} {now[name]}" for name in now if now[name] != given[name])
            self.apply.description = self._words("apply_fit", what=what)
            self.apply.remove_class("svdkit-hidden")


_SECONDS_BETWEEN = 0.2  # five messages a second: more would cost time and nobody reads faster
_SECONDS_FOR_CLICKS = 0.3  # in which clicks made during a foreground run arrive, to be passed over
_STOPPING = {"encode": "stopping_encode", "decode": "stopping_decode", "loading": "stopping_load"}


class RunControl:
    """Start, stop, progress and preview.

    In the background a run is a thread, and Stop works between steps. In the foreground, for Colab, where updates of
    widgets from a thread do not show (github.com/googlecolab/colabtools/issues/3373), it happens inside the click, and
    interrupting the kernel stops it.
    """

    def __init__(self, words: Words, *, background: bool, on_idle: Callable[[], object] = lambda: None) -> None:
        self._words, self.background, self._on_idle = words, background, on_idle
        self._stop = threading.Event()
        # Also between "stopping" of a click and "stopped" of the thread: else the first could be said last, and stay.
        self._lock = threading.Lock()
        self._ended = True
        self._stage, self._prefix, self._spoken, self._told = "", "", "", 0.0
        self._progress: Progress | None = None
        self.busy = False
        self._passing_over = False  # clicks made during a foreground run, which arrive after it
        self.handler_seconds = 0.0  # spent in the panel's own code during runs: a benchmark reads it
        self.thread: threading.Thread | None = None
        self.stop = words.button("stop", self.ask_to_stop, icon="stop")
        self.stop.disabled = True
        self.bar, self.state = as_html("svdkit-bar"), as_html("svdkit-state")
        self.picture, self.error = as_html("svdkit-picture"), as_html("svdkit-error-box")
        self.live = as_html("svdkit-live")
        self.widget = box("svdkit-run", self.state, self.bar, self.error, self.live)
        words.bind(self._write)

    @property
    def can_start(self) -> bool:
        """Whether a click may begin a run: none is going on, and the clicks made during the last one have arrived."""
        return not (self.busy or self._passing_over)

    def start(
        self,
        work: Callable[[Tell, threading.Event], object],
        *,
        doing: str = "starting",
        done: str = "done",
        can_stop: bool = True,
    ) -> bool:
        """Run ``work(tell, stop)``; False if a run is going on already.

        Errors of any kind are shown in the panel, which can be used again afterwards. ``doing`` names the text to show
        until there is news, ``done`` the one for the end.
        """
        with self._lock:
            if not self.can_start:
                return False
            self.busy, self._ended = True, False
        self._stop.clear()
        self._stage, self._prefix, self.handler_seconds = "", "", 0.0
        self.stop.disabled = not (self.background and can_stop)
        self.show_error(None)
        self._say(doing)
        run = partial(self._run, work, done)
        if self.background:
            self.thread = threading.Thread(target=run, daemon=True)
            self.thread.start()
        else:
            run()
        return True

    def ask_to_stop(self) -> None:
        """Stop at the next moment at which that is possible, and say when that is."""
        with self._lock:
            if not self._ended:
                self._stop.set()
                self.stop.disabled = True
                self._say(_STOPPING.get(self._stage, "stopping"))

    def part(self, text: str) -> None:
        """Say which of several parts is running, such as a draft."""
        self._prefix = text

    def show_error(self, error: BaseException | None) -> None:
        """Show an error in plain words, until the next run or None takes it away."""
        text = ""
        if error is not None:
            kind = "" if isinstance(error, SvdkitError) else f"{type(error).__name__}: "
            said = f"<b>{safe(self._words('failed'))}</b><br>{kind}{safe(error)}"
            text = f'<div class="svdkit-error" role="alert">{said}</div>'
        self.error.value = text

    def _run(self, work: Callable[[Tell, threading.Event], object], done: str) -> None:
        start = time.perf_counter()
        try:
            work(self._tell, self._stop)
            took = format_seconds(time.perf_counter() - start)
            self._say_end("stopped_part" if self._stop.is_set() else done, seconds=took)
        except (Cancelled, KeyboardInterrupt):
            self._say_end("stopped")
        except Exception as error:  # noqa: BLE001 - a panel shows errors, for those of a callback vanish
            self._say_end("ready")
            self.show_error(error)
        finally:
            self._show_bar(None)
            self.picture.value = ""
            self._end()

    def _say_end(self, name: str, **values: object) -> None:
        """Say how the run ended; a click on Stop that comes later says nothing any more."""
        with self._lock:
            self._ended = self.stop.disabled = True
            self._prefix = ""
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
                loop.call_later(_SECONDS_FOR_CLICKS, partial(vars(self).update, _passing_over=False))

    def _tell(self, news: News) -> None:
        """Show news, at most five a second but for those that end or begin something."""
        start = time.perf_counter()
        try:
            self._show(news, start)
        finally:
            self.handler_seconds += time.perf_counter() - start

    def _show(self, news: News, now: float) -> None:
        words, progress = self._words, news.progress
        if news.kind == "picture":
            source, alt = as_uri("image/webp", news.picture), safe(words("picture_alt"))
            self.picture.value = f'<img alt="{alt}" src="{source}">'
        elif progress is None:
            self._stage = news.kind
            name = safe(words(news.kind, place=news.place))
            self.bar.value = f'<progress aria-label="{name}"></progress>'  # it moves, and says no share
            self._say(news.kind, place=news.place)
        else:
            self._stage = progress.stage
            if progress.step in {0, progress.steps} or now - self._told >= _SECONDS_BETWEEN:
                self._told = now
                self._show_bar(progress)
                if not self._stop.is_set():
                    seconds = progress.remaining_seconds
                    left = words("left_unknown") if seconds is None else words("left", seconds=format_seconds(seconds))
                    told = {"step": progress.step, "steps": progress.steps, "left": left}
                    self._say("progress", stage=words(progress.stage), **told)

    def _show_bar(self, progress: Progress | None) -> None:
        self._progress = progress
        value, most, hidden = (progress.step, progress.steps, "") if progress else (0, 1, " hidden")
        name = safe(self._words(progress.stage if progress else "denoise"))
        self.bar.value = f'<progress aria-label="{name}" value="{value}" max="{most}"{hidden}></progress>'

    def _say(self, name: str, **values: object) -> None:
        text = self._words(name, **values)
        text = f"{self._prefix} · {text}" if self._prefix else text
        self.state.value = f'<div class="svdkit-said">{safe(text)}</div>'
        # A screen reader hears what begins and ends; numbers five times a second it would never finish.
        spoken = self._words(self._stage) if name == "progress" else text
        if spoken != self._spoken:
            self._spoken, self.live.value = spoken, safe(spoken)

    def _write(self) -> None:
        self._show_bar(self._progress)
        if not self.busy:
            self._say("ready")


def _kernel_loop() -> Any:
    """The loop of the kernel we run in; None outside of one."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if hasattr(shell, "kernel"):
        with contextlib.suppress(Exception):  # a kernel without a loop, or one that is not running
            import asyncio

            return asyncio.get_running_loop()
    return None
