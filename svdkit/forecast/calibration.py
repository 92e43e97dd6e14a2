"""What seconds are calibrated from: the user's own records, the shipped ones, published ones; the source is shown.

Seconds of a stage are its FLOPs over what the GPU achieves.
"""

from __future__ import annotations

import csv
import functools
import os
import statistics
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs

from svdkit.bench.record import Record, read_records, write_record
from svdkit.errors import SvdkitError, SvdkitWarning
from svdkit.forecast.cards import Card, card_of, find_card
from svdkit.given import user_path
from svdkit.models import find_model
from svdkit.models.costs import Call, Cost, Network, network_of
from svdkit.pipeline.memory import Rung, clip_calls
from svdkit.settings import ClipSettings, LoadSettings
from svdkit.units import format_count

# [assumed] Shares of the tensor cores' rate that half precision reaches at SVD's shapes, and of the traffic between
# them that is left by fusion: eager, and compiled. All are scaled away where anything was measured: they only say how
# GPUs differ.
_REACHED = {False: (0.45, 1.0), True: (0.5, 0.5)}
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
# Then the share of the link's rate that is used [estimate].
_HANDED = {"offload": (7.1, 0.5), "group-offload": (32.0, 1.0), "sequential": (4.2, 0.25)}
# With forward chunking each feed-forward layer is fetched again for every chunk: the UNet's weights so many times a
# pass of 25 frames of 576x1024, for two clips at once (guidance) or one [counted].
_FETCHED = {2: 10.5, 1: 8.0}

_SECONDS_STAGES = ("image_encoder", "vae_encode", "unet", "vae_decode")


class ClipJob(NamedTuple):
    """What of a clip decides its time and memory; those of two clips that take the same are equal."""

    model: str  # one name for all that are SVD's own
    network: Network
    dtype: str
    compiled: bool
    rung: Rung
    steps: int
    size: dict[str, Any]  # height, width, num_frames, and guided: the UNet runs for two

    @property
    def weight_bytes(self) -> dict[str, int]:
        """Bytes of each network's weights: fp8 keeps those of the UNet in one byte."""
        usual = 4 if self.dtype == "fp32" else 2
        fp8 = {"unet": 1} if self.dtype == "fp8" else {}
        return {name: count * fp8.get(name, usual) for name, count in self.network.parameters.items()}

    def costs(self) -> dict[str, list[tuple[Call, Cost, int]]]:
        """List the calls of each stage of the clip, what each costs, and how often it is made."""
        calls = clip_calls(self.rung, **self.size, dtype=self.dtype, steps=self.steps)
        return {
            stage: [(call, self.network.cost(call), times) for call, times in part] for stage, part in calls.items()
        }


_USUAL = LoadSettings(dtype="fp16", memory="resident").to_dict()


def clip_job(model: str, network: Network, load: Mapping[str, Any], clip: ClipSettings) -> ClipJob:
    """Make the job of resolved settings; those of the model may be a record's."""
    values = {**_USUAL, **load, **clip.to_dict()}
    rung = Rung(*(values[name] for name in Rung._fields))
    size = {name: values[name] for name in ("height", "width", "num_frames")}
    size["guided"] = max(values["min_guidance_scale"], values["max_guidance_scale"]) > 1
    model = "svd" if model in {"svd-xt", "svd-xt-1.1"} else model
    return ClipJob(model, network, values["dtype"], bool(values["compile"]), rung, values["num_inference_steps"], size)


def nominal_seconds(job: ClipJob, card: Card) -> dict[str, float]:
    """Seconds of each stage of one whole clip, before calibration, without moving weights."""
    (share, left), rate = _REACHED[job.compiled], card.tflops * card.sustained or _UNKNOWN_TFLOPS
    if card.bandwidth:
        share *= (_BALANCE * card.bandwidth / (1000 * rate)) ** _STARVED
    half, single = 1 / (share * rate * 1e12), 1 / (_FP32_SHARE * (card.fp32_tflops or _UNKNOWN_TFLOPS) * 1e12)
    byte = left / (_BANDWIDTH_SHARE * (card.bandwidth or _UNKNOWN_BANDWIDTH) * 1e9)
    launch = left * _KERNEL_SECONDS if card.tflops else 0.0
    tf32 = _CONVOLUTIONS if card.tflops and card.capability >= (8, 0) else {}

    def seconds(call: Call, cost: Cost) -> float:
        part = tf32.get(call.stage, 0.0)
        operation = half if call.element_bytes == 2 else part * 2 * half + (1 - part) * single
        alone = _ONE_PASS if call.stage == "unet" and call.batch == 1 else 1
        return max(cost.flops * operation * alone + cost.moved_bytes * byte, cost.kernels * launch)

    return {
        stage: sum(seconds(call, cost) * times for call, cost, times in part) for stage, part in job.costs().items()
    }


def transfer_seconds(job: ClipJob, card: Card) -> dict[str, float]:
    """Seconds of each stage of one whole clip for which weights move between main memory and the card."""
    memory, weights = str(job.rung.memory), job.weight_bytes  # a damaged record may have anything there
    if memory not in _HANDED:
        return {}
    second = {way: (1 / (card.link * share) + 1 / rate) / 1e9 for way, (rate, share) in _HANDED.items()}  # for a byte
    if memory == "offload":  # there and back, once a clip
        stages = {"image_encoder": "image_encoder", "unet": "unet", "vae_decode": "vae"}
        return {stage: 2 * weights[name] * second[memory] for stage, name in stages.items()}
    ((unet, _, calls),) = job.costs()["unet"]
    passes = calls * (_FETCHED[unet.batch] if unet.chunked else 1.0)
    # What group-offload fetches ahead was seen to cost as much as if nothing computed meanwhile.
    encoder = weights["image_encoder"] * second["sequential"]
    return {"image_encoder": encoder, "unet": weights["unet"] * passes * second[memory]}


SHIPPED_FILE = Path(__file__).with_name("shipped_records.jsonl")  # of bench_results/gpu, all weights on the card

# [estimate] Factors between the middle and the ends of the interval; what one process measured says little of the next.
_SAME_SETTINGS, _OTHER_SETTINGS, _ONE_PROCESS = 1.05, 1.15, 1.1
# [estimate] From what sources say of one card (32 and 25 s compiled on an A100), and from one card to another.
_SAME_CARD, _OTHER_CARD, _ASSUMED = 1.3, 1.4, 2.0
# Names in a record, and the stages that are told by them: each by itself, else several together.
_MEASURED: dict[str, tuple[str, ...]] = {stage: (stage,) for stage in _SECONDS_STAGES}
_MEASURED |= {"encode": ("image_encoder", "vae_encode"), "denoise": ("unet",), "decode": ("vae_decode",)}
_AROUND = {"unet": "scheduler", "vae_decode": "postprocess"}  # what is around a network belongs to it


class Calibration(NamedTuple):
    """Factors by stage on nominal seconds, the interval as factors on the result, and where they come from.

    Where `moved`, all that they come from moved weights, and the factors are on those seconds too.
    """

    factors: Mapping[str, float]
    low: float
    high: float
    source: str
    moved: bool = False

    def seconds(self, job: ClipJob, card: Card) -> dict[str, float]:
        """Seconds of each stage of a clip; empty where nothing is known."""
        if not self.factors:
            return {}
        moving, found = transfer_seconds(job, card), {}
        for stage, value in nominal_seconds(job, card).items():
            factor = self.factors.get(stage, self.factors["unet"])
            found[stage] = value * factor + moving.get(stage, 0.0) * (factor if self.moved else 1.0)
        return found


def from_records(records: Iterable[Record], *, job: ClipJob, card: Card, what: str) -> Calibration | None:
    """Calibrate from records of the same device, precision and family of models; None if there are none."""
    found = [
        (record, ran, factors)
        for record in records
        if (ran := _job_of(record, job, card)) and "unet" in (factors := _factors(record, ran, card))
    ]
    same = [each for each in found if each[1] == job]
    used = same or found
    if not used:
        return None
    middle = {
        stage: statistics.median(values)
        for stage in _SECONDS_STAGES
        if (values := [factors[stage] for _, _, factors in used if stage in factors])
    }
    spread = _SAME_SETTINGS if same else _OTHER_SETTINGS
    processes = {name or record.started_at for record, _, _ in used for name in record.processes or [""]}
    spread *= 1 if len(processes) > 1 else _ONE_PROCESS
    ratios = [factors["unet"] / middle["unet"] for _, _, factors in used]
    which = "these settings" if same else "other settings"
    source = f"{what}: {format_count(len(used), 'record')} of {card.name} with {which}"
    moved = all(ran.rung.memory != "resident" for _, ran, _ in used)
    return Calibration(middle, min(ratios) / spread, max(ratios) * spread, source, moved)


def _job_of(record: Record, like: ClipJob, card: Card) -> ClipJob | None:
    """What a record ran, so far as time depends on it; None if it does not say, or ran something else than is asked."""
    gpu, cpu = (record.environment.get(name) for name in ("gpu", "cpu"))
    device = card_of(str(gpu)).name if gpu else str(cpu or "CPU")
    clip = ClipSettings.read({"max_guidance_scale": 3.0, **record.clip}, []).replace(seed=0, playback_fps=7.0)
    if record.status != "ok" or device != card.name or None in clip.to_dict().values():
        return None
    job = clip_job(record.model["name"], like.network, record.load, clip)
    return job if job[:4] == like[:4] else None


def _factors(record: Record, job: ClipJob, card: Card) -> dict[str, float]:
    """Measured (the median) over nominal seconds of each stage that is told."""
    expected = Calibration({"unet": 1.0}, 1.0, 1.0, "", moved=True).seconds(job, card)
    median = {name: statistics.median(values) for name, values in record.samples.get("timed", {}).items() if values}
    found: dict[str, float] = {}
    for name, stages in _MEASURED.items():
        if median.get(name, 0.0) > 0 and not found.keys() & set(stages):
            seconds = median[name] + median.get(_AROUND.get(name, ""), 0.0)
            found |= dict.fromkeys(stages, seconds / sum(expected[stage] for stage in stages))
    return found


@functools.cache
def published() -> tuple[dict[str, Any], ...]:
    """Published timings of SVD that state a card, steps and seconds, with the job that each is of.

    Their kind: eager, compiled, or lossy, which does less arithmetic than the model: 8-bit integers, or deep features
    used again. Their stage: one of the model's, or "total".
    """
    found, names = [], ("height", "width", "num_frames", "num_inference_steps", "decode_chunk_size")
    text = Path(__file__).with_name("published_timings.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        if row["kind"]:
            model, card = find_model(row["model"]), find_card(row["gpu"])
            clip = ClipSettings(**{name: int(row[name]) for name in names if row[name]}).resolve(**model.clip_defaults)
            job = clip_job(model.name, network_of(model), {"compile": row["kind"] != "eager"}, clip)
            nominal, seconds = nominal_seconds(job, card), float(row["seconds"])
            ratio = seconds / nominal.get(row["stage"], sum(nominal.values()))
            found.append({**row, "card": card, "job": job, "nominal": nominal, "seconds": seconds, "ratio": ratio})
    return tuple(found)


def from_published(card: Card, *, job: ClipJob, leave_out: str | None = None) -> Calibration:
    """Calibrate from published timings of the same card, else of other cards; not for a card of unknown rates."""
    if not card.tflops:
        return Calibration({}, 1.0, 1.0, "nothing to calibrate from")
    if job.dtype == "fp32":
        what = "70 % of the card's rate outside tensor cores is assumed, TF32 for convolutions"
        return Calibration({"unet": 1.0}, 1 / _ASSUMED, _ASSUMED, f"nothing published in fp32: {what}")
    kind = "compiled" if job.compiled else "eager"
    rows = [row for row in published() if row["kind"] == kind and row["source"] != leave_out]
    totals = [row for row in rows if row["stage"] == "total"]
    # How much slower stages are than their clip, where a source tells them apart: TensorRT's decoding, four times.
    # Eager, one card does: an H200, whose decoding is 2.7 times as slow, since it normalises and copies more than it
    # multiplies; how much slower on cards with less arithmetic a byte is not known.
    whole = {row["source"]: row["ratio"] for row in totals}
    apart = dict.fromkeys(_SECONDS_STAGES, 1.0)
    apart |= {row["stage"]: row["ratio"] / whole[row["source"]] for row in rows if row["stage"] != "total"}
    same = [row for row in totals if row["card"].name == card.name]  # this machine's own has its exact memory
    used = same or totals
    ratios = [row["seconds"] / sum(value * apart[stage] for stage, value in row["nominal"].items()) for row in used]
    middle = statistics.geometric_mean(ratios)
    spread = max(_SAME_CARD if same else _OTHER_CARD, max(ratios) / middle, middle / min(ratios))
    names = ", ".join(dict.fromkeys(row["source"] if same else row["card"].name for row in used))
    text = f"the {card.name} ({names})" if same else f"other cards ({names}), scaled by arithmetic and bandwidth"
    factors = {stage: middle * factor for stage, factor in apart.items()}
    return Calibration(factors, 1 / spread, spread, f"published timings of {text}")


def find_calibration(given: list[Record], *, job: ClipJob, card: Card) -> Calibration:
    """Calibrate from the nearest source that knows something."""
    sources = {"own records": given, "own calibration": _own(), "shipped records": _shipped()}
    for what, records in sources.items():
        if found := from_records(records, job=job, card=card, what=what):
            return found
    return from_published(card, job=job)


@functools.cache
def _shipped() -> list[Record]:
    return read_records(SHIPPED_FILE)


def _own() -> list[Record]:
    """Read what ``calibrate`` has kept; a broken file counts as none."""
    try:
        return read_records(_kept_file()) if _kept_file().is_file() else []
    except (SvdkitError, OSError):
        return []


def _kept_file() -> Path:
    """Where calibrations are kept: in ``SVDKIT_CACHE``, else the platform's cache folder."""
    chosen = os.environ.get("SVDKIT_CACHE")
    folder = user_path(chosen) if chosen else platformdirs.user_cache_path("svdkit", appauthor=False)
    return folder / "calibration.jsonl"


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
            write_record(_kept_file(), record)
        except OSError as error:
            text = f"the calibration is not kept ({error}); set SVDKIT_CACHE to a folder that can be written"
            warnings.warn(text, SvdkitWarning, stacklevel=2)
    return record


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
