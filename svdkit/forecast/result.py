"""What a forecast says, as an object that prints as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svdkit.pipeline.memory import Plan
    from svdkit.settings import ClipSettings, LoadSettings


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a clip is expected to take; print it to read it.

    Attributes:
        model: Name of the model.
        weights: "trained" or "random"; both take the same.
        gpu: Name of the card, or of this machine's processor.
        gpu_bytes: Its total memory; None if unknown.
        load: Resolved: nothing is "auto".
        clip: Resolved; the seed is 0, since it changes nothing here.
        flops: Operations by stage, of a whole clip; multiplication and addition are two.
        peak_bytes: Activation bytes by stage at the peak, without weights, workspaces and margin.
        weight_bytes: Bytes of each network's weights.
        memory_bytes: What must be free: weights, activations with cuDNN's copies, 15 % on these, 0.5 GiB of context.
        fits: Whether that is no more than ``gpu_bytes``; None if that is unknown.
        ladder: Ways to run the clip as ``load(memory="auto")`` tries them, from fast to thrifty.
        stage_seconds: By stage; empty if there is nothing to calibrate from.
        seconds: Of one clip on a loaded pipeline, without the file; None as above.
        seconds_low: Lower end of the interval.
        seconds_high: Upper end of the interval.
        source: What the seconds are calibrated from.
        hourly_price: Of the machine.
        currency: ISO 4217 code.
        fitting: Settings that fit this card and plan, where these do not; None where these do, or nothing does.
        advice: What to change if it does not fit, or to learn the seconds.

    Example:
        >>> print(forecast("svd-xt", gpu="RTX 4090"))
        svd-xt on RTX 4090, fp16: 25 frames of 576x1024 (height x width), 25 steps, guidance 1 to 3
        ...
    """

    model: str
    weights: str
    gpu: str
    gpu_bytes: int | None
    load: LoadSettings
    clip: ClipSettings
    flops: Mapping[str, int]
    peak_bytes: Mapping[str, int]
    weight_bytes: Mapping[str, int]
    memory_bytes: int
    fits: bool | None
    ladder: tuple[Plan, ...]
    stage_seconds: Mapping[str, float]
    seconds: float | None
    seconds_low: float | None
    seconds_high: float | None
    source: str
    hourly_price: float | None
    currency: str
    fitting: ClipSettings | None = None
    advice: tuple[str, ...] = ()

    @property
    def cost(self) -> float | None:
        """Money a clip, in units of the currency; None without price or seconds."""
        return None if self.hourly_price is None or self.seconds is None else self.hourly_price * self.seconds / 3600

    @property
    def clips_per_hour(self) -> float | None:
        """Clips of one pipeline in an hour, one after the other; None without seconds."""
        return 3600 / self.seconds if self.seconds else None

    def brief(self) -> dict[str, Any]:
        """Give what a record keeps beside what was measured: seconds, memory, the card, where the seconds come from."""
        names = ("gpu", "seconds", "seconds_low", "seconds_high", "memory_bytes", "source")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as plain JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values |= {name: dict(values[name]) for name in ("flops", "peak_bytes", "weight_bytes", "stage_seconds")}
        values |= {"load": self.load.to_dict(), "clip": self.clip.to_dict(), "advice": list(self.advice)}
        values["fitting"] = self.fitting.to_dict() if self.fitting else None
        values["ladder"] = [
            {**step.rung._asdict(), "memory_bytes": step.memory_bytes, "fits": step.fits, "seconds": step.seconds}
            for step in self.ladder
        ]
        return {**values, "cost": self.cost, "clips_per_hour": self.clips_per_hour}

    def __str__(self) -> str:
        from svdkit.forecast.show import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from svdkit.forecast.show import as_html

        return as_html(self)
