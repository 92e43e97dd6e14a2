"""What this machine is and has; nothing here holds a name, a path or a token."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# What svdkit's results depend on, by their names on PyPI.
PACKAGES = (
    *("torch", "torchvision", "diffusers", "transformers", "accelerate", "safetensors", "huggingface-hub"),
    *("numpy", "pillow", "opencv-python-headless", "mediapy", "imageio-ffmpeg", "ipywidgets"),
)


ENCODERS = {".mp4": "libx264", ".webm": "libvpx-vp9"}
"""Suffix -> the encoder of ffmpeg that saves it; not every ffmpeg is built with them."""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU as torch sees it: free_bytes is None when not asked, capability is (9, 0) for sm_90."""

    name: str
    vram_bytes: int
    free_bytes: int | None
    capability: tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What is here; None where it could not be found out, or was not asked."""

    python: str = ""
    system: str = ""
    cpu: str | None = None
    cpu_count: int = 1
    ram_bytes: int | None = None
    ram_free_bytes: int | None = None
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    torch_problem: str | None = None  # why torch cannot be used
    cuda: str | None = None  # what torch is built for
    cudnn: int | None = None  # 91500 is 9.15.0
    architectures: tuple[str, ...] = ()  # "sm_90" and the like
    gpus: tuple[Gpu, ...] = ()
    mps: bool = False
    driver: str | None = None  # NVIDIA's
    ffmpeg: str | None = None
    ffmpeg_lacks: tuple[str, ...] = ()  # suffixes of clips that it cannot save
    disk_free_bytes: int | None = None  # where the hub's downloads go
    token: bool = False
    offline: bool = False


def gather(*, ask_torch: bool, ask_free: bool = False) -> Facts:
    """Look at this machine: torch only when asked, for its import takes seconds; free VRAM costs a CUDA context."""
    versions = _versions()
    home = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")  # noqa: PTH111 - never raises
    return Facts(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpu=_cpu(),
        cpu_count=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        versions=versions,
        driver=_driver(),
        ffmpeg=_ffmpeg(),
        ffmpeg_lacks=_ffmpeg_lacks() if ask_free else (),
        disk_free_bytes=_disk_free(Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub")),
        token=bool(os.environ.get("HF_TOKEN", "").strip()) or Path(home, "token").is_file(),
        offline=os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"},
        **_ram(),
        **(_ask_torch(free=ask_free) if ask_torch and "torch" in versions else {}),
    )


def summary(*, gpu: bool | None = None, device: str = "auto") -> dict[str, Any]:
    """Describe this machine and the versions in use, for provenance and tables: no user, host, path or token.

    Args:
        gpu: Ask torch about the GPU; None asks only if torch is imported already, so that this stays quick.
        device: What computes, as torch names it: a GPU that is only there is not named for "cpu".

    Returns:
        Plain JSON: ``python``, ``platform``, ``notebook``, ``cpu``, ``cpu_count``, ``ram_bytes``; ``gpu``,
        ``gpu_count``, ``vram_bytes`` (of the device), ``driver``, ``cuda``, ``cudnn``; ``ffmpeg``; packages' versions.

    Example:
        >>> summary()["notebook"]
        'terminal'
    """
    facts = gather(ask_torch="torch" in sys.modules if gpu is None else gpu)
    kind, _, number = device.partition(":")
    used = None if kind in {"cpu", "mps"} else next(iter(facts.gpus[int(number or 0) :]), None)
    same = ("python", "cpu", "cpu_count", "ram_bytes", "driver", "cuda", "cudnn", "ffmpeg")
    return {
        **{name: getattr(facts, name) for name in same},
        "platform": facts.system,
        "notebook": notebook_kind(),
        "gpu": used.name if used else "Apple GPU (MPS)" if facts.mps and kind != "cpu" else None,
        "gpu_count": len(facts.gpus),
        "vram_bytes": used.vram_bytes if used else None,
        **facts.versions,
    }


def machine(device: str = "auto") -> dict[str, Any]:
    """``summary``, gathered once a device: it does not change while Python runs, unless torch is imported."""
    return dict(_machine(device, torch="torch" in sys.modules))


@functools.cache
def _machine(device: str, *, torch: bool) -> dict[str, Any]:
    return summary(gpu=torch, device=device)


def notebook_kind() -> str:
    """Tell what shows our output; IPython is not imported for it.

    A script that a notebook starts (``!svdkit demo``) is in a terminal, on Colab too: it cannot draw in the cell.

    Returns:
        ``"colab"``, ``"kaggle"``, ``"jupyter"`` (any other kernel: JupyterLab, VS Code, papermill), or ``"terminal"``.

    Example:
        >>> notebook_kind()
        'terminal'
    """
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    if not hasattr(get_shell() if get_shell else None, "kernel"):
        return "terminal"
    hosts = {"COLAB_RELEASE_TAG": "colab", "KAGGLE_KERNEL_RUN_TYPE": "kaggle"}
    return next((host for variable, host in hosts.items() if variable in os.environ), "jupyter")


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return {name: version for name, version in found.items() if version}  # None where pip was killed half-way


def _cpu() -> str | None:
    with contextlib.suppress(OSError, IndexError):
        text = Path("/proc/cpuinfo").read_text(errors="replace")
        return str(re.findall(r"(?m)^model name\s*:\s*(.*\S)", text)[0])
    return platform.processor() or None


def free_ram() -> int:
    """Bytes of main memory that this process may still take: of a machine, or of the container it runs in.

    Example:
        >>> free_ram() < 2**50
        True
    """
    import psutil

    return int(min([psutil.virtual_memory().available, *(limit - used for limit, used in _containers())]))


def _ram() -> dict[str, Any]:
    """Total and available memory, or what a container may have of it."""
    try:
        import psutil
    except ImportError:
        return {}
    limits = (limit for limit, _ in _containers())
    return {"ram_bytes": min([psutil.virtual_memory().total, *limits]), "ram_free_bytes": free_ram()}


def _containers() -> Iterator[tuple[int, int]]:
    """Limit and use of memory that cgroup 2 or 1 counts; files the kernel could drop at once are not in use."""
    for folder, limit, used, cache in (
        ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):  # not there; "max"
            size, taken = (int(Path(folder, name).read_text()) for name in (limit, used))
            stat = dict(line.split() for line in Path(folder, "memory.stat").read_text().splitlines())
            yield size, taken - int(stat.get(cache, 0))


@functools.cache  # nvidia-smi takes a while, and the panel asks at each move of a slider
def _driver() -> str | None:
    """Version of the NVIDIA driver: Linux tells it in a file, Windows, and Linux inside of it, by nvidia-smi."""
    text = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if platform.system() == "Windows" or "microsoft" in platform.release().lower():
            command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]  # wherever it is
            text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        else:
            text = Path("/proc/driver/nvidia/version").read_text(errors="replace")
    match = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", text)
    return match[0] if match else None


def _ffmpeg() -> str | None:
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_version())
    except Exception:  # noqa: BLE001 - missing, not executable, for another processor: all mean that there is none
        return None


def _ffmpeg_lacks() -> tuple[str, ...]:
    with contextlib.suppress(Exception):  # as above
        import imageio_ffmpeg

        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-encoders"]
        known = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()
        return tuple(suffix for suffix, encoder in ENCODERS.items() if encoder not in known)
    return ()


def _disk_free(folder: Path) -> int | None:
    """Free bytes in a folder that may have to be made first."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free
    return None


def _ask_torch(*, free: bool) -> dict[str, Any]:
    """What only torch knows; a broken installation raises nearly anything when it is imported."""
    try:
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an old driver warns here, and the doctor says it in our words
            return {
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),
                "architectures": tuple(torch.cuda.get_arch_list()),
                "gpus": tuple(_gpu(index, free=free) for index in range(torch.cuda.device_count())),
                "mps": bool(torch.backends.mps.is_available()),
            }
    except Exception as error:  # noqa: BLE001 - see above
        reason = str(error).partition("\n")[0].replace(os.path.expanduser("~/"), "~/")  # noqa: PTH111 - never raises
        return {"torch_problem": f"{type(error).__name__}: {reason}"}


def _gpu(index: int, *, free: bool) -> Gpu:
    import torch

    card = torch.cuda.get_device_properties(index)
    try:
        unused = torch.cuda.mem_get_info(index)[0] if free else None
    except RuntimeError:  # so full that not even its context fits
        unused = 0
    return Gpu(card.name, card.total_memory, unused, (card.major, card.minor))
