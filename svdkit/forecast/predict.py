"""What a clip will take in time, memory and money, as numbers and as text; nothing is run."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from svdkit.bench.record import Record, check_records, read_records
from svdkit.errors import SettingsError
from svdkit.forecast.calibration import ClipJob, clip_job, find_calibration
from svdkit.forecast.cards import Card, card_of, find_card
from svdkit.models import find_model
from svdkit.models.costs import network_of
from svdkit.pipeline.memory import (
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
        kept = ("gpu", "seconds", "seconds_low", "seconds_high", "memory_bytes", "source")
        return {name: getattr(self, name) for name in kept}

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as plain JSON values."""
        ladder = [
            {**step.rung._asdict(), "memory_bytes": step.memory_bytes, "fits": step.fits, "seconds": step.seconds}
            for step in self.ladder
        ]
        settings = {"load": self.load.to_dict(), "clip": self.clip.to_dict()}
        more = {"fitting": self.fitting and self.fitting.to_dict(), "advice": list(self.advice), "ladder": ladder}
        return {**vars(self), **settings, **more, "cost": self.cost, "clips_per_hour": self.clips_per_hour}

    def __str__(self) -> str:
        """Lines of at most 110 characters, for a terminal."""
        lines = [_title(self)]
        for label, words in _facts(self):
            lines += textwrap.wrap(words, 110, initial_indent=f"{label:<11}", subsequent_indent=" " * 11)
        return "\n".join([*lines, "", *aligned([("", "WAY", "DECODE CHUNK", "MEMORY", "A CLIP", ""), *_ladder(self)])])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


_NAMES = {"image_encoder": "image encoder", "vae_encode": "VAE encode", "unet": "UNet", "vae_decode": "VAE decode"}
_VERDICTS = {True: "fits", False: "does not fit", None: "not known whether it fits"}


def _title(forecast: Forecast) -> str:
    clip = forecast.clip
    size = f"{clip.num_frames} frames of {clip.height}x{clip.width} (height x width), {clip.num_inference_steps} steps"
    compiled = ", compiled" if forecast.load.compile else ""
    scales = (clip.min_guidance_scale, clip.max_guidance_scale or 0.0)
    guidance = f"guidance {scales[0]:g} to {scales[1]:g}" if max(scales) > 1 else "no guidance"
    return f"{forecast.model} on {forecast.gpu}, {forecast.load.dtype}{compiled}: {size}, {guidance}"


def _facts(forecast: Forecast) -> Iterator[tuple[str, str]]:
    """Label and text of each line; a label is empty where a line goes on with the one before."""
    load, source, needed = forecast.load, forecast.source, forecast.memory_bytes
    if forecast.seconds is None:
        yield "time", f"not known: {source}"
    else:
        low, high = (format_seconds(end or 0) for end in (forecast.seconds_low, forecast.seconds_high))
        yield "time", f"about {format_seconds(forecast.seconds)} a clip ({low} to {high})"
        yield "", _by_stage(forecast.stage_seconds, format_seconds)
        yield "", f"from {source}"
    if forecast.cost is not None:
        each, hour = (format_money(sum_ or 0, forecast.currency) for sum_ in (forecast.cost, forecast.hourly_price))
        clips = format_count(int(forecast.clips_per_hour or 0), "clip")
        yield "money", f"{each} a clip at {hour} an hour, {clips} an hour"
    has = f" of {format_bytes(forecast.gpu_bytes)}" if forecast.gpu_bytes else ""
    way = f"{rung_text(_chosen(forecast).rung)}, decode_chunk_size={forecast.clip.decode_chunk_size}"
    yield "memory", f"{format_bytes(needed)}{has}: {_VERDICTS[forecast.fits]} ({way})"
    weights, peaks = format_bytes(sum(forecast.weight_bytes.values())), _by_stage(forecast.peak_bytes, format_bytes)
    yield "", f"weights {weights}; activations at their peak: {peaks}"
    yield "", "the rest is a margin for cuDNN's copies, fragments and the process or CUDA context itself"
    if load.memory == "group-offload":
        pinned = format_bytes(forecast.weight_bytes["unet"])
        yield "", f"and {pinned} of main memory, pinned, from which the UNet is fetched"
    if forecast.reserved_bytes > needed and load.device == "cuda":
        yield "", f"with room torch takes {format_bytes(forecast.reserved_bytes)}, and gives back when it has to"
    total, parts = _operations(sum(forecast.flops.values())), _by_stage(forecast.flops, _operations)
    yield "arithmetic", f"{total} a clip: {parts}"
    yield from (("advice", sentence) for sentence in forecast.advice)


def _by_stage(values: Mapping[str, float], as_text: Callable[[float], str]) -> str:
    return ", ".join(f"{_NAMES[stage]} {as_text(value)}" for stage, value in values.items())


def _chosen(forecast: Forecast) -> Fit:
    load, chunk = forecast.load, forecast.clip.decode_chunk_size or 1
    rung = Rung(load.memory, load.two_pass_guidance, load.forward_chunking, chunk)
    return Fit(rung, forecast.memory_bytes, forecast.fits, forecast.seconds)


def _ladder(forecast: Forecast) -> Iterator[tuple[str, ...]]:
    """One row a way: mark, way, chunk, bytes, seconds, verdict; the chosen one first where the ladder lacks it."""
    chosen = _chosen(forecast)
    known = any(step.rung == chosen.rung for step in forecast.ladder)
    for step in forecast.ladder if known else (chosen, *forecast.ladder):
        yield (
            "->" if step.rung == chosen.rung else "",
            rung_text(step.rung),
            str(step.rung.decode_chunk_size),
            format_bytes(step.memory_bytes),
            "–" if step.seconds is None else format_seconds(step.seconds),
            "" if step.fits is None else _VERDICTS[step.fits],
        )


def _operations(count: float) -> str:
    size, unit = (1e9, "GFLOP") if count < 1e12 else (1e12, "TFLOP")
    return format_count(round(count / size), unit, unit)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Price(Settings):
    """What the machine costs, judged as settings are."""

    hourly_price: float | None = setting(None, number(0, 10**9))
    currency: str = setting("USD", text("three letters such as 'USD'", pattern="[A-Za-z]{3}"))


_NAME_IT = "for seconds name the card, for example gpu='RTX 4090': memory alone does not say how fast it is"
_MEASURE_IT = "for seconds run svdkit.calibrate(pipe) here once, or give records of svdkit.profile"
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
    price, clip, load = _judge({"hourly_price": hourly_price, "currency": currency}, clip, load, model)
    given = read_records(records) if isinstance(records, str | Path) else check_records(records, who="forecast")
    info = find_model(load.model)
    card, device = _this_machine(load.device) if gpu is None else (find_card(gpu), "cuda")
    dtype, *_ = choose_dtype(load.dtype, device=device, capability=card.capability)
    asked, load = clip.decode_chunk_size, load.replace(model=info.name, dtype=dtype, device=device)
    network, clip = network_of(info), clip.replace(seed=0).resolve(**info.clip_defaults)
    job = clip_job(info.name, network, load.to_dict(), clip)
    need = Need(weight_bytes=job.weight_bytes, network=network, dtype=dtype, decode_chunk_size=asked, **job.size)
    ladder, chosen = _plans(need, load, card)

    def run(rung: Rung) -> ClipJob:
        """The clip as it runs on a rung; a decode chunk that was asked for stays."""
        return job._replace(rung=rung._replace(decode_chunk_size=asked or rung.decode_chunk_size))

    ran = run(chosen.rung)
    found = find_calibration(given, job=ran, card=card)

    def timed(step: Fit) -> Fit:
        seconds = found.seconds(run(step.rung), card)
        return step._replace(rung=run(step.rung).rung, seconds=sum(seconds.values()) or None)

    ladder, chosen = tuple(map(timed, ladder)), timed(chosen)
    advice = [] if chosen.fits is not False else [_cure(need, clip, ladder, chosen, room=card.memory_bytes)]
    if not found.factors:
        advice.append(_NAME_IT if card.name.startswith("a card of") else _MEASURE_IT)
    ways, costs = chosen.rung._asdict(), ran.costs()
    return Forecast(
        model=info.name,
        weights=load.weights,
        gpu=card.name,
        gpu_bytes=card.memory_bytes or None,
        clip=clip.replace(decode_chunk_size=ways.pop("decode_chunk_size")),
        load=load.replace(**ways),
        flops={stage: sum(cost.flops * times for _, cost, times in part) for stage, part in costs.items()},
        peak_bytes={stage: max(cost.peak_bytes for _, cost, _ in part) for stage, part in costs.items()},
        weight_bytes=ran.weight_bytes,
        memory_bytes=chosen.memory_bytes,
        reserved_bytes=need.peak(chosen.rung, with_room=True),
        fits=chosen.fits,
        ladder=ladder,
        stage_seconds=found.seconds(ran, card),
        seconds=chosen.seconds,
        seconds_low=chosen.seconds and chosen.seconds * found.low,
        seconds_high=chosen.seconds and chosen.seconds * found.high,
        source=found.source,
        **price.to_dict(),
        fitting=_fitting(need, clip, chosen.rung, room=card.memory_bytes) if chosen.fits is False else None,
        advice=tuple(advice),
    )


def _judge(price: dict[str, Any], clip: Any, load: Any, model: str | Path) -> tuple[Price, ClipSettings, LoadSettings]:
    """Check what was given; the error has all that is wrong with it."""
    problems: list[str] = []
    found = Price.read(price, problems)
    clip, load = ClipSettings.read(clip, problems), LoadSettings.read(load, problems)
    load = LoadSettings.read({**load.to_dict(), "model": model}, problems)
    if problems:
        raise SettingsError.of("forecast", problems)
    return found, clip, load


def _this_machine(asked: str = "auto") -> tuple[Card, str]:
    """Describe this machine's GPU, or its processor with main memory; and say what torch calls such a device."""
    from svdkit.environment import gather

    kind, _, number = asked.partition(":")
    facts = gather(ask_torch=False)
    card = Card(facts.cpu or "CPU", facts.ram_bytes or 0)
    may_be = facts.driver or facts.system.startswith("Darwin") or Path("/dev/kfd").exists()  # AMD's
    if kind == "cpu" or not may_be:
        return card, "cpu"
    facts = gather(ask_torch=True)
    for gpu in facts.gpus[int(number or 0) :]:
        return card_of(gpu.name, gpu.capability)._replace(memory_bytes=gpu.vram_bytes), "cuda"
    return (card._replace(name="Apple GPU (MPS)"), "mps") if facts.mps else (card, "cpu")


def _plans(need: Need, load: LoadSettings, card: Card) -> tuple[tuple[Fit, ...], Fit]:
    """Give the ladder, and the step of it, or the way asked for, that is expected to be used."""
    plans = possible_plans(load.device, memory=load.memory, dtype=load.dtype, compiled=load.compile)
    asked = Rung("auto", load.two_pass_guidance, load.forward_chunking)
    ladder, own = (
        plan(need, free_bytes=card.memory_bytes or None, asked=asked._replace(memory=memory), plans=plans)
        for memory in ("auto", load.memory)
    )
    return ladder, next((step for step in own if step.fits is not False), own[-1])


def _cure(need: Need, clip: ClipSettings, ladder: tuple[Fit, ...], chosen: Fit, *, room: int) -> str:
    """Say what to change where the chosen way does not fit."""
    if fitting := next((step for step in ladder if step.fits), None):
        way = f"{rung_text(fitting.rung)} and decode_chunk_size={fitting.rung.decode_chunk_size}"
        asked = f"{rung_text(chosen.rung)} is expected to run out of memory"
        return f"{asked}: memory='auto' would take {way}, which fits"
    least = ladder[-1]
    thriftiest = least.rung._replace(two_pass_guidance=True, forward_chunking=True)
    smaller = _fitting(need, clip, thriftiest, room=room)
    if smaller is None:
        cure = "use a larger card, or the small model micro"
    elif (smaller.height, smaller.width) == (need.height, need.width):
        cure = f"decode_chunk_size={need.decode_chunk_size} is what does not fit: leave it out"
    else:
        cure = f"height={smaller.height}, width={smaller.width} would fit"
    return f"nothing fits: even {rung_text(least.rung)} needs {format_bytes(least.memory_bytes)}; {cure}"


def _fitting(need: Need, clip: ClipSettings, rung: Rung, *, room: int) -> ClipSettings | None:
    """Find a clip that fits a way of running: decoded in smaller chunks, else smaller."""
    rung, own = rung._replace(decode_chunk_size=1), (need.height, need.width)
    for height, width in (own, *(size if own[0] <= own[1] else size[::-1] for size in _SMALLER)):
        smaller = dataclasses.replace(need, height=height, width=width, decode_chunk_size=None)
        if height * width <= own[0] * own[1] and smaller.peak(rung) <= room:
            return clip.replace(height=height, width=width, decode_chunk_size=1)
    return None
