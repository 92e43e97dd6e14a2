"""Where a model computes and in which precision: what is here, what it can do, what was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from svdkit.errors import PipelineError

if TYPE_CHECKING:
    import torch

# Ampere and later: earlier cards emulate bf16, many times slower than fp16.
_BF16_CAPABILITY = (8, 0)


@dataclass(frozen=True, kw_only=True)
class Precision:
    """A resolved precision.

    Attributes:
        name: "fp32", "fp16", "bf16" or "fp8".
        compute: precision of the arithmetic: `name`, or what fp8 weights are raised to.
        reason: one sentence.

    Example:
        >>> choose_precision("auto", device="cpu").name
        'fp32'
    """

    name: str
    compute: str
    reason: str


def choose_device(asked: str) -> tuple[str, str]:
    """Choose the device.

    Args:
        asked: "auto", "cpu", "cuda", "cuda:1" or "mps".

    Returns:
        The device and the reason, one sentence.

    Raises:
        PipelineError: the device asked for is not here.

    Example:
        >>> choose_device("cpu")
        ('cpu', 'device: cpu, as asked')
    """
    import torch

    cuda, mps = torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.backends.mps.is_available()
    if asked == "auto":
        if cuda:
            return "cuda", "device: cuda, the fastest here"
        if mps:
            return "mps", "device: mps, because there is no CUDA GPU"
        return "cpu", "device: cpu, because there is no CUDA GPU and no Apple GPU"
    kind, _, number = asked.partition(":")
    if kind == "cuda" and not cuda:
        raise PipelineError(
            f"device={asked!r} but this torch ({torch.__version__}) sees no CUDA GPU: use device='auto', or install a "
            "torch with CUDA and check that `nvidia-smi` lists the GPU"
        )
    if number and int(number) >= cuda:
        raise PipelineError(f"device={asked!r} but the last CUDA GPU here is 'cuda:{cuda - 1}': use that or 'cuda'")
    if kind == "mps" and not mps:
        raise PipelineError(f"device={asked!r} but there is no Apple GPU that torch can use: use device='auto'")
    return asked, f"device: {asked}, as asked"


def choose_precision(asked: str, *, device: str, capability: tuple[int, int] | None = None) -> Precision:
    """Choose the precision; pure, so that every card can be tested.

    Args:
        asked: "auto", "fp32", "fp16", "bf16" or "fp8".
        device: as `choose_device` returned it.
        capability: CUDA compute capability, for example (8, 9); None elsewhere.

    Returns:
        The precision.

    Raises:
        PipelineError: the device cannot compute in it.

    Example:
        >>> choose_precision("fp8", device="cuda", capability=(8, 9)).compute
        'fp16'
    """
    kind = device.partition(":")[0]
    half = "fp16" if kind == "cuda" else "fp32"
    if asked == "auto":
        why = (
            "the precision SVD's weights are published in"
            if half == "fp16"
            else f"half precision gains nothing on {kind}"
        )
        return Precision(name=half, compute=half, reason=f"dtype: {half}, {why}")
    if asked == "bf16" and kind == "cuda" and capability is not None and capability < _BF16_CAPABILITY:
        raise PipelineError(
            f"dtype='bf16' but this GPU (compute capability {capability[0]}.{capability[1]}) is older than 8.0 and "
            "only emulates it: use dtype='fp16'"
        )
    if asked in {"bf16", "fp8"} and kind == "mps":
        raise PipelineError(f"dtype={asked!r} does not work on Apple GPUs with torch: use dtype='fp32'")
    if asked == "fp8":
        why = f"UNet weights stored in 8 bits (half of fp16's memory, lossy) and raised to {half} layer by layer"
        return Precision(name="fp8", compute=half, reason=f"dtype: fp8, {why}")
    slow = {"fp16": "; many times slower than fp32 on a CPU", "bf16": "; rarely faster than fp32 on a CPU"}
    return Precision(
        name=asked, compute=asked, reason=f"dtype: {asked}, as asked{slow.get(asked, '') if kind == 'cpu' else ''}"
    )


def cuda_capability(device: str) -> tuple[int, int] | None:
    """Compute capability of a CUDA device, None for others.

    Example:
        >>> cuda_capability("cpu") is None
        True
    """
    import torch

    if not device.startswith("cuda"):
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return int(major), int(minor)


def free_bytes(device: str) -> int:
    """Bytes free on the device for a new program: VRAM on CUDA, else main memory (Apple GPUs share it).

    Example:
        >>> free_bytes("cpu") > 0
        True
    """
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    import psutil

    return int(psutil.virtual_memory().available)


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of "fp32", "fp16" or "bf16".

    Example:
        >>> torch_dtype("bf16")
        torch.bfloat16
    """
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]
