"""Where a model computes and in which precision: what is here, what it can do, what was asked for."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from svdkit.environment import free_ram, lacking_code
from svdkit.errors import OutOfMemoryError, PipelineError

if TYPE_CHECKING:
    import torch

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
    import torch

    cuda, mps = torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.backends.mps.is_available()
    if asked == "auto":
        if cuda:
            if lack := _lacking_code("cuda"):
                return "cpu", f"device: cpu, because {lack[0]}, the GPU here; {lack[1]}"
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
    if kind == "cuda" and (lack := _lacking_code(asked)):
        raise PipelineError(f"device={asked!r} but {lack[0]}: {lack[1]}; or use device='cpu'")
    if kind == "mps" and not mps:
        raise PipelineError(f"device={asked!r} but there is no Apple GPU that torch can use: use device='auto'")
    return asked, f"device: {asked}, as asked"


def _lacking_code(device: str) -> tuple[str, str] | None:
    """Say that this torch cannot compute on a CUDA GPU that it sees, and the cure; None if it can."""
    import torch

    return lacking_code(torch.cuda.get_device_capability(device), torch.cuda.get_arch_list())


def choose_dtype(asked: str, *, device: str, capability: tuple[int, int] | None = None) -> tuple[str, str, str]:
    """The precision of the weights, that of the arithmetic and the reason; a PipelineError if it cannot work here.

    `asked` is "auto", "fp32", "fp16", "bf16" or "fp8", whose 8-bit weights are raised to the arithmetic's precision;
    `capability` is CUDA's, for example (8, 9).
    """
    kind = device.partition(":")[0]
    half = "fp16" if kind == "cuda" else "fp32"
    if asked == "auto":
        if kind == "cuda":
            return half, half, "dtype: fp16, the precision SVD's weights are published in"
        return half, half, f"dtype: fp32, half precision gains nothing on {kind}"
    # Cards before Ampere emulate bf16, many times slower than fp16.
    if asked == "bf16" and capability is not None and capability < (8, 0):
        raise PipelineError(
            f"dtype='bf16' but this GPU (compute capability {capability[0]}.{capability[1]}) is older than 8.0 and "
            "only emulates it: use dtype='fp16'"
        )
    if asked in {"bf16", "fp8"} and kind == "mps":
        raise PipelineError(f"dtype={asked!r} does not work on Apple GPUs with torch: use dtype='fp32'")
    if asked == "fp8":
        why = f"UNet weights stored in 8 bits (half of fp16's memory, lossy) and raised to {half} layer by layer"
        return "fp8", half, f"dtype: fp8, {why}"
    slow = {"fp16": "; many times slower than fp32 on a CPU", "bf16": "; rarely faster than fp32 on a CPU"}
    return asked, asked, f"dtype: {asked}, as asked" + (slow.get(asked, "") if kind == "cpu" else "")


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
    gc.collect()
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info(device)[0])


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, on CUDA, Apple's MPS or the CPU; svdkit's own among them."""
    import torch

    # torch before 2.5 has it in torch.cuda alone; it is a RuntimeError in both.
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError | OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of "fp32", "fp16" or "bf16"."""
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]
