"""From counts to seconds: a small model of what a GPU does with a network, with few and stated parameters.

A call takes ``flops / (share x tensor rate) + bytes / (0.8 x bandwidth)``: matrix products, convolutions and attention
are bound by arithmetic, everything between them by memory; and never less than starting its kernels takes. What a GPU,
a driver and a torch make of that is one factor a stage, which ``calibrate`` takes from measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from svdkit.pipeline.memory import Rung, clip_calls

if TYPE_CHECKING:
    from svdkit.forecast.cards import Card
    from svdkit.models.costs import Call, Cost, Network
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


class Job(NamedTuple):
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


def clip_flops(job: Job, network: Network) -> dict[str, int]:
    """Operations of each stage of one whole clip."""
    return {stage: sum(cost.flops * times for _, cost, times in part) for stage, part in job.costs(network).items()}


def peak_bytes(job: Job, network: Network) -> dict[str, int]:
    """Activation bytes of each stage at its peak, without cuDNN's copies."""
    return {stage: max(cost.peak_bytes for _, cost, _ in part) for stage, part in job.costs(network).items()}


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
    weights, costs = weight_bytes(job.dtype, network), job.costs(network)
    seconds = {
        stage: sum(_call_seconds(cost, call, job, card) * times for call, cost, times in part)
        for stage, part in costs.items()
    }
    unet_calls = sum(times for _, _, times in costs["unet"])
    for stage, extra in _transfers(job.rung.memory, weights, card, unet_calls=unet_calls, seconds=seconds).items():
        seconds[stage] += extra
    return seconds


def _call_seconds(cost: Cost, call: Call, job: Job, card: Card) -> float:
    single = call.element_bytes == 4
    share = _FP32_SHARE if single else _COMPILED_SHARE if job.compiled else _EAGER_SHARE
    rate = (card.fp32_tflops if single else card.tflops * card.sustained) or _UNKNOWN_TFLOPS
    left = _FUSED_TRAFFIC if job.compiled else 1.0
    arithmetic = cost.flops / (share * rate * 1e12)
    traffic = left * cost.moved_bytes / (_BANDWIDTH_SHARE * (card.bandwidth or _UNKNOWN_BANDWIDTH) * 1e9)
    launches = left * cost.kernels * _KERNEL_SECONDS if card.tflops else 0.0
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
