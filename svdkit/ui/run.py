"""What the next clip will take, and a run with its progress, its stop and its errors."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from svdkit.bench.record import Record
from svdkit.errors import Cancelled, SvdkitError
from svdkit.forecast import Forecast, forecast
from svdkit.models import catalogue
from svdkit.ui.parts import as_html, as_uri, box, safe, show_if
from svdkit.units import format_bytes, format_money, format_seconds

if TYPE_CHECKING:
    from svdkit.clip import Clip
    from svdkit.models import ModelInfo
    from svdkit.ui.parts import Action, Words

_KEPT = 20  # clips whose seconds calibrate the forecast


@dataclasses.dataclass(eq=False)
class Outlook:
    """Seconds, memory and money of the settings that stand in the form.

    Attributes:
        info: Of the model.
        asked: Gives the settings of the clip and of loading, as they are now.
        on_apply: Takes by name what to change so that a clip fits.
        hourly_price: To begin with, in the currency.
    """

    words: Words
    info: ModelInfo
    asked: Action
    on_apply: Action
    currency: str
    hourly_price: float

    def __post_init__(self) -> None:
        import ipywidgets as w

        info, words, self._records = self.info, self.words, list[Record]()
        known = info.name in {model.name for model in catalogue()}
        self._model = str(info.name if known else info.folder or info.name)
        self._one_at_a_time = threading.Lock()
        self.forecast: Forecast | None = None
        self.fitting: dict[str, Any] = {}  # what to change so that it fits
        self.text, self.apply = as_html("svdkit-outlook"), w.Button(button_style="warning")
        self.apply.on_click(lambda _: self.on_apply(**self.fitting))
        price = w.BoundedFloatText(value=self.hourly_price, min=0, max=10_000, step=0.1)
        self.price = words.field(price, "price", lambda _: self.show(), currency=self.currency)
        self.widget = box("svdkit-outlook-box", self.text, self.apply, price)
        words.bind(self.show)

    def show(self) -> None:
        """Forecast a clip and show it, with what would fit where it does not; the newest question comes last."""
        with self._one_at_a_time:
            self.forecast, self.fitting = None, {}
            try:
                clip, load = self.asked()
                self.forecast = found = forecast(
                    self._model,
                    clip=clip,
                    load=load,
                    hourly_price=self.price.value or None,
                    currency=self.currency,
                    records=self._records,
                )
                self.text.value = self._described(found)
                if found.fitting:
                    fits = found.fitting.replace(seed=clip.seed).to_dict()
                    self.fitting = {name: value for name, value in fits.items() if value != getattr(clip, name)}
            except (SvdkitError, OSError) as error:
                self.text.value = f'<p role="alert">{self.words("no_forecast", why=safe(error))}</p>'
            what = ", ".join(f"{name} {value}" for name, value in self.fitting.items())
            self.apply.description = self.words("apply_fit", what=what)
            show_if(self.fitting, self.apply)

    def learn(self, clip: Clip) -> None:
        """Take the seconds of a clip that was made here into the next forecasts."""
        made = clip.provenance
        if made is None or not made.load:
            return  # of a pipeline that svdkit did not load nobody knows what it is
        record = Record(
            id="0" * 16,  # it is never written
            status="ok",
            load=made.load,
            clip=made.settings,
            model=made.model,
            image={},
            environment=made.environment,
            samples={"timed": {stage: [seconds] for stage, seconds in made.stage_seconds.items()}},
            started_at=made.created_at,
        )
        self._records = [*self._records[1 - _KEPT :], record]
        self.show()

    def _described(self, found: Forecast) -> str:
        words = self.words
        seconds, low, high = (
            format_seconds(one or 0) for one in (found.seconds, found.seconds_low, found.seconds_high)
        )
        lines = [words("time_known" if found.seconds else "time_unknown", seconds=seconds, low=low, high=high)]
        if found.cost is not None:
            lines.append(words("money", money=safe(format_money(found.cost, found.currency))))
        needed, has = format_bytes(found.memory_bytes), format_bytes(found.gpu_bytes or 0)
        lines.append(words("memory" if found.gpu_bytes else "memory_only", needed=needed, has=has))
        source = words("source_of", source=safe(found.source)) if found.seconds else ""
        warning = f'<p class="svdkit-warning">{words("will_not_fit")}</p>' if found.fits is False else ""
        return f"<p>{' · '.join(lines)}</p><small>{source}</small>{warning}"


_SECONDS_BETWEEN = 0.2  # five messages a second: more would cost time and nobody reads faster
_SECONDS_FOR_CLICKS = 0.3  # in which clicks made during a foreground run arrive, to be passed over


@dataclasses.dataclass(eq=False)
class RunControl:
    """Start, stop, progress and preview.

    In the background a run is a thread, and Stop works between steps. In the foreground, for Colab, where updates of
    widgets from a thread do not show (github.com/googlecolab/colabtools/issues/3373), it happens inside the click, and
    interrupting the kernel stops it.

    Attributes:
        background: Whether a run is a thread.
        on_turn: Hears when a run begins, and when one ends.
        busy: Whether a run is going on.
        part: Which of several parts is running, such as a draft; in words.
    """

    words: Words
    background: bool
    on_turn: Action = lambda: None

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        # Also between "stopping" of a click and "stopped" of the thread: else the first could be said last, and stay.
        self._lock = threading.Lock()
        self.part, self._told = "", 0.0
        self.busy = self._passing_over = False  # the latter: clicks made during a foreground run, which arrive after it
        self.thread: threading.Thread | None = None
        self.stop = self.words.button("stop", self.ask_to_stop, icon="stop")
        self.bar, self.state, self.picture = map(as_html, ("svdkit-bar", "svdkit-state", "svdkit-picture"))
        self.error, self.live = map(as_html, ("svdkit-error-box", "svdkit-live"))
        self.stop.disabled = True
        self.widget = box("svdkit-run", self.state, self.bar, self.error, self.live)
        self.words.bind(lambda: None if self.busy else self._say("ready"))

    @property
    def can_start(self) -> bool:
        """Whether a run would begin."""
        return not (self.busy or self._passing_over)

    def start(self, work: Action, *, doing: str = "starting") -> bool:
        """Run ``work(tell, stop)``; False if a run is going on already.

        It returns the name of the text for the end, or None for the usual one; ``doing`` names the one until there is
        news. Errors of any kind are shown in the panel, which can be used again afterwards.
        """
        with self._lock:
            if not self.can_start:
                return False
            self.busy = True
            self._stop.clear()
        self.stop.disabled = not self.background or doing != "starting"  # it is for clips
        self.show_error(None)
        self._say(doing)
        if self.background:
            self.thread = threading.Thread(target=self._run, args=(work,), daemon=True)
            self.thread.start()
        else:
            self._run(work)
        return True

    def ask_to_stop(self) -> None:
        """Stop at the next moment at which that is possible, and say when that is."""
        with self._lock:
            if self.busy:
                self._stop.set()
                self.stop.disabled = True
                self._say("stopping")

    def show_error(self, error: BaseException | None) -> None:
        """Show an error in plain words, until the next run or None takes it away."""
        self.error.value = ""
        if error is not None:
            kind = "" if isinstance(error, SvdkitError) else f"{type(error).__name__}: "
            said = f"<b>{safe(self.words('failed'))}</b><br>{kind}{safe(error)}"
            self.error.value = f'<div class="svdkit-error" role="alert">{said}</div>'

    def _run(self, work: Action) -> None:
        """Run, say how it ended, and be ready for the next; in the foreground not before the clicks meanwhile arrived.

        All that is to be seen is told now, within the click: what comes after its end Colab does not show.
        """
        start, end, loop = time.perf_counter(), "ready", None
        try:
            self.on_turn()
            end = work(self.tell, self._stop.is_set) or "done"
        except (Cancelled, KeyboardInterrupt):
            end = "stopped"
        except Exception as error:  # noqa: BLE001 - a panel shows errors, for those of a callback vanish
            self.show_error(error)
        with contextlib.suppress(RuntimeError):  # there is none in a thread, or outside of a kernel
            loop = asyncio.get_running_loop()
        with self._lock:
            self.busy, self._passing_over = False, loop is not None
            self.stop.disabled = True
            self.part = self.bar.value = self.picture.value = ""
            self._say(end, seconds=format_seconds(time.perf_counter() - start))
        try:
            self.on_turn()
        finally:  # a second interrupt may come here
            if loop:
                loop.call_later(_SECONDS_FOR_CLICKS, partial(vars(self).update, _passing_over=False))

    def tell(
        self, kind: str, *, step: int = 0, steps: int = 0, left: float | None = None, data: bytes = b"", **values: int
    ) -> None:
        """Show news, at most five a second but for those that end or begin something."""
        words, now = self.words, time.perf_counter()
        if kind == "picture":
            self.picture.value = f'<img alt="{safe(words("picture_alt"))}" src="{as_uri("image/webp", data)}">'
        elif not 0 < step < steps or now - self._told >= _SECONDS_BETWEEN:
            self._told, name = now, words(kind, **values)
            share = f' value="{step}" max="{steps}"' if steps else ""  # without it the bar moves
            self.bar.value = f'<progress aria-label="{safe(name)}"{share}></progress>'
            if not self._stop.is_set():  # else when it will stop is said already
                rest = format_seconds(math.inf if left is None else left)
                said = "progress" if steps else kind
                self._say(said, stage=name, step=step, steps=steps, left=rest, **values)

    def _say(self, name: str, **values: object) -> None:
        text = self.words(name, **values)
        text = f"{self.part} · {text}" if self.part else text
        self.state.value = f'<div class="svdkit-said">{safe(text)}</div>'
        # A screen reader hears what begins and ends; numbers five times a second it would never finish.
        self.live.value = safe(values.get("stage", text))
