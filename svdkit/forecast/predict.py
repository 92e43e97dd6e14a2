"""What a clip will take in time, memory and money, as numbers and as text; nothing is run."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.bench.record import Record, check_records, read_records
from svdkit.errors import SettingsError
from svdkit.forecast.calibration import (
    SHIPPED_FILE,
    Calibration,
    ClipJob,
    clip_flops,
    from_published,
    from_records,
    own_calibrations,
    peak_bytes,
    timed_part,
    weight_bytes,
)
from svdkit.forecast.cards import CARD_GIB, Card, card_of, find_card, of_memory
from svdkit.models import ModelInfo, find_model
from svdkit.models.costs import network_of
from svdkit.pipeline.memory import (
    MARGINS,
    OVERHEAD_BYTES,
    Fit,
    Need,
    Rung,
    choose_dtype,
    plan,
    possible_plans,
    rung_text,
)
from svdkit.settings import ClipSettings, LoadSettings
from svdkit.settings.base import Settings, number, setting, text
from svdkit.units import aligned, format_bytes, format_count, format_money, format_seconds

if TYPE_CHECKING:
    from svdkit.models.costs import Network


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
        memory_bytes: What must be free: weights, activations with cuDNN's copies and a margin, 0.75 GiB of context.
        reserved_bytes: What the driver will show where there is room: torch keeps blocks of earlier stages.
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
    reserved_bytes: int
    fits: bool | None
    ladder: tuple[Fit, ...]
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
        return _forecast_html(self)


_NAMES = {"image_encoder": "image encoder", "vae_encode": "VAE encode", "unet": "UNet", "vae_decode": "VAE decode"}
_VERDICTS = {True: "fits", False: "does not fit", None: "not known whether it fits"}


def as_text(forecast: Any) -> str:
    """Give the forecast as lines of at most 110 characters, for a terminal."""
    lines = [_title(forecast)]
    for label, words in _facts(forecast):
        lines += textwrap.wrap(words, 110, initial_indent=f"{label:<11}", subsequent_indent=" " * 11)
    rows = [("", "WAY", "DECODE CHUNK", "MEMORY", "A CLIP", ""), *_ladder(forecast)]
    return "\n".join([*lines, "", *aligned(rows)])


def _forecast_html(forecast: Any) -> str:
    """Give the forecast as two tables, everything escaped."""
    left = 'style="text-align:left"'  # on each cell: Jupyter aligns them to the right
    th, td = f"<th {left}>", f"<td {left}>"
    facts = "".join(f"<tr>{th}{escape(label)}</th>{td}{escape(text)}</td></tr>" for label, text in _facts(forecast))
    head = "".join(f"{th}{text}</th>" for text in ("", "way", "decode chunk", "memory", "a clip", ""))
    ladder = "".join(f"<tr>{''.join(f'{td}{escape(cell)}</td>' for cell in row)}</tr>" for row in _ladder(forecast))
    return (
        f"<div><b>{escape(_title(forecast))}</b><table>{facts}</table>"
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
    if forecast.load.memory == "group-offload":
        yield (
            "",
            f"and {format_bytes(forecast.weight_bytes['unet'])} of main memory, pinned, from which the UNet is fetched",
        )
    whose = "the CUDA context" if forecast.load.device == "cuda" else "the process"
    fragments = f"cuDNN's copies, {MARGINS['unet'] - 1:.0%} of the UNet's activations for fragments"
    yield "", f"margin within that: {fragments}, {format_bytes(OVERHEAD_BYTES)} for {whose}"
    if forecast.reserved_bytes > forecast.memory_bytes and forecast.load.device == "cuda":
        yield "", f"with room torch takes {format_bytes(forecast.reserved_bytes)}, and gives back when it has to"


def _way(forecast: Any) -> str:
    return rung_text(_chosen(forecast).rung)


def _chosen(forecast: Any) -> Fit:
    load = forecast.load
    chunk = forecast.clip.decode_chunk_size or 1
    rung = Rung(load.memory, load.two_pass_guidance, load.forward_chunking, chunk)
    return Fit(rung, forecast.memory_bytes, forecast.fits, forecast.seconds)


def _ladder(forecast: Any) -> Iterator[tuple[str, ...]]:
    """One row a way: mark, way, chunk, bytes, seconds, verdict; the chosen one first where the ladder lacks it."""
    chosen = _chosen(forecast)
    known = any(step.rung == chosen.rung for step in forecast.ladder)
    for step in itertools.chain([] if known else [chosen], forecast.ladder):
        mark = "->" if step.rung == chosen.rung else ""
        seconds = "–" if step.seconds is None else format_seconds(step.seconds)
        verdict = "" if step.fits is None else _VERDICTS[step.fits]
        size = format_bytes(step.memory_bytes)
        yield mark, rung_text(step.rung), str(step.rung.decode_chunk_size), size, seconds, verdict


def _operations(count: float) -> str:
    if count < 1e12:
        return format_count(round(count / 1e9), "GFLOP", "GFLOP")
    return format_count(round(count / 1e12), "TFLOP", "TFLOP")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Price(Settings):
    """What the machine costs, judged as settings are."""

    hourly_price: float | None = setting(None, number(0, 10**9))
    currency: str = setting("USD", text("three letters such as 'USD'", pattern="[A-Za-z]{3}"))


_SMALLER = ((448, 768), (320, 576), (256, 448), (192, 320))


def forecast(
    model: str | Path = "svd-xt",
    *,
    gpu: str | float | None = None,
    clip: ClipSettings | Mapping[str, Any] | None = None,
    load: LoadSettings | Mapping[str, Any] | None = None,
    hourly_price: float | None = None,
    currency: str = "USD",
    records: Iterable[Record] | str | Path | None = None,
) -> Forecast:
    """Say what a clip will take in time, memory and money, before anything runs: no GPU, no weights, no download.

    Args:
        model: A name of the catalogue, or a folder in diffusers' layout (its JSON files are enough).
        gpu: Such as "RTX 4090", "T4", or as torch names it; or a number of GB. None for this machine's, or its CPU.
        clip: Settings of the clip, or a dict of some; what is open is the model's own.
        load: Settings of the model, or a dict of some; "auto" becomes what ``svdkit.load`` would choose with the whole
            card free.
        hourly_price: Of the machine, for the cost of a clip.
        currency: ISO 4217 code of the price.
        records: Own measurements to calibrate from: records, or a results folder.

    Returns:
        The forecast.

    Raises:
        SettingsError: An unknown card, price or setting; the message says what there is.
        ModelError: An unknown model, or one whose configuration is not on this machine.
        PipelineError: A precision or plan that cannot work on the card.
        NotCountedError: The model's networks are neither SVD's nor micro's.

    Example:
        >>> forecast("svd-xt", gpu="RTX 4090").fits
        True
    """
    problems: list[str] = []
    price = Price.read({"hourly_price": hourly_price, "currency": currency}, problems)
    clip, load = ClipSettings.read(clip, problems), LoadSettings.read(load, problems)
    named = LoadSettings.read({"model": model}, problems)
    if problems:
        raise SettingsError.of("forecast", problems)
    given = read_records(records) if isinstance(records, str | Path) else check_records(records, who="forecast")
    info = find_model(named.model)
    asked = load.replace(model=info.name)
    card, device = _this_machine(asked.device) if gpu is None else (find_card(gpu), "cuda")
    dtype, _, _ = choose_dtype(asked.dtype, device=device, capability=card.capability if device == "cuda" else None)
    asked = asked.replace(dtype=dtype, device=device)
    run = _Clip(info, card, clip, asked)
    ladder, chosen = _plans(run, asked)
    job = run.job(chosen.rung)
    calibration = _calibrate(job, network=run.network, card=card, model=info.name, given=given)
    stages = run.stage_seconds(chosen.rung, calibration)
    seconds = sum(stages.values()) or None
    low, high = (calibration.low, calibration.high) if calibration else (1.0, 1.0)
    switches = chosen.rung._asdict()
    chunk = switches.pop("decode_chunk_size")
    return Forecast(
        model=info.name,
        weights=asked.weights,
        gpu=card.name,
        gpu_bytes=card.memory_bytes or None,
        load=asked.replace(**switches),
        clip=run.clip.replace(decode_chunk_size=chunk),
        flops=clip_flops(job, run.network),
        peak_bytes=peak_bytes(job, run.network),
        weight_bytes=weight_bytes(dtype, run.network),
        memory_bytes=chosen.memory_bytes,
        reserved_bytes=run.need().peak(chosen.rung, with_room=True),
        fits=chosen.fits,
        ladder=tuple(s._replace(seconds=sum(run.stage_seconds(s.rung, calibration).values()) or None) for s in ladder),
        stage_seconds=stages,
        seconds=seconds,
        seconds_low=seconds and seconds * low,
        seconds_high=seconds and seconds * high,
        source=calibration.source if calibration else "nothing to calibrate from",
        **price.to_dict(),
        fitting=_fitting(run, chosen.rung) if chosen.fits is False else None,
        advice=tuple(_advice(run, ladder, chosen, known=calibration is not None)),
    )


def _this_machine(asked: str = "auto") -> tuple[Card, str]:
    """Describe this machine's GPU, or its processor with main memory; and say what torch calls such a device."""
    from svdkit.environment import gather

    kind, _, number = asked.partition(":")
    facts = gather(ask_torch=False)
    if kind != "cpu" and (facts.driver or facts.system.startswith("Darwin") or Path("/dev/kfd").exists()):  # AMD's
        facts = gather(ask_torch=True)
    for gpu in () if kind == "cpu" else facts.gpus[int(number or 0) :]:
        return card_of(gpu.name, gpu.capability)._replace(memory_gib=gpu.vram_bytes / CARD_GIB), "cuda"
    name, device = ("Apple GPU (MPS)", "mps") if facts.mps and kind != "cpu" else (facts.cpu or "CPU", "cpu")
    return of_memory(name, (facts.ram_bytes or 0) / CARD_GIB), device


class _Clip:
    """One clip with its costs, on one card, in any way of running it."""

    def __init__(self, info: ModelInfo, card: Card, clip: ClipSettings, asked: LoadSettings) -> None:
        self.card, self.network, self.asked_chunk = card, network_of(info), clip.decode_chunk_size
        self.clip = clip.replace(seed=0).resolve(**info.clip_defaults)
        self._base = ClipJob(asked.dtype, asked.compile, Rung("resident"), timed_part(self.clip))

    def job(self, rung: Rung) -> ClipJob:
        """The clip as it runs on a rung; a decode chunk that was asked for stays."""
        chunk = min(self.asked_chunk or rung.decode_chunk_size, self.clip.num_frames or 1)
        clip = self._base.clip.replace(decode_chunk_size=chunk)
        return self._base._replace(rung=rung._replace(decode_chunk_size=chunk), clip=clip)

    def need(self) -> Need:
        """Its bytes, in any way of running it."""
        weights = weight_bytes(self._base.dtype, self.network)
        asked = {"decode_chunk_size": self.asked_chunk, **self._base.size}
        return Need(weight_bytes=weights, network=self.network, **asked)

    def stage_seconds(self, rung: Rung, calibration: Calibration | None) -> dict[str, float]:
        """Calibrated seconds by stage; empty without a calibration."""
        return calibration.seconds(self.job(rung), self.network, self.card) if calibration else {}


def _plans(run: _Clip, asked: LoadSettings) -> tuple[tuple[Fit, ...], Fit]:
    """Give the ladder, and the step of it, or the way asked for, that is expected to be used."""
    device, free = asked.device, run.card.memory_bytes or None
    works: dict[str, Any] = {"dtype": asked.dtype, "compiled": asked.compile}
    possible_plans(device, memory=asked.memory, **works)  # raises where what was asked for cannot work
    switches = (asked.two_pass_guidance, asked.forward_chunking)
    every, plans = Rung("auto", *switches), possible_plans(device, memory="auto", **works)
    ladder = plan(run.need(), free_bytes=free, asked=every, plans=plans)
    own = ladder if asked.memory == "auto" else plan(run.need(), free_bytes=free, asked=Rung(asked.memory, *switches))
    chosen = next((step for step in own if step.fits is not False), own[-1])
    exact = [step._replace(rung=run.job(step.rung).rung) for step in (*ladder, chosen)]
    return tuple(exact[:-1]), exact[-1]


def _calibrate(job: ClipJob, *, network: Network, card: Card, model: str, given: list[Record]) -> Calibration | None:
    """Take the nearest source that knows something."""
    sources: dict[str, Callable[[], list[Record]]] = {
        "own records": lambda: given,
        "own calibration": own_calibrations,
        "shipped records": _shipped,
    }
    for what, read in sources.items():
        if found := from_records(read(), job=job, model=model, network=network, card=card, what=what):
            return found
    return from_published(card, job=job)


@functools.cache
def _shipped() -> list[Record]:
    return read_records(SHIPPED_FILE) if SHIPPED_FILE.is_file() else []


def _advice(run: _Clip, ladder: tuple[Fit, ...], chosen: Fit, *, known: bool) -> Iterator[str]:
    """Say what to change, where something should be."""
    fitting = next((step for step in ladder if step.fits), None)
    if chosen.fits is False and fitting:
        way = f"{rung_text(fitting.rung)} and decode_chunk_size={fitting.rung.decode_chunk_size}"
        yield f"{rung_text(chosen.rung)} is expected to run out of memory: memory='auto' would take {way}, which fits"
    elif chosen.fits is False:
        least = ladder[-1]
        yield f"nothing fits: even {rung_text(least.rung)} needs {format_bytes(least.memory_bytes)}; {_cure(run)}"
    if not known and run.card.name.startswith("a card of"):
        yield "for seconds name the card, for example gpu='RTX 4090': memory alone does not say how fast it is"
    elif not known:
        yield "for seconds run svdkit.calibrate(pipe) here once, or give records of svdkit.profile"


def _cure(run: _Clip) -> str:
    """Name a clip that would fit with the thriftiest plan."""
    found = _fitting(run, Rung("sequential", True, True, 1))  # noqa: FBT003 - named above the class
    if found is None:
        return "use a larger card, or the small model micro"
    if (found.height, found.width) == (run.clip.height, run.clip.width):
        return f"decode_chunk_size={run.asked_chunk} is what does not fit: leave it out"
    return f"height={found.height}, width={found.width} would fit"


def _fitting(run: _Clip, rung: Rung) -> ClipSettings | None:
    """Find a clip that fits a way of running: decoded in smaller chunks, else smaller."""
    rung, clip = rung._replace(decode_chunk_size=1), run.clip.replace(decode_chunk_size=1)
    need, upright = dataclasses.replace(run.need(), decode_chunk_size=None), (clip.height or 1) > (clip.width or 1)
    if need.peak(rung) <= run.card.memory_bytes:
        return clip
    for size in _SMALLER:
        height, width = reversed(size) if upright else size
        smaller = dataclasses.replace(need, height=height, width=width)
        if height * width < need.height * need.width and smaller.peak(rung) <= run.card.memory_bytes:
            return clip.replace(height=height, width=width)
    return None
