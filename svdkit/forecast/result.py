"""What a forecast says, and how it is shown."""

from __future__ import annotations

import dataclasses
import html
import itertools
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from svdkit.pipeline.memory import MARGIN, OVERHEAD_BYTES, Plan, describe
from svdkit.units import aligned, format_bytes, format_count, format_money, format_seconds

if TYPE_CHECKING:
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

        return as_text(self)

    def _repr_html_(self) -> str:

        return as_html(self)


_NAMES = {"image_encoder": "image encoder", "vae_encode": "VAE encode", "unet": "UNet", "vae_decode": "VAE decode"}
_VERDICTS = {True: "fits", False: "does not fit", None: "not known whether it fits"}


def as_text(forecast: Any) -> str:
    """Give the forecast as lines of at most 110 characters, for a terminal."""
    lines = [_title(forecast)]
    for label, text in _facts(forecast):
        lines += textwrap.wrap(text, 110, initial_indent=f"{label:<11}", subsequent_indent=" " * 11)
    rows = [("", "WAY", "DECODE CHUNK", "MEMORY", "A CLIP", ""), *_ladder(forecast)]
    return "\n".join([*lines, "", *aligned(rows)])


def as_html(forecast: Any) -> str:
    """Give the forecast as two tables, everything escaped."""
    left = 'style="text-align:left"'  # on each cell: Jupyter aligns them to the right
    th, td = f"<th {left}>", f"<td {left}>"
    facts = "".join(f"<tr>{th}{_safe(label)}</th>{td}{_safe(text)}</td></tr>" for label, text in _facts(forecast))
    head = "".join(f"{th}{text}</th>" for text in ("", "way", "decode chunk", "memory", "a clip", ""))
    ladder = "".join(f"<tr>{''.join(f'{td}{_safe(cell)}</td>' for cell in row)}</tr>" for row in _ladder(forecast))
    return (
        f"<div><b>{_safe(_title(forecast))}</b><table>{facts}</table>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{ladder}</tbody></table></div>"
    )


def _title(forecast: Any) -> str:
    clip = forecast.clip
    size = f"{clip.num_frames} frames of {clip.height}x{clip.width} (height x width), {clip.num_inference_steps} steps"
    compiled = ", compiled" if forecast.load.compile else ""
    scales = (clip.min_guidance_scale, clip.max_guidance_scale or 0.0)
    guidance = f"guidance {scales[0]:g} to {scales[1]:g}" if max(scales) > 1 else "no guidance"
    return f"{forecast.model} on {forecast.gpu}, {forecast.load.dtype}{compiled}: {size}, {guidance}"


def _facts(forecast: Any) -> Iterator[tuple[str, str]]:
    """Label and text of each line; a label is empty where a line goes on with the one before."""
    if forecast.seconds is None:
        yield "time", f"not known: {forecast.source}"
    else:
        low, high = (format_seconds(end or 0) for end in (forecast.seconds_low, forecast.seconds_high))
        yield "time", f"about {format_seconds(forecast.seconds)} a clip ({low} to {high})"
        parts = [f"{_NAMES[stage]} {format_seconds(value)}" for stage, value in forecast.stage_seconds.items()]
        yield "", ", ".join(parts)
        yield "", f"from {forecast.source}"
    yield from _money(forecast)
    yield from _memory(forecast)
    parts = [f"{_NAMES[stage]} {_operations(count)}" for stage, count in forecast.flops.items() if count >= 1e12]
    total = _operations(sum(forecast.flops.values()))
    yield "arithmetic", f"{total} a clip" + (f": {', '.join(parts)}" if parts else "")
    for sentence in forecast.advice:
        yield "advice", sentence


def _money(forecast: Any) -> Iterator[tuple[str, str]]:
    if forecast.cost is None or forecast.clips_per_hour is None or forecast.hourly_price is None:
        return
    each, hour = (format_money(sum_, forecast.currency) for sum_ in (forecast.cost, forecast.hourly_price))
    yield "money", f"{each} a clip at {hour} an hour, {format_count(int(forecast.clips_per_hour), 'clip')} an hour"


def _memory(forecast: Any) -> Iterator[tuple[str, str]]:
    has = f" of {format_bytes(forecast.gpu_bytes)}" if forecast.gpu_bytes else ""
    way = f"{_way(forecast)}, decode_chunk_size={forecast.clip.decode_chunk_size}"
    yield "memory", f"{format_bytes(forecast.memory_bytes)}{has}: {_VERDICTS[forecast.fits]} ({way})"
    peaks = ", ".join(f"{_NAMES[stage]} {format_bytes(size)}" for stage, size in forecast.peak_bytes.items())
    yield "", f"weights {format_bytes(sum(forecast.weight_bytes.values()))}; activations at their peak: {peaks}"
    whose = "the CUDA context" if forecast.load.device == "cuda" else "the process"
    fragments = f"cuDNN's copies, {MARGIN - 1:.0%} of activations for fragments"
    yield "", f"margin within that: {fragments}, {format_bytes(OVERHEAD_BYTES)} for {whose}"


def _way(forecast: Any) -> str:
    return describe(_chosen(forecast).rung)


def _chosen(forecast: Any) -> Plan:
    from svdkit.pipeline.memory import Rung

    load = forecast.load
    chunk = forecast.clip.decode_chunk_size or 1
    rung = Rung(load.memory, load.two_pass_guidance, load.forward_chunking, chunk)
    return Plan(rung, forecast.memory_bytes, forecast.fits, forecast.seconds)


def _ladder(forecast: Any) -> Iterator[tuple[str, ...]]:
    """One row a way: mark, way, chunk, bytes, seconds, verdict; the chosen one first where the ladder lacks it."""
    chosen = _chosen(forecast)
    known = any(step.rung == chosen.rung for step in forecast.ladder)
    for step in itertools.chain([] if known else [chosen], forecast.ladder):
        mark = "->" if step.rung == chosen.rung else ""
        seconds = "–" if step.seconds is None else format_seconds(step.seconds)
        verdict = "" if step.fits is None else _VERDICTS[step.fits]
        size = format_bytes(step.memory_bytes)
        yield mark, describe(step.rung), str(step.rung.decode_chunk_size), size, seconds, verdict


def _operations(count: float) -> str:
    if count < 1e12:
        return format_count(round(count / 1e9), "GFLOP", "GFLOP")
    return format_count(round(count / 1e12), "TFLOP", "TFLOP")


def _safe(text: str) -> str:
    return html.escape(text)
