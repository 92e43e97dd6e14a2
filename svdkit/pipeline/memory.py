"""Which memory plan fits: arithmetic on bytes, without a GPU or torch.

A clip has three networks to run, and each needs weights plus activations; the largest decides. Activations grow with
pixels and frames, so published sizes for one clip are scaled to the one asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from svdkit.errors import PipelineError
from svdkit.units import format_bytes

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
_SWITCHES = ((False, False), (True, False), (True, True))


class Rung(NamedTuple):
    """One way to run a clip; the ladder of all of them goes from fast to small."""

    memory: str
    two_pass_guidance: bool = False
    forward_chunking: bool = False
    decode_chunk_size: int = 5


@dataclass(frozen=True, kw_only=True)
class Need:
    """A model and the clips it is to make, in numbers."""

    weight_bytes: Mapping[str, int]  # of image_encoder, unet and vae, in the precision they are kept in
    height: int = 576
    width: int = 1024
    num_frames: int = 25
    downscale: int = 8  # pixels a latent cell along one side
    element_bytes: int = 2  # of an activation; 4 in fp32

    def peak(self, rung: Rung) -> int:
        """Expected bytes on the device, with overhead and margin; too many for networks narrower than SVD's."""
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
        peak = max(self._weights_on_device(rung.memory, network) + size for network, size in activations.items())
        return int(peak * _MARGIN) + _OVERHEAD_BYTES

    def _weights_on_device(self, memory: str, network: str) -> float:
        """Bytes of weights on the device while a network runs."""
        if memory == "resident":
            return sum(self.weight_bytes.values())
        if memory == "offload":
            return self.weight_bytes[network]
        # group-offload leaves the small VAE on the device (techniques.py says why).
        kept = self.weight_bytes["vae"] if memory == "group-offload" else 0
        return kept if kept and network == "vae" else kept + _STREAMED_PART[memory] * self.weight_bytes[network]


def choose_memory(
    need: Need, *, free_bytes: int, asked: Rung, plans: tuple[str, ...] = PLANS
) -> tuple[Rung, tuple[str, ...]]:
    """Choose the fastest way that is expected to fit, and say why; what keeps the maths comes before what changes it.

    The order: each plan from resident to sequential, each first plain, then with two-pass guidance, then with forward
    chunking too; all that with 5 frames a decode chunk, then 2, then 1. If nothing fits it is the smallest, and a
    reason says so. A plan or switch asked for is kept; "auto" chooses from `plans` and may switch the switches on.

    Example:
        >>> choose_memory(svd, free_bytes=int(7.3 * GIB), asked=Rung("auto"))[0]
        Rung(memory='offload', two_pass_guidance=True, forward_chunking=True, decode_chunk_size=2)
    """
    automatic = asked.memory == "auto"
    ladder = itertools.product(
        _DECODE_CHUNKS, plans if automatic else (asked.memory,), _SWITCHES if automatic else _SWITCHES[:1]
    )
    rungs = [
        Rung(plan, two_passes or asked.two_pass_guidance, chunked or asked.forward_chunking, frames)
        for frames, plan, (two_passes, chunked) in ladder
    ]
    rung = next((rung for rung in rungs if need.peak(rung) <= free_bytes), None) or min(rungs, key=need.peak)
    return rung, _reasons(need, rung, first=rungs[0], free_bytes=free_bytes)


def possible_plans(device: str, *, memory: str, dtype: str, compiled: bool) -> tuple[str, ...]:
    """The memory plans that work with the other settings; a PipelineError if the one asked for is not among them."""
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


def _reasons(need: Need, rung: Rung, *, first: Rung, free_bytes: int) -> tuple[str, ...]:
    peak = need.peak(rung)
    extras = [text for on, text in zip(rung[1:3], ("two-pass guidance", "forward chunking"), strict=True) if on]
    told = " with ".join(filter(None, (rung.memory, " and ".join(extras))))
    size = f"{need.num_frames} frames of {need.height}x{need.width}"
    reasons = [f"memory: {told}; {size} need about {format_bytes(peak)} of {format_bytes(free_bytes)} free"]
    if rung[:3] != first[:3]:
        reasons.append(f"memory: {first.memory} would need about {format_bytes(need.peak(first))}")
    if rung.decode_chunk_size < first.decode_chunk_size:
        chunk = rung.decode_chunk_size
        reasons.append(f"memory: decode at most {chunk} frames at a time here (decode_chunk_size={chunk})")
    if peak > free_bytes:
        reasons.append("memory: expected not to fit; make smaller or shorter clips, or close what else uses the device")
    return tuple(reasons)
