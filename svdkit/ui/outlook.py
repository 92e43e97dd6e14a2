"""What the next clip will take, before it is made; and what would fit where it does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from svdkit.bench.record import Record, run_id
from svdkit.errors import SvdkitError
from svdkit.forecast import Forecast, forecast
from svdkit.models import catalogue
from svdkit.ui.parts import as_html, box, on_value, safe
from svdkit.units import format_bytes, format_money, format_seconds

if TYPE_CHECKING:
    from svdkit.clip import Clip
    from svdkit.models import ModelInfo
    from svdkit.settings import ClipSettings, LoadSettings
    from svdkit.ui.parts import Words

_KEPT = 20  # clips whose seconds calibrate the forecast


class Outlook:
    """Seconds, memory and money of the settings that stand in the form.

    Args:
        info: Of the model.
        words: Texts.
        currency: ISO 4217 code of the price.
        hourly_price: To begin with; 0 for none.
        on_apply: Called with settings that fit, when the user asks for them.
    """

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
