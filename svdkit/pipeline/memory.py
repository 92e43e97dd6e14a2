"""Which memory plan fits: arithmetic on bytes, without a GPU or torch.

A clip has four stages, and each needs weights plus activations; the largest stage decides. Activations grow with
pixels and frames, so published sizes for one clip are scaled to the one asked for.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from svdkit.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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


@dataclass(frozen=True, kw_only=True)
class MemoryChoice:
    """A memory plan and why it was chosen.

    Attributes:
        memory: "resident", "offload", "group-offload" or "sequential".
        two_pass_guidance: run guidance as two passes.
        forward_chunking: run feed-forward layers in chunks.
        decode_chunk_size: frames to decode at one time, at most.
        peak_bytes: expected need on the device, with margin.
        fits: `peak_bytes` is at most what is free.
        reasons: sentences for people.

    Example:
        >>> choose_memory(free_bytes=80 * GIB, weight_bytes=SVD_FP16).memory
        'resident'
    """

    memory: str
    two_pass_guidance: bool
    forward_chunking: bool
    decode_chunk_size: int
    peak_bytes: int
    fits: bool
    reasons: tuple[str, ...]


def expected_peak(
    memory: str,
    *,
    two_pass_guidance: bool,
    forward_chunking: bool,
    decode_chunk_size: int,
    weight_bytes: Mapping[str, int],
    height: int = 576,
    width: int = 1024,
    num_frames: int = 25,
    downscale: int = 8,
    element_bytes: int = 2,
) -> int:
    """Expected bytes on the device for a clip, with overhead and margin.

    Args:
        memory: one of `PLANS`.
        two_pass_guidance: guidance as two passes.
        forward_chunking: feed-forward layers in chunks.
        decode_chunk_size: frames decoded at one time.
        weight_bytes: of image_encoder, unet and vae.
        height: pixels.
        width: pixels.
        num_frames: of the clip.
        downscale: pixels a latent cell along one side, 8 for SVD.
        element_bytes: of an activation: 2 in fp16 and bf16, 4 in fp32.

    Returns:
        Bytes. Linear in pixels x frames, which overstates networks narrower than SVD's, and understates attention in
        clips far larger than 576x1024.

    Example:
        >>> svd = {"unet": 3_049_246_164, "image_encoder": 1_264_153_600, "vae": 195_485_694}
        >>> peak = expected_peak("offload", two_pass_guidance=False, forward_chunking=True, decode_chunk_size=2,
        ...                      weight_bytes=svd)
        >>> format_bytes(peak)
        '8.5 GiB'
    """
    pixels = height * width / _PIXELS
    cells = height * width / downscale**2 / _CELLS * num_frames / _FRAMES
    width_of = element_bytes / 2
    unet = _UNET_GIB[two_pass_guidance, forward_chunking] * cells * width_of
    decode = _DECODE_GIB_A_FRAME * min(decode_chunk_size, num_frames) * pixels * width_of
    stages = {
        "image_encoder": _IMAGE_ENCODER_GIB * width_of * GIB,
        "unet": unet * GIB,
        # While it encodes, an fp16 VAE is in fp32: twice the weights.
        "vae": max(decode * GIB, _ENCODE_GIB * pixels * GIB + weight_bytes["vae"]),
    }
    peak = max(_on_device(memory, stage, weight_bytes) + activations for stage, activations in stages.items())
    return int(peak * _MARGIN) + _OVERHEAD_BYTES


def choose_memory(
    *,
    free_bytes: int,
    weight_bytes: Mapping[str, int],
    memory: str = "auto",
    two_pass_guidance: bool = False,
    forward_chunking: bool = False,
    height: int = 576,
    width: int = 1024,
    num_frames: int = 25,
    downscale: int = 8,
    element_bytes: int = 2,
    plans: tuple[str, ...] = PLANS,
) -> MemoryChoice:
    """Choose the fastest plan that is expected to fit; what keeps the maths comes before what changes it.

    The order: each plan from resident to sequential, each first plain, then with two-pass guidance, then with forward
    chunking too; all that with 5 frames a decode chunk, then 2, then 1.

    Args:
        free_bytes: free on the device, with no weights on it.
        weight_bytes: of image_encoder, unet and vae, in the precision they are kept in.
        memory: "auto", or the plan to keep.
        two_pass_guidance: True keeps it on; False lets "auto" switch it on.
        forward_chunking: the same for forward chunking.
        height: pixels of the clips to come.
        width: pixels.
        num_frames: of the clips to come.
        downscale: pixels a latent cell along one side.
        element_bytes: of an activation.
        plans: what this device can do; offloading needs CUDA.

    Returns:
        The choice. If nothing fits it is the smallest, with `fits` False and a reason that says so.

    Example:
        >>> choice = choose_memory(free_bytes=int(7.3 * GIB), weight_bytes=SVD_FP16)
        >>> choice.memory, choice.decode_chunk_size
        ('offload', 2)
    """

    def peak(rung: tuple[str, bool, bool, int]) -> int:
        return expected_peak(
            rung[0],
            two_pass_guidance=rung[1],
            forward_chunking=rung[2],
            decode_chunk_size=rung[3],
            weight_bytes=weight_bytes,
            height=height,
            width=width,
            num_frames=num_frames,
            downscale=downscale,
            element_bytes=element_bytes,
        )

    automatic = memory == "auto"
    flags = (two_pass_guidance, forward_chunking)
    rungs = list(_rungs(plans if automatic else (memory,), flags=flags, may_change=automatic))
    rung = next((rung for rung in rungs if peak(rung) <= free_bytes), None) or min(rungs, key=peak)
    need = peak(rung)
    size = f"{num_frames} frames of {height}x{width}"
    return MemoryChoice(
        memory=rung[0],
        two_pass_guidance=rung[1],
        forward_chunking=rung[2],
        decode_chunk_size=rung[3],
        peak_bytes=need,
        fits=need <= free_bytes,
        reasons=_reasons(rung, first=rungs[0], peaks=(need, peak(rungs[0])), free_bytes=free_bytes, size=size),
    )


def _rungs(
    plans: tuple[str, ...], *, flags: tuple[bool, bool], may_change: bool
) -> Iterator[tuple[str, bool, bool, int]]:
    """Every way to run that is allowed, fastest first."""
    both = _LITTLE_BY_LITTLE if may_change else ((False, False),)
    ways = dict.fromkeys((two or flags[0], chunked or flags[1]) for two, chunked in both)
    for chunk, plan, (two, chunked) in itertools.product(_DECODE_CHUNKS, plans, ways):
        yield plan, two, chunked, chunk


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


def _reasons(
    rung: tuple[str, bool, bool, int],
    *,
    first: tuple[str, bool, bool, int],
    peaks: tuple[int, int],
    free_bytes: int,
    size: str,
) -> tuple[str, ...]:
    need, plain = (format_bytes(peak) for peak in peaks)
    free = format_bytes(free_bytes)
    extras = [text for on, text in zip(rung[1:3], ("two-pass guidance", "forward chunking"), strict=True) if on]
    told = " with ".join(filter(None, (rung[0], " and ".join(extras))))
    reasons = [f"memory: {told}; {size} need about {need} of {free} free"]
    if rung[:3] != first[:3]:
        reasons.append(f"memory: {first[0]} would need about {plain}")
    if rung[3] < first[3]:
        reasons.append(f"memory: decode at most {rung[3]} frames at a time here (decode_chunk_size={rung[3]})")
    if peaks[0] > free_bytes:
        reasons.append("memory: expected not to fit; make smaller or shorter clips, or close what else uses the device")
    return tuple(reasons)
