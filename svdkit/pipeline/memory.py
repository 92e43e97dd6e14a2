"""Which memory plan fits: arithmetic on bytes, without a GPU or torch.

A clip has four stages, and each needs weights plus activations; the largest stage decides. Activations grow with
pixels and frames, so published sizes for one clip are scaled to the one asked for.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from svdkit.errors import PipelineError
from svdkit.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

GIB = 1 << 30
PLANS = ("resident", "offload", "group-offload", "sequential")

# All for 25 frames of 576x1024, half precision, eager, guidance batch 2. Measured by tracking the storages of fake
# tensors (diffusers 0.42, torch 2.13); depending on how views are counted the first is 7.7 to 9.3: the larger is safe.
_UNET_GIB = {  # (two_pass_guidance, forward_chunking): GiB
    (False, False): 9.3,
    (False, True): 4.4,
    (True, False): 3.7,
    (True, True): 2.1,
}
_DECODE_GIB_A_FRAME = 1.48  # of a chunk; measured 1.13 to 1.48
_ENCODE_GIB = 1.4  # one frame in fp32, to which diffusers raises an fp16 VAE
_IMAGE_ENCODER_GIB = 0.1  # one photo of 224x224 through ViT-H [estimate]
_FRAMES, _PIXELS, _CELLS = 25, 576 * 1024, 72 * 128

# What the tracking cannot see: cuDNN workspaces and the CUDA context (about 0.5 GB), fragmentation of the allocator.
_OVERHEAD_BYTES = GIB // 2
_MARGIN = 1.1

# Part of a network's weights on the device at one time. The largest layer of the UNet is 2 % of it, and the next ones
# are fetched ahead in group-offload [estimate].
_STREAMED_PART = {"group-offload": 0.10, "sequential": 0.04}
# A chunk changes the decoder's view over time a little; everything else here keeps the maths. So it comes last.
_DECODE_CHUNKS = (5, 2, 1)
_LITTLE_BY_LITTLE = ((False, False), (True, False), (True, True))


class Rung(NamedTuple):
    """One way to run a clip; the ladder of all of them goes from fast to small.

    Attributes:
        memory: "resident", "offload", "group-offload" or "sequential".
        two_pass_guidance: guidance as two passes.
        forward_chunking: feed-forward layers in chunks.
        decode_chunk_size: frames decoded at one time, at most.

    Example:
        >>> Rung("offload").decode_chunk_size
        5
    """

    memory: str
    two_pass_guidance: bool = False
    forward_chunking: bool = False
    decode_chunk_size: int = 5


@dataclass(frozen=True, kw_only=True)
class Need:
    """A model and the clips it is to make, in numbers.

    Attributes:
        weight_bytes: of image_encoder, unet and vae, in the precision they are kept in.
        height: pixels of the clips.
        width: pixels.
        num_frames: of a clip.
        downscale: pixels a latent cell along one side, 8 for SVD.
        element_bytes: of an activation: 2 in fp16 and bf16, 4 in fp32.

    Example:
        >>> svd = Need(weight_bytes={"unet": 3_049_246_164, "image_encoder": 1_264_153_600, "vae": 195_485_694})
        >>> format_bytes(svd.peak(Rung("offload", forward_chunking=True, decode_chunk_size=2)))
        '8.5 GiB'
    """

    weight_bytes: Mapping[str, int]
    height: int = 576
    width: int = 1024
    num_frames: int = 25
    downscale: int = 8
    element_bytes: int = 2

    def peak(self, rung: Rung) -> int:
        """Expected bytes on the device, with overhead and margin.

        It is linear in pixels x frames, which overstates networks narrower than SVD's and understates attention in
        clips far larger than 576x1024.
        """
        pixels = self.height * self.width / _PIXELS
        cells = self.height * self.width / self.downscale**2 / _CELLS * self.num_frames / _FRAMES
        element = self.element_bytes / 2
        decode = _DECODE_GIB_A_FRAME * min(rung.decode_chunk_size, self.num_frames) * pixels * element * GIB
        activations = {
            "image_encoder": _IMAGE_ENCODER_GIB * element * GIB,
            "unet": _UNET_GIB[rung.two_pass_guidance, rung.forward_chunking] * cells * element * GIB,
            # While it encodes, an fp16 VAE is in fp32: twice the weights.
            "vae": max(decode, _ENCODE_GIB * pixels * GIB + self.weight_bytes["vae"]),
        }
        peak = max(_on_device(rung.memory, stage, self.weight_bytes) + size for stage, size in activations.items())
        return int(peak * _MARGIN) + _OVERHEAD_BYTES


@dataclass(frozen=True, kw_only=True)
class MemoryChoice:
    """A memory plan and why it was chosen.

    Attributes:
        rung: what to do.
        peak_bytes: expected need on the device, with margin.
        fits: `peak_bytes` is at most what is free.
        reasons: sentences for people.

    Example:
        >>> choose_memory(svd, free_bytes=80 * GIB).rung.memory
        'resident'
    """

    rung: Rung
    peak_bytes: int
    fits: bool
    reasons: tuple[str, ...]


def choose_memory(
    need: Need,
    *,
    free_bytes: int,
    memory: str = "auto",
    two_pass_guidance: bool = False,
    forward_chunking: bool = False,
    plans: tuple[str, ...] = PLANS,
) -> MemoryChoice:
    """Choose the fastest way that is expected to fit; what keeps the maths comes before what changes it.

    The order: each plan from resident to sequential, each first plain, then with two-pass guidance, then with forward
    chunking too; all that with 5 frames a decode chunk, then 2, then 1.

    Args:
        need: of the model and its clips.
        free_bytes: free on the device, with no weights on it.
        memory: "auto", or the plan to keep.
        two_pass_guidance: True keeps it on; False lets "auto" switch it on.
        forward_chunking: the same for forward chunking.
        plans: what "auto" may choose from, as `possible_plans` says.

    Returns:
        The choice. If nothing fits it is the smallest, with `fits` False and a reason that says so.

    Example:
        >>> choose_memory(svd, free_bytes=int(7.3 * GIB)).rung
        Rung(memory='offload', two_pass_guidance=True, forward_chunking=True, decode_chunk_size=2)
    """
    ladder = _ladder(plans if memory == "auto" else (memory,), automatic=memory == "auto")
    rungs = [
        rung._replace(
            two_pass_guidance=rung.two_pass_guidance or two_pass_guidance,
            forward_chunking=rung.forward_chunking or forward_chunking,
        )
        for rung in ladder
    ]
    rung = next((rung for rung in rungs if need.peak(rung) <= free_bytes), None) or min(rungs, key=need.peak)
    peak = need.peak(rung)
    return MemoryChoice(
        rung=rung,
        peak_bytes=peak,
        fits=peak <= free_bytes,
        reasons=_reasons(need, rung, first=rungs[0], free_bytes=free_bytes),
    )


def possible_plans(device: str, *, memory: str, dtype: str, compiled: bool) -> tuple[str, ...]:
    """The memory plans that work with the other settings.

    Args:
        device: "cpu", "mps", "cuda" or "cuda:1".
        memory: plan asked for, or "auto".
        dtype: "fp32", "fp16", "bf16" or "fp8".
        compiled: whether the networks are to be compiled.

    Returns:
        Some of `PLANS`, in order.

    Raises:
        PipelineError: the plan asked for is not among them, or the other settings exclude each other.

    Example:
        >>> possible_plans("cpu", memory="auto", dtype="fp32", compiled=False)
        ('resident',)
    """
    possible: tuple[str, ...] = PLANS
    why = ""
    if not device.startswith("cuda"):
        possible, why = ("resident",), f"needs a CUDA GPU to move weights to, and the device is {device}"
    elif compiled:
        possible, why = ("resident",), "cannot be combined with compile=True, which needs the weights to stay"
    elif dtype == "fp8":
        possible, why = PLANS[:3], "keeps one layer on the GPU, where 8-bit storage saves nothing and does not work"
    if compiled and dtype == "fp8":
        raise PipelineError("dtype='fp8' raises weights layer by layer, which compile=True cannot trace: choose one")
    if memory not in {"auto", *possible}:
        raise PipelineError(f"memory={memory!r} {why}: use memory='resident' or 'auto'")
    return possible


def _ladder(plans: tuple[str, ...], *, automatic: bool) -> list[Rung]:
    ways = _LITTLE_BY_LITTLE if automatic else _LITTLE_BY_LITTLE[:1]
    order = itertools.product(_DECODE_CHUNKS, plans, ways)
    return [Rung(plan, two_passes, chunked, chunk) for chunk, plan, (two_passes, chunked) in order]


def _on_device(memory: str, stage: str, weight_bytes: Mapping[str, int]) -> float:
    """Bytes of weights on the device while a network runs."""
    if memory == "resident":
        return sum(weight_bytes.values())
    if memory == "offload":
        return weight_bytes[stage]
    streamed = _STREAMED_PART[memory] * weight_bytes[stage]
    # group-offload leaves the small VAE on the device (techniques.py says why).
    kept = weight_bytes["vae"] if memory == "group-offload" else 0
    return kept if stage == "vae" and kept else streamed + kept


def _reasons(need: Need, rung: Rung, *, first: Rung, free_bytes: int) -> tuple[str, ...]:
    peak, free = need.peak(rung), format_bytes(free_bytes)
    size = f"{need.num_frames} frames of {need.height}x{need.width}"
    extras = [text for on, text in zip(rung[1:3], ("two-pass guidance", "forward chunking"), strict=True) if on]
    told = " with ".join(filter(None, (rung.memory, " and ".join(extras))))
    reasons = [f"memory: {told}; {size} need about {format_bytes(peak)} of {free} free"]
    if rung[:3] != first[:3]:
        reasons.append(f"memory: {first.memory} would need about {format_bytes(need.peak(first))}")
    if rung.decode_chunk_size < first.decode_chunk_size:
        chunk = rung.decode_chunk_size
        reasons.append(f"memory: decode at most {chunk} frames at a time here (decode_chunk_size={chunk})")
    if peak > free_bytes:
        reasons.append("memory: expected not to fit; make smaller or shorter clips, or close what else uses the device")
    return tuple(reasons)
