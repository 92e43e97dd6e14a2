"""What seconds are calibrated from: the user's own records, the shipped ones, published ones; the source is shown.

Seconds of a stage are its FLOPs over what the GPU achieves.
"""

from __future__ import annotations

import csv
import functools
import math
import os
import statistics
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import platformdirs

from svdkit.bench.record import Record, read_records, write_record
from svdkit.errors import SvdkitError, SvdkitWarning
from svdkit.forecast.cards import Card, card_of, find_card
from svdkit.given import user_path
from svdkit.models import find_model
from svdkit.models.costs import network_of
from svdkit.pipeline.memory import Rung, clip_calls
from svdkit.settings import ClipSettings
from svdkit.units import format_count

if TYPE_CHECKING:
    from svdkit.models.costs import Call, Cost, Network


# [assumed] Shares of the tensor cores' rate that half precision reaches at SVD's shapes, and of the traffic between
# them that fusion leaves. All are scaled away where anything was measured: they only say how GPUs differ.
_EAGER_SHARE, _COMPILED_SHARE, _FUSED_TRAFFIC = 0.45, 0.5, 0.5
# [estimate] These are shares of a card with 150 operations a byte of bandwidth, such as an A100. The more operations a
# byte, the harder they are to feed: by published timings an H100, with 295, is 2.0 times an A100, not 3.2 times. The
# exponent was chosen on the rows of published_timings.csv (0 to 0.5 tried), of which one card is that far from balance.
_BALANCE, _STARVED = 150.0, 0.25
_FP32_SHARE = 0.7  # outside tensor cores
# In fp32 torch lets cuDNN compute convolutions in TF32, from Ampere on: half of half precision's rate. Their part of a
# stage's operations, counted at 576x1024.
_CONVOLUTIONS = {"vae_encode": 0.93, "unet": 0.35, "vae_decode": 0.97}
_BANDWIDTH_SHARE = 0.8
_KERNEL_SECONDS = 50e-6  # Python and the launch [measured: 15,168 of them in 0.85 s, on the H200's machine]
_ONE_PASS = 1.1  # of a UNet call for one clip, by the operation, over one for two [measured on the H200]
# Stand-ins for a processor whose rates are unknown: only ratios to its own measurements are used.
_UNKNOWN_TFLOPS, _UNKNOWN_BANDWIDTH = 1.0, 100.0
# GB/s at which a machine hands weights over, beside what the link takes: memory that is not pinned, layers that are
# fetched ahead, and one by one, where Python decides. Measured on one machine (bench_results/gpu: an H200, 48 GB/s).
_HANDED = {"offload": 7.1, "group-offload": 32.0, "sequential": 4.2}
_LINK_SHARE = {"offload": 0.5, "group-offload": 1.0, "sequential": 0.25}  # [estimate]
# With forward chunking each feed-forward layer is fetched again for every chunk: the UNet's weights so many times a
# pass of 25 frames of 576x1024, for two clips at once (guidance) or one [counted].
_FETCHED = {2: 10.5, 1: 8.0}

_SECONDS_STAGES = ("image_encoder", "vae_encode", "unet", "vae_decode")


class ClipJob(NamedTuple):
    """What one clip runs: precision, compiled or not, plan, and the resolved settings of the clip."""

    dtype: str
    compiled: bool
    rung: Rung
    clip: ClipSettings

    @property
    def guided(self) -> bool:
        """Whether the UNet runs for two: with the photo and without."""
        last = self.clip.max_guidance_scale
        return max(self.clip.min_guidance_scale, 3.0 if last is None else last) > 1

    @property
    def size(self) -> dict[str, Any]:
        """What the calls of a clip depend on, beside the rung and the steps."""
        clip = self.clip
        size = {"height": clip.height or 0, "width": clip.width or 0, "num_frames": clip.num_frames or 1}
        return {**size, "dtype": self.dtype, "guided": self.guided}

    def costs(self, network: Network) -> dict[str, list[tuple[Call, Cost, int]]]:
        """List the calls of each stage of the clip, what each costs, and how often it is made."""
        calls = clip_calls(self.rung, **self.size, steps=self.clip.num_inference_steps or 1)
        return {stage: [(call, network.cost(call), times) for call, times in part] for stage, part in calls.items()}


def clip_flops(job: ClipJob, network: Network) -> dict[str, int]:
    """Operations of each stage of one whole clip."""
    return {stage: sum(cost.flops * times for _, cost, times in part) for stage, part in job.costs(network).items()}


def peak_bytes(job: ClipJob, network: Network) -> dict[str, int]:
    """Activation bytes of each stage at its peak, without cuDNN's copies."""
    return {stage: max(cost.peak_bytes for _, cost, _ in part) for stage, part in job.costs(network).items()}


def weight_bytes(dtype: str, network: Network) -> dict[str, int]:
    """Bytes of each network's weights: fp8 keeps those of the UNet in one byte."""
    size = 4 if dtype == "fp32" else 2
    return {
        name: count * (1 if dtype == "fp8" and name == "unet" else size) for name, count in network.parameters.items()
    }


def nominal_seconds(job: ClipJob, network: Network, card: Card) -> dict[str, float]:
    """Seconds of each stage of one whole clip, before calibration, without moving weights."""
    return {
        stage: sum(_call_seconds(cost, call, job, card) * times for call, cost, times in part)
        for stage, part in job.costs(network).items()
    }


def _call_seconds(cost: Cost, call: Call, job: ClipJob, card: Card) -> float:
    share, rate = (_COMPILED_SHARE if job.compiled else _EAGER_SHARE), (card.tflops * card.sustained or _UNKNOWN_TFLOPS)
    left = _FUSED_TRAFFIC if job.compiled else 1.0
    if card.bandwidth:
        share *= (_BALANCE * card.bandwidth / (1000 * rate)) ** _STARVED
    seconds = 1 / (share * rate * 1e12)  # an operation
    if call.element_bytes == 4:
        part = _CONVOLUTIONS.get(call.stage, 0.0) if card.bf16 and card.tflops else 0.0
        seconds = part * 2 * seconds + (1 - part) / (_FP32_SHARE * (card.fp32_tflops or _UNKNOWN_TFLOPS) * 1e12)
    arithmetic = cost.flops * seconds * (_ONE_PASS if call.stage == "unet" and call.batch == 1 else 1)
    traffic = left * cost.moved_bytes / (_BANDWIDTH_SHARE * (card.bandwidth or _UNKNOWN_BANDWIDTH) * 1e9)
    launches = left * cost.kernels * _KERNEL_SECONDS if card.tflops else 0.0
    return max(arithmetic + traffic, launches)


def transfer_seconds(job: ClipJob, network: Network, card: Card) -> dict[str, float]:
    """Seconds of each stage of one whole clip for which weights move between main memory and the card."""
    memory, weights, found = job.rung.memory, weight_bytes(job.dtype, network), dict.fromkeys(_SECONDS_STAGES, 0.0)
    if memory not in _HANDED or not card.link:
        return found
    (unet, _, calls), *_ = job.costs(network)["unet"]
    passes = calls * (_FETCHED[unet.batch] if unet.chunked else 1.0)
    second = {way: (1 / (card.link * _LINK_SHARE[way]) + 1 / rate) / 1e9 for way, rate in _HANDED.items()}  # for a byte
    if memory == "offload":  # there and back, once a clip
        slow = {"image_encoder": "image_encoder", "unet": "unet", "vae": "vae_decode"}
        return found | {stage: 2 * weights[name] * second[memory] for name, stage in slow.items()}
    # What group-offload fetches ahead was seen to cost as much as if nothing computed meanwhile.
    encoder = weights["image_encoder"] * second["sequential"]
    return found | {"image_encoder": encoder, "unet": weights["unet"] * passes * second[memory]}


_PUBLISHED_FILE = Path(__file__).with_name("published_timings.csv")
SHIPPED_FILE = Path(__file__).with_name("shipped_records.jsonl")  # of bench_results/gpu, all weights on the card

# [estimate] Factors between the middle and the ends of the interval; what one process measured says little of the next.
_SAME_SETTINGS, _OTHER_SETTINGS, _ONE_PROCESS = 1.05, 1.15, 1.1
# [estimate] From what sources say of one card (32 and 25 s compiled on an A100), and from one card to another.
_SAME_CARD, _OTHER_CARD, _ASSUMED = 1.3, 1.4, 2.0
# Which parts of a record make up a stage; what is around a network belongs to it.
_FINE = {
    "image_encoder": ("image_encoder",),
    "vae_encode": ("vae_encode",),
    "unet": ("unet", "scheduler"),
    "vae_decode": ("vae_decode", "postprocess"),
}
_COARSE = {"encode": ("image_encoder", "vae_encode"), "denoise": ("unet",), "decode": ("vae_decode",)}


class Calibration(NamedTuple):
    """Factors by stage on nominal seconds, the interval as factors on the result, and where they come from.

    Where `moved`, all that they come from moved weights, and the factors are on those seconds too.
    """

    factors: Mapping[str, float]
    low: float
    high: float
    source: str
    moved: bool = False

    def seconds(self, job: ClipJob, network: Network, card: Card) -> dict[str, float]:
        """Seconds of each stage of a clip."""
        usual, moving = self.factors.get("unet", 1.0), transfer_seconds(job, network, card)
        return {
            stage: value * (factor := self.factors.get(stage, usual)) + moving[stage] * (factor if self.moved else 1.0)
            for stage, value in nominal_seconds(job, network, card).items()
        }


class Timing(NamedTuple):
    """One row of the published timings that states its card and steps."""

    card: Card
    job: ClipJob
    stage: str  # "total" or one of STAGES
    seconds: float
    model: str
    software: str
    source: str

    @property
    def lossy(self) -> bool:
        """Whether it does less arithmetic than the model: 8-bit integers, or deep features used again."""
        return "int8" in self.software or "DeepCache" in self.software


def from_records(
    records: Iterable[Record], *, job: ClipJob, model: str, network: Network, card: Card, what: str
) -> Calibration | None:
    """Calibrate from records of the same device, precision and family of models; None if there are none."""
    found = [record for record in records if _is_like(record, job, model=model, device=card.name)]
    same = [record for record in found if _job_of(record) == job and record.model["name"] == model]
    used = same or found
    factors = [factor for record in used if "unet" in (factor := _factors(record, network, card))]
    if not factors:
        return None
    middle = {
        stage: statistics.median(values)
        for stage in _SECONDS_STAGES
        if (values := [factor[stage] for factor in factors if stage in factor])
    }
    spread = _SAME_SETTINGS if same else _OTHER_SETTINGS
    processes = {name or record.started_at for record in used for name in record.processes or [""]}
    spread *= 1 if len(processes) > 1 else _ONE_PROCESS
    ratios = [factor["unet"] / middle["unet"] for factor in factors]
    with_what = "these settings" if same else "other settings"
    source = f"{what}: {format_count(len(factors), 'record')} of {card.name} with {with_what}"
    moved = all(record.load.get("memory") != "resident" for record in used)
    return Calibration(middle, min(ratios) / spread, max(ratios) * spread, source, moved)


def from_published(card: Card, *, job: ClipJob, leave_out: str | None = None) -> Calibration | None:
    """Calibrate from published timings of the same card, else of other cards; None for a card of unknown rates."""
    if not card.tflops:
        return None
    if job.dtype == "fp32":
        text = (
            "nothing published in fp32: 70 % of the card's rate outside tensor cores is assumed, TF32 for convolutions"
        )
        return Calibration(dict.fromkeys(_SECONDS_STAGES, 1.0), 1 / _ASSUMED, _ASSUMED, text)
    usable = [
        row
        for row in published()
        if row.source != leave_out and row.stage == "total" and not row.lossy and row.job.compiled == job.compiled
    ]
    same = [row for row in usable if row.card.name == card.name]  # this machine's own has its exact memory
    used = same or usable
    if not used:
        text = "nothing published for this: an assumed half of the card's tensor rate"
        return Calibration(dict.fromkeys(_SECONDS_STAGES, 1.0), 1 / _ASSUMED, _ASSUMED, text)
    apart = _apart(leave_out=leave_out, job=job)
    ratios = [
        row.seconds / sum(value * apart.get(stage, 1) for stage, value in nominal_of(row).items()) for row in used
    ]
    middle = math.exp(statistics.mean(map(math.log, ratios)))
    spread = max(_SAME_CARD if same else _OTHER_CARD, *(max(r / middle, middle / r) for r in ratios))
    sources = ", ".join(dict.fromkeys(row.source for row in used))
    cards = ", ".join(dict.fromkeys(row.card.name for row in used))
    text = f"published timings of the {card.name} ({sources})"
    if not same:
        text = f"published timings of other cards ({cards}), scaled by arithmetic and bandwidth"
    return Calibration({stage: middle * apart.get(stage, 1.0) for stage in _SECONDS_STAGES}, 1 / spread, spread, text)


def _apart(*, leave_out: str | None, job: ClipJob) -> dict[str, float]:
    """How much slower stages are than their clip, where a source tells them apart: TensorRT's decoding, four times.

    Eager, one card does: an H200, whose decoding is 2.7 times as slow, since it normalises and copies more than it
    multiplies; how much slower on cards with less arithmetic a byte is not known.
    """
    rows = [
        row for row in published() if row.job.compiled == job.compiled and not row.lossy and row.source != leave_out
    ]
    whole = {row.source: row.seconds / sum(nominal_of(row).values()) for row in rows if row.stage == "total"}
    told = [row for row in rows if row.stage != "total"]
    return {row.stage: row.seconds / nominal_of(row)[row.stage] / whole[row.source] for row in told}


@functools.cache
def published() -> tuple[Timing, ...]:
    """Published timings of SVD that state a card svdkit knows, steps and seconds."""
    with _PUBLISHED_FILE.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["steps"] and row["seconds"]]
    return tuple(_timing(row) for row in rows if row["gpu"] != "not stated")


def _device_name(environment: Mapping[str, Any]) -> str:
    """Name what computed, from a record's environment: the card's short name, else what torch or the system says."""
    gpu = environment.get("gpu")
    return card_of(str(gpu)).name if gpu else str(environment.get("cpu") or "CPU")


def _timing(row: Mapping[str, str]) -> Timing:
    clip = ClipSettings(
        num_inference_steps=int(row["steps"]),
        decode_chunk_size=int(row["decode_chunk_size"]) if row["decode_chunk_size"] else None,
    ).resolve(height=int(row["height"]), width=int(row["width"]), num_frames=int(row["frames"]), seed=0)
    compiled = any(word in row["software"] for word in ("TensorRT", "OneDiff", "stable-fast", "compile"))
    job = ClipJob("fp16", compiled, Rung("resident", decode_chunk_size=clip.decode_chunk_size or 1), clip)
    told = {name: row[name] for name in ("stage", "model", "software", "source")}
    return Timing(find_card(row["gpu"]), job, seconds=float(row["seconds"]), **told)


def nominal_of(row: Timing) -> dict[str, float]:
    """Seconds by stage of a published clip, before calibration."""
    return nominal_seconds(row.job, network_of(find_model(row.model)), row.card)


def _is_like(record: Record, job: ClipJob, *, model: str, device: str) -> bool:
    if record.status != "ok" or not record.load or not record.samples.get("timed"):
        return False
    same_family = record.model["name"] == model or {record.model["name"], model} <= {"svd", "svd-xt", "svd-xt-1.1"}
    same_load = record.load.get("dtype") == job.dtype and bool(record.load.get("compile")) == job.compiled
    return same_family and same_load and _device_name(record.environment) == device


def _job_of(record: Record) -> ClipJob | None:
    """What a record ran, so far as time depends on it; None if it does not say."""
    load, names = record.load, ("height", "width", "num_frames", "num_inference_steps", "decode_chunk_size")
    if any(record.clip.get(name) is None for name in names):
        return None
    try:
        clip = timed_part(ClipSettings.from_dict(record.clip))
    except SvdkitError:
        return None
    switches = (bool(load.get("two_pass_guidance")), bool(load.get("forward_chunking")))
    rung = Rung(str(load.get("memory", "resident")), *switches, clip.decode_chunk_size or 1)
    return ClipJob(str(load.get("dtype")), bool(load.get("compile")), rung, clip)


def timed_part(clip: ClipSettings) -> ClipSettings:
    """Resolved settings without what changes no time, so that two that take the same are equal."""
    return clip.replace(seed=0, fps=7, playback_fps=7.0, motion_bucket_id=127, noise_aug_strength=0.02)


def _factors(record: Record, network: Network, card: Card) -> dict[str, float]:
    """Measured over nominal seconds of each stage; empty if it does not say what it ran."""
    job = _job_of(record)
    if job is None:
        return {}
    moving = transfer_seconds(job, network, card)
    nominal = {stage: value + moving[stage] for stage, value in nominal_seconds(job, network, card).items()}
    found = _stage_seconds(record.samples["timed"])
    return {
        stage: seconds / expected
        for stages, seconds in found
        if (expected := sum(nominal[stage] for stage in stages)) and seconds > 0
        for stage in stages
    }


def _stage_seconds(timed: Mapping[str, Sequence[float]]) -> list[tuple[tuple[str, ...], float]]:
    """Median seconds of a stage, or of several together where a record has only those."""
    median = {name: statistics.median(values) for name, values in timed.items() if values}
    found: list[tuple[tuple[str, ...], float]] = []
    for stage, parts in _FINE.items():
        if stage in median:
            found.append(((stage,), sum(median.get(part, 0.0) for part in parts)))
    done = {stage for stages, _ in found for stage in stages}
    found += [(stages, median[name]) for name, stages in _COARSE.items() if name in median and not done & set(stages)]
    return found


_FILE = "calibration.jsonl"


def calibrate(pipe: Any, *, photo: Any = "rocket", save: bool = True) -> Record:
    """Measure two denoising steps and one decode chunk of a loaded pipeline, so that forecasts fit this machine.

    Each is run once before, unmeasured: the first of anything is slow.

    Args:
        pipe: What ``svdkit.load`` returned.
        photo: As ``svdkit.generate`` takes it; its content does not matter.
        save: Whether to keep the record in the user's cache (``SVDKIT_CACHE``), where ``forecast`` looks for it.

    Returns:
        The record, "composed": the decoding of a clip is one measured chunk times the number of chunks.

    Raises:
        SettingsError: The pipeline is not one of ``svdkit.load``.

    Example:
        >>> calibrate(svdkit.load("micro")).samples["timed"].keys()
        dict_keys(['encode', 'denoise', 'decode'])
    """
    from svdkit.bench.protocol import describe_run, load_report, make_record
    from svdkit.image import fit

    report = load_report(pipe)
    frame = fit(photo, height=report.model.height, width=report.model.width)
    settings, seconds = _measure(pipe, frame)
    record = make_record(
        describe_run(pipe, frame, settings),
        method="composed",
        samples={"timed": {stage: [value] for stage, value in seconds.items()}},
        command=f"svdkit.calibrate(svdkit.load({report.model.name!r}))",
    )
    if save:
        try:
            write_record(_cache_folder() / _FILE, record)
        except OSError as error:
            text = f"the calibration is not kept ({error}); set SVDKIT_CACHE to a folder that can be written"
            warnings.warn(text, SvdkitWarning, stacklevel=2)
    return record


def _cache_folder() -> Path:
    """Where svdkit keeps calibrations: ``SVDKIT_CACHE``, else the platform's cache folder."""
    chosen = os.environ.get("SVDKIT_CACHE")
    return user_path(chosen) if chosen else platformdirs.user_cache_path("svdkit", appauthor=False)


def own_calibrations() -> list[Record]:
    """Read what ``calibrate`` has kept; a broken file counts as none."""
    file = _cache_folder() / _FILE
    try:
        return read_records(file) if file.is_file() else []
    except (SvdkitError, OSError):
        return []


def _measure(pipe: Any, frame: Any) -> tuple[ClipSettings, dict[str, float]]:
    """Encode, take two steps and decode one chunk, each warm; the resolved settings, and seconds of such a clip."""
    import torch

    from svdkit.generate import denoise, encode
    from svdkit.generate.loop import decode_chunk, execution_device, synchronize

    device = execution_device(pipe)
    ends: list[float] = []

    def note(*_: object) -> None:
        synchronize(device)
        ends.append(time.perf_counter())

    three = ClipSettings(num_inference_steps=3, seed=0)
    encode(pipe, frame, three)
    encoded = encode(pipe, frame, three)
    denoised = denoise(pipe, encoded, on_step=note)
    settings = denoised.settings.replace(num_inference_steps=2)
    try:
        with torch.no_grad():
            for _ in range(2):
                note()
                decode_chunk(pipe, denoised.latents[:, : settings.decode_chunk_size])
            note()
    finally:
        pipe.maybe_free_model_hooks()
    seconds = {"encode": encoded.seconds, "denoise": ends[2] - ends[0]}
    return settings, {**seconds, "decode": (ends[-1] - ends[-2]) * settings.num_frames / settings.decode_chunk_size}
