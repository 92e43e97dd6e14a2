"""What this machine computes with, and which memory plan fits: arithmetic on counted bytes, without a GPU or torch.

A clip has three networks to run, and each needs weights plus activations; the largest decides. ``models.costs`` knows
the activations of a call.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from svdkit.environment import free_ram, lacking_code
from svdkit.errors import OutOfMemoryError, PipelineError
from svdkit.models.costs import Call, Network, svd_network
from svdkit.settings import choose_decode_chunk_size
from svdkit.units import format_bytes

# What other allocators than CUDA's say; they raise a plain RuntimeError.
_SIGNS = (
    *("cuda error: out of memory", "cublas_status_alloc_failed", "cudnn_status_alloc_failed"),
    # A library that finds no room for its handle or workspace, and the allocator that asks the driver how full it is.
    *("unable to find an engine", "cublas_status_not_initialized", "nvml_success == r internal assert failed"),
    *("mps backend out of memory", "invalid buffer size"),  # the second: a tensor larger than Metal allows
    *("defaultcpuallocator: can't allocate memory", "defaultcpuallocator: not enough memory"),
)


def choose_device(asked: str) -> tuple[str, str]:
    """The device for "auto", "cpu", "cuda", "cuda:1" or "mps", and the reason; a PipelineError if it is not here."""
    lack = _lack(asked)
    if asked != "auto":
        if lack:
            raise PipelineError(f"device={asked!r} but {lack[0]}: {lack[1]}")
        return asked, f"device: {asked}, as asked"
    lack = _lack("cuda")
    if not lack:
        return "cuda", "device: cuda, the fastest here"
    if _cuda_count():
        return "cpu", f"device: cpu, because {lack[0]}, the GPU here; {lack[1]}"
    device = "cpu" if _lack("mps") else "mps"
    return device, f"device: {device}, because there is no CUDA GPU{' and no Apple GPU' * (device == 'cpu')}"


def _lack(device: str) -> tuple[str, str] | None:
    """Say why torch cannot compute on a device, and the cure; None if it can."""
    import torch

    kind, _, number = device.partition(":")
    cuda = _cuda_count()
    if kind == "mps" and not torch.backends.mps.is_available():
        return "there is no Apple GPU that torch can use", "use device='auto'"
    if kind != "cuda":
        return None
    if not cuda:
        cure = "use device='auto', or install a torch with CUDA and check that `nvidia-smi` lists the GPU"
        return f"this torch ({torch.__version__}) sees no CUDA GPU", cure
    if int(number or 0) >= cuda:
        return f"the last CUDA GPU here is 'cuda:{cuda - 1}'", "use that or 'cuda'"
    return lacking_code(torch.cuda.get_device_capability(device), torch.cuda.get_arch_list())


def _cuda_count() -> int:
    """How many CUDA GPUs torch can use; where the driver is too old for it, it counts them all the same."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def choose_dtype(asked: str, *, device: str, capability: tuple[int, int] | None = None) -> tuple[str, str, str]:
    """The precision of the weights, that of the arithmetic and the reason; a PipelineError if it cannot work here.

    `asked` is "auto", "fp32", "fp16", "bf16" or "fp8", whose 8-bit weights are raised to the arithmetic's precision;
    `capability` is CUDA's, for example (8, 9).
    """
    kind = device.partition(":")[0]
    half = "fp16" if kind == "cuda" else "fp32"
    # Cards before Ampere emulate bf16, many times slower than fp16.
    if asked == "bf16" and capability is not None and capability < (8, 0):
        raise PipelineError(
            f"dtype='bf16' but this GPU (compute capability {capability[0]}.{capability[1]}) is older than 8.0 and "
            "only emulates it: use dtype='fp16'"
        )
    if asked in {"bf16", "fp8"} and kind == "mps":
        raise PipelineError(f"dtype={asked!r} does not work on Apple GPUs with torch: use dtype='fp32'")
    usual = "the precision SVD's weights are published in"
    reasons = {
        "auto": usual if kind == "cuda" else f"half precision gains nothing on {kind}",
        "fp8": f"UNet weights stored in 8 bits (half of fp16's memory, lossy) and raised to {half} layer by layer",
        "fp16": "as asked; many times slower than fp32 on a CPU" if kind == "cpu" else "as asked",
        "bf16": "as asked; rarely faster than fp32 on a CPU" if kind == "cpu" else "as asked",
    }
    stored = half if asked == "auto" else asked
    return stored, half if asked == "fp8" else stored, f"dtype: {stored}, {reasons.get(asked, 'as asked')}"


def cuda_capability(device: str) -> tuple[int, int] | None:
    """Compute capability of a CUDA device, None for others."""
    import torch

    return torch.cuda.get_device_capability(device) if device.startswith("cuda") else None


def free_bytes(device: str) -> int:
    """Bytes free on the device for a new model: VRAM on CUDA, else main memory (Apple GPUs share it)."""
    if not device.startswith("cuda"):
        return free_ram()
    import torch

    # What torch keeps for later of an earlier clip is not free to CUDA, and would push the next load to a slower plan.
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info(device)[0])


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, on CUDA, Apple's MPS or the CPU; svdkit's own among them."""
    import torch

    # torch before 2.5 has it in torch.cuda alone; it is a RuntimeError in both.
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError | OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def torch_dtype(name: str) -> Any:
    """The torch dtype of "fp32", "fp16" or "bf16"."""
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]


GIB = 1 << 30
_PLANS: tuple[str, ...] = ("resident", "offload", "group-offload", "sequential")

# What counting cannot see, measured on an H200 (bench_results/gpu). Fragments that the allocator keeps, as a factor on
# activations: given 1.15 of them, denoising failed; with room it took 1.19 to 1.28. Decoding ran in 1.15. The context
# took 0.67 to 0.76 GiB. Copies that cuDNN makes in its workspace are in the counts.
MARGINS = {"image_encoder": 1.15, "vae_encode": 1.15, "unet": 1.25, "vae_decode": 1.15}
OVERHEAD_BYTES = 3 * GIB // 4
LATER_BYTES = GIB // 8  # of these, what comes after the first question how much is free [the same]
# On a card with room torch keeps blocks of several sizes while it decodes; 1.48 to 1.78 were seen.
_WITH_ROOM = {**MARGINS, "vae_decode": 1.7}

# Plan -> part of a running network's weights on the device at one time. The largest layer of the UNet is 2 % of it, and
# the next ones are fetched ahead in group-offload [estimate].
_STREAMED_PART = {"offload": 1.0, "group-offload": 0.10, "sequential": 0.04}
_SWITCHES = ((False, False), (True, False), (True, True))


class Rung(NamedTuple):
    """One way to run a clip; the ladder of all of them goes from fast to small."""

    memory: str
    two_pass_guidance: bool = False
    forward_chunking: bool = False
    decode_chunk_size: int = 5


class Fit(NamedTuple):
    """A rung, the bytes a card must have free for it, whether it has them, and the seconds of a clip where known."""

    rung: Rung
    memory_bytes: int
    fits: bool | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Need:
    """A model and the clips it is to make, in numbers."""

    weight_bytes: Mapping[str, int]  # of image_encoder, unet and vae, in the precision they are kept in
    height: int = 576
    width: int = 1024
    num_frames: int = 25
    network: Network = field(default_factory=svd_network)
    dtype: str = "fp16"
    guided: bool = True  # whether the UNet gets a batch of two
    decode_chunk_size: int | None = None  # asked for; None leaves it to the plan
    overhead_bytes: int = OVERHEAD_BYTES

    def peak(self, rung: Rung, *, with_room: bool = False) -> int:
        """Expected bytes on the device, with overhead and margin: those needed, or those taken where there is room."""
        # Sequential offloading empties torch's memory after each layer.
        margins = _WITH_ROOM if with_room and rung.memory != "sequential" else MARGINS
        # While it encodes, an fp16 VAE is in fp32: twice the weights.
        upcast = self.weight_bytes["vae"] if self.dtype in {"fp16", "fp8"} else 0
        peaks = (
            self.weights_on_device(rung.memory, "vae" if stage.startswith("vae") else stage)
            + size * margins[stage]
            + upcast * (stage == "vae_encode")
            for stage, size in self.activations(rung).items()
        )
        return int(max(peaks)) + self.overhead_bytes

    def activations(self, rung: Rung) -> Mapping[str, int]:
        """Bytes of each stage's activations at their peak, without weights and margin."""
        rung = rung._replace(decode_chunk_size=self.decode_chunk_size or rung.decode_chunk_size)
        size = {"height": self.height, "width": self.width, "num_frames": self.num_frames}
        calls = clip_calls(rung, **size, dtype=self.dtype, guided=self.guided)
        cost = self.network.cost
        return {stage: max(cost(call).peak_workspace_bytes for call, _ in part) for stage, part in calls.items()}

    def weights_on_device(self, memory: str, network: str) -> float:
        """Bytes of weights on the device while a network runs."""
        if memory == "resident":
            return sum(self.weight_bytes.values())
        if memory != "group-offload":
            return _STREAMED_PART[memory] * self.weight_bytes[network]
        # It leaves the small VAE on the device (techniques.py says why).
        streamed = 0.0 if network == "vae" else _STREAMED_PART[memory] * self.weight_bytes[network]
        return self.weight_bytes["vae"] + streamed


def clip_calls(
    rung: Rung, *, height: int, width: int, num_frames: int, dtype: str, guided: bool, steps: int = 1
) -> dict[str, list[tuple[Call, int]]]:
    """List the calls of each stage of a clip, and how often each is made."""
    call = partial(Call, height=height, width=width, element_bytes=4 if dtype == "fp32" else 2)
    passes = 2 if guided and rung.two_pass_guidance else 1
    chunk = min(rung.decode_chunk_size, num_frames)
    whole, rest = divmod(num_frames, chunk)
    chunks = [(call("vae_decode", chunk), whole)] + [(call("vae_decode", rest), 1)] * bool(rest)
    batch = 2 if guided and passes == 1 else 1
    return {
        "image_encoder": [(call("image_encoder", 1), 1)],
        # diffusers raises an fp16 VAE to fp32 while it encodes, a bf16 one not.
        "vae_encode": [(call("vae_encode", 1, element_bytes=2 if dtype == "bf16" else 4), 1)],
        "unet": [(call("unet", num_frames, batch=batch, chunked=rung.forward_chunking), passes * steps)],
        "vae_decode": chunks,
    }


def plan(
    need: Need, *, free_bytes: int | None = None, asked: Rung | None = None, plans: tuple[str, ...] = _PLANS
) -> tuple[Fit, ...]:
    """List the ways to run a clip in the order in which they are tried, each needing less than all before it.

    The order: each plan from resident to group-offload, each first plain, then with two-pass guidance, then with
    forward chunking too; all that with the usual decode chunk (5 frames of 25), then 2, then 1, for a chunk changes the
    decoder's view over time a little and everything else keeps the maths. Sequential, many times slower, comes last.
    """
    asked = asked or Rung("auto")
    chunks = dict.fromkeys((choose_decode_chunk_size(need.num_frames), 2, 1))
    ways = itertools.product(chunks, plans, _SWITCHES)
    if asked.memory != "auto":
        ways = itertools.product(chunks, [asked.memory], _SWITCHES[:1])
    ladder: list[Fit] = []
    for frames, memory, (two_passes, chunked) in sorted(ways, key=lambda way: way[1] == "sequential"):
        rung = Rung(memory, two_passes or asked.two_pass_guidance, chunked or asked.forward_chunking, frames)
        peak = need.peak(rung)
        if not ladder or peak < ladder[-1].memory_bytes:
            ladder.append(Fit(rung, peak, None if free_bytes is None else peak <= free_bytes))
    return tuple(ladder)


def choose_memory(
    need: Need, *, free_bytes: int, asked: Rung, plans: tuple[str, ...] = _PLANS
) -> tuple[Rung, tuple[str, ...]]:
    """Choose the first of `plan` that is expected to fit, and say why; the smallest, and why, if nothing does."""
    ladder = plan(need, free_bytes=free_bytes, asked=asked, plans=plans)
    first, (rung, peak, fits, _) = ladder[0], next((step for step in ladder if step.fits), ladder[-1])
    size = f"{need.num_frames} frames of {need.height}x{need.width}"
    reasons = [f"{rung_text(rung)}; {size} need about {format_bytes(peak)} of {format_bytes(free_bytes)} free"]
    if rung[:3] != first.rung[:3]:
        reasons.append(f"{first.rung.memory} would need about {format_bytes(first.memory_bytes)}")
    chunk = rung.decode_chunk_size
    if chunk < first.rung.decode_chunk_size:
        reasons.append(f"decode at most {chunk} frames at a time here (decode_chunk_size={chunk})")
    if not fits:
        reasons.append("expected not to fit; make smaller or shorter clips, or close what else uses the device")
    return rung, tuple(f"memory: {reason}" for reason in reasons)


def rung_text(rung: Rung) -> str:
    """Name a way to run a clip, without its decode chunk."""
    switches = ["two-pass guidance"] * rung.two_pass_guidance + ["forward chunking"] * rung.forward_chunking
    return " with ".join([rung.memory, *filter(None, [" and ".join(switches)])])


def possible_plans(device: str, *, memory: str, dtype: str, compiled: bool) -> tuple[str, ...]:
    """The memory plans that work with the other settings; a PipelineError if the one asked for is not among them."""
    if compiled and dtype == "fp8":
        raise PipelineError("dtype='fp8' raises weights layer by layer, which compile=True cannot trace: choose one")
    possible, why = _PLANS, ""
    if not device.startswith("cuda"):
        possible, why = _PLANS[:1], f"needs a CUDA GPU to move weights to, and the device is {device}"
    elif compiled:
        possible, why = _PLANS[:1], "cannot be combined with compile=True, which needs the weights to stay"
    elif dtype == "fp8":
        possible, why = _PLANS[:3], "keeps one layer on the GPU, where 8-bit storage saves nothing and does not work"
    if memory not in {"auto", *possible}:
        raise PipelineError(f"memory={memory!r} {why}: use memory='resident' or 'auto'")
    return possible
