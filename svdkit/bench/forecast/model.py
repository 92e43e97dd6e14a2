"""From counts to seconds: a small model of what a GPU does with a network, with few and stated parameters.

A call takes ``flops / (share x tensor rate) + bytes / (0.8 x bandwidth)``: matrix products, convolutions and attention
are bound by arithmetic, everything between them by memory; and never less than starting its kernels takes. What a GPU,
a driver and a torch make of that is one factor a stage, which ``calibrate`` takes from measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from svdkit.bench.forecast.call import Call, Count, Network

if TYPE_CHECKING:
    from svdkit.bench.forecast.cards import Card
    from svdkit.pipeline.memory import Rung
    from svdkit.settings import ClipSettings

# [assumed] Shares of the tensor cores' rate that half precision reaches at SVD's shapes, and of the traffic between
# them that fusion leaves. All are scaled away where anything was measured: they only say how GPUs differ.
_EAGER_SHARE, _COMPILED_SHARE, _FUSED_TRAFFIC = 0.45, 0.5, 0.5
_FP32_SHARE = 0.7  # outside tensor cores
_BANDWIDTH_SHARE = 0.8
_KERNEL_SECONDS = 15e-6  # Python and the launch
# Stand-ins for a processor whose rates are unknown: only ratios to its own measurements are used.
_UNKNOWN_TFLOPS, _UNKNOWN_BANDWIDTH = 1.0, 100.0
# [estimate] Copies from memory that is not pinned reach half the link; layer by layer, without overlap, a quarter.
_PAGEABLE, _LAYERWISE = 0.5, 0.25

STAGES = ("image_encoder", "vae_encode", "unet", "vae_decode")
Calls = dict[str, list[tuple[Call, int]]]


class Job(NamedTuple):
    """What one clip runs: precision, compiled or not, plan, and the resolved settings of the clip."""

    dtype: str
    compiled: bool
    rung: Rung
    clip: ClipSettings

    @property
    def element_bytes(self) -> int:
        """Bytes of an activation."""
        return 4 if self.dtype == "fp32" else 2

    @property
    def guided(self) -> bool:
        """Whether the UNet runs for two: with the photo and without."""
        last = self.clip.max_guidance_scale
        return max(self.clip.min_guidance_scale, 3.0 if last is None else last) > 1


def clip_calls(job: Job) -> Calls:
    """List the calls of each stage of a clip, and how often each is made.

    Example:
        >>> clip_calls(Job("fp16", False, Rung("resident"), settings))["unet"]
        [(Call(stage='unet', frames=25, height=576, width=1024, batch=2, element_bytes=2, chunked=False), 25)]
    """
    clip, rung = job.clip, job.rung
    height, width, frames = clip.height or 0, clip.width or 0, clip.num_frames or 0
    like: dict[str, Any] = {"height": height, "width": width, "element_bytes": job.element_bytes}
    # diffusers raises an fp16 VAE to fp32 while it encodes, a bf16 one not.
    encode = like if job.dtype == "bf16" else {**like, "element_bytes": 4}
    passes = 2 if job.guided and rung.two_pass_guidance else 1
    batch = 2 if job.guided and passes == 1 else 1
    unet = Call("unet", frames, batch=batch, chunked=rung.forward_chunking, **like)
    whole, rest = divmod(frames, min(rung.decode_chunk_size, frames))
    chunks = [(Call("vae_decode", min(rung.decode_chunk_size, frames), **like), whole)]
    return {
        "image_encoder": [(Call("image_encoder", 1, **like), 1)],
        "vae_encode": [(Call("vae_encode", 1, **encode), 1)],
        "unet": [(unet, passes * clip.num_inference_steps)],
        "vae_decode": chunks + ([(Call("vae_decode", rest, **like), 1)] if rest else []),
    }


def clip_flops(job: Job, network: Network) -> dict[str, int]:
    """Operations of each stage of one whole clip."""
    return {
        stage: sum(network.counts[call.key].flops * times for call, times in calls)
        for stage, calls in clip_calls(job).items()
    }


def peak_bytes(job: Job, network: Network, *, workspace: bool) -> dict[str, int]:
    """Activation bytes of each stage at its peak, with or without cuDNN's copies."""
    return {
        stage: max(_peak(network.counts[call.key], workspace=workspace) for call, _ in calls)
        for stage, calls in clip_calls(job).items()
    }


def weight_bytes(dtype: str, network: Network) -> dict[str, int]:
    """Bytes of each network's weights: fp8 keeps those of the UNet in one byte."""
    size = 4 if dtype == "fp32" else 2
    return {
        name: count * (1 if dtype == "fp8" and name == "unet" else size) for name, count in network.parameters.items()
    }


def nominal_seconds(job: Job, network: Network, card: Card) -> dict[str, float]:
    """Seconds of each stage of one whole clip, before calibration.

    Example:
        >>> sum(nominal_seconds(job, network, find_card("A100 80GB")).values())
        36...
    """
    weights = weight_bytes(job.dtype, network)
    seconds = {
        stage: sum(_call_seconds(network.counts[call.key], call, job, card) * times for call, times in calls)
        for stage, calls in clip_calls(job).items()
    }
    unet_calls = sum(times for _, times in clip_calls(job)["unet"])
    for stage, extra in _transfers(job.rung.memory, weights, card, unet_calls=unet_calls, seconds=seconds).items():
        seconds[stage] += extra
    return seconds


def _peak(count: Count, *, workspace: bool) -> int:
    return count.peak_workspace_bytes if workspace else count.peak_bytes


def _call_seconds(count: Count, call: Call, job: Job, card: Card) -> float:
    single = call.element_bytes == 4
    share = _FP32_SHARE if single else _COMPILED_SHARE if job.compiled else _EAGER_SHARE
    rate = (card.fp32_tflops if single else card.tflops * card.sustained) or _UNKNOWN_TFLOPS
    left = _FUSED_TRAFFIC if job.compiled else 1.0
    arithmetic = count.flops / (share * rate * 1e12)
    traffic = left * count.moved_bytes / (_BANDWIDTH_SHARE * (card.bandwidth or _UNKNOWN_BANDWIDTH) * 1e9)
    launches = left * count.kernels * _KERNEL_SECONDS if card.tflops else 0.0
    return max(arithmetic + traffic, launches)


def _transfers(
    memory: str, weights: Mapping[str, int], card: Card, *, unet_calls: int, seconds: Mapping[str, float]
) -> dict[str, float]:
    """Seconds by stage for which weights move between main memory and the card [estimate]."""
    if memory == "resident" or not card.link:
        return {}
    link = card.link * 1e9
    if memory == "offload":  # there and back, once a clip
        slow = {"image_encoder": "image_encoder", "unet": "unet", "vae": "vae_decode"}
        return {stage: 2 * weights[network] / (link * _PAGEABLE) for network, stage in slow.items()}
    encoder = weights["image_encoder"] / (link * _LAYERWISE)
    if memory == "sequential":
        each = weights["unet"] / (link * _LAYERWISE)
        return {"image_encoder": encoder, "unet": each * unet_calls}
    # group-offload fetches ahead while the layer before computes: only what takes longer than that is waited for
    return {"image_encoder": encoder, "unet": max(weights["unet"] / link * unet_calls - seconds["unet"], 0.0)}
