"""What the next clip will take, before it is made; and what would fit where it does not."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from svdkit.bench.forecast import Forecast, NotCountedError, forecast
from svdkit.bench.forecast.predict import SMALLER
from svdkit.bench.record import Record, run_id
from svdkit.errors import SvdkitError
from svdkit.models import catalogue
from svdkit.ui.parts import as_html, box, on_click, on_value, safe
from svdkit.units import format_bytes, format_money, format_seconds

if TYPE_CHECKING:
    from svdkit.clip import Clip
    from svdkit.models import ModelInfo
    from svdkit.settings import ClipSettings, LoadSettings
    from svdkit.ui.words import Words

_KEPT = 20  # clips whose seconds calibrate the forecast
# Counting builds the network without storage and changes torch's defaults meanwhile: it happens in another process.
_COUNT = (
    "import json, sys\nfrom svdkit.bench.forecast import forecast\nfrom svdkit.settings import ClipSettings\n"
    "forecast(sys.argv[1], clip=ClipSettings.from_dict(json.loads(sys.argv[2])))"
)


class Outlook:
    """Seconds, memory and money of the settings that stand in the form.

    Args:
        info: Of the model.
        words: Texts.
        currency: ISO 4217 code of the price.
        hourly_price: To begin with; 0 for none.
        on_apply: Called with settings that fit, when the user asks for them.
        background: Whether a thread may bring news later.
    """

    def __init__(
        self,
        info: ModelInfo,
        words: Words,
        *,
        currency: str,
        hourly_price: float,
        on_apply: Callable[[ClipSettings], object],
        background: bool,
    ) -> None:
        import ipywidgets as w

        self._words, self._currency, self._background = words, currency, background
        known = {model.name for model in catalogue()}
        self._model = info.name if info.name in known else str(info.folder or info.name)
        self._records: list[Record] = []
        self._asked: tuple[ClipSettings, LoadSettings] | None = None
        self._counting: dict[str, subprocess.Popen[bytes]] = {}
        self._fitting: ClipSettings | None = None
        self.forecast: Forecast | None = None
        self.text = as_html(class_="svdkit-outlook")
        self.price = w.BoundedFloatText(value=hourly_price, min=0, max=10_000, step=0.1)
        self.apply = w.Button(button_style="warning")
        self.apply.add_class("svdkit-hidden")
        on_value(self.price, lambda _: self._again())
        on_click(self.apply, lambda: self._fitting and on_apply(self._fitting))
        self.widget = box(self.text, self.apply, self.price, class_="svdkit-outlook-box")
        words.bind(self._write)

    def show(self, clip: ClipSettings, load: LoadSettings) -> None:
        """Forecast a clip and show it."""
        self._asked = (clip, load)
        self.forecast = None
        try:
            self.forecast = self._forecast(clip, load, count=False)
            text = self._described(self.forecast)
        except NotCountedError:
            text = self._words("counting" if self._count(clip) else "not_counted")
        except (SvdkitError, OSError) as error:
            text = self._words("no_forecast", why=safe(error))
        self._offer(clip, load)
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
        if self._asked is not None:
            self.show(*self._asked)

    def _forecast(self, clip: ClipSettings, load: LoadSettings, *, count: bool) -> Forecast:
        money: dict[str, Any] = {"hourly_price": self.price.value or None, "currency": self._currency}
        return forecast(self._model, clip=clip, load=load, records=self._records, count=count, **money)

    def _described(self, found: Forecast) -> str:
        words = self._words
        if found.seconds is None:
            lines = [words("time_unknown")]
        else:
            ends = {"low": format_seconds(found.seconds_low or 0), "high": format_seconds(found.seconds_high or 0)}
            lines = [words("time_known", seconds=format_seconds(found.seconds), **ends)]
        if found.cost is not None:
            lines.append(words("money", money=safe(format_money(found.cost, found.currency))))
        needed = format_bytes(found.memory_bytes)
        has = found.gpu_bytes and format_bytes(found.gpu_bytes)
        lines.append(words("memory", needed=needed, has=has) if has else words("memory_only", needed=needed))
        source = "" if found.seconds is None else words("source_of", source=safe(found.source))
        return f"<p>{' · '.join(lines)}</p><small>{source}</small>"

    def _offer(self, clip: ClipSettings, load: LoadSettings) -> None:
        """Find settings that fit, where these do not, and offer them."""
        self._fitting = None
        if self.forecast is not None and self.forecast.fits is False:
            for smaller in _smaller(clip):
                try:
                    fits = self._forecast(smaller, load, count=False).fits
                except SvdkitError:
                    continue
                if fits:
                    self._fitting = smaller
                    break
        self.apply.remove_class("svdkit-hidden")
        if self._fitting is None:
            self.apply.add_class("svdkit-hidden")
            return
        given, now = clip.to_dict(), self._fitting.to_dict()
        what = ", ".join(f"{name} {now[name]}" for name in now if now[name] != given[name])
        self.apply.description = self._words("apply_fit", what=what)

    def _count(self, clip: ClipSettings) -> bool:
        """Count in another process, and look again when it is done; False if that was tried and failed."""
        settings = json.dumps(clip.replace(seed=0).to_dict())
        shape = json.dumps([clip.height, clip.width, clip.num_frames, clip.decode_chunk_size, clip.max_guidance_scale])
        if shape in self._counting:
            return self._counting[shape].poll() is None
        command = [sys.executable, "-c", _COUNT, self._model, settings]
        quiet: Mapping[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._counting[shape] = running = subprocess.Popen(command, **quiet)
        if self._background:
            threading.Thread(target=partial(self._wait, running), daemon=True).start()
        return True

    def _wait(self, running: subprocess.Popen[bytes]) -> None:
        running.wait()
        self._again()

    def _write(self) -> None:
        self.price.description = self._words("price", currency=self._currency)
        self._again()


def _smaller(clip: ClipSettings) -> Iterator[ClipSettings]:
    """Settings that need less memory, from the gentlest change on."""
    for chunk in (2, 1):
        if (clip.decode_chunk_size or chunk + 1) > chunk:
            yield clip.replace(decode_chunk_size=chunk)
    area, upright = (clip.height or 0) * (clip.width or 0), (clip.height or 0) > (clip.width or 0)
    for short, long in SMALLER:
        if short * long < area:
            size = {"height": long, "width": short} if upright else {"height": short, "width": long}
            yield clip.replace(**size, decode_chunk_size=min(2, clip.num_frames or 2))
    if (clip.num_frames or 0) > 14:
        yield clip.replace(num_frames=14, decode_chunk_size=2)
