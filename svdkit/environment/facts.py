"""Gather what the doctor judges and the summary tells; nothing here holds a name, a path or a token."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svdkit.environment.place import hosted_on, notebook_kind

# What svdkit's results depend on, by their names on PyPI.
PACKAGES: tuple[str, ...] = (
    *("torch", "torchvision", "diffusers", "transformers", "accelerate", "safetensors", "huggingface-hub"),
    *("numpy", "pillow", "opencv-python-headless", "mediapy", "imageio-ffmpeg", "ipywidgets"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU as torch sees it.

    Attributes:
        name: What the driver calls it.
        vram_bytes: Its memory.
        free_bytes: What of it nobody uses; None when it was not asked.
        capability: Compute capability, (9, 0) for sm_90.
    """

    name: str
    vram_bytes: int
    free_bytes: int | None = None
    capability: tuple[int, int] = (0, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What is here. None means that it could not be found out, or was not asked.

    Attributes:
        python: Version.
        system: System and processor kind, ``"Linux x86_64"``.
        notebook: See :func:`svdkit.environment.notebook_kind`.
        host: ``"colab"``, ``"kaggle"`` or None.
        cpu: Name of the processor.
        cpu_count: Cores this process may use.
        versions: Package to version, installed ones only.
        torch_problem: Why torch cannot be used.
        cuda: CUDA version torch is built for; None in a build for the CPU.
        cudnn: cuDNN version as torch tells it, 91500 for 9.15.0.
        architectures: What torch is built for: ``"sm_90"`` and the like.
        gpus: GPUs that torch can use.
        mps: Whether torch can use an Apple GPU.
        driver: Version of the NVIDIA driver.
        ffmpeg: Version of the ffmpeg that svdkit will use.
        ram_bytes: Memory, or what a container may use of it.
        ram_free_bytes: Memory that is available now.
        disk_free_bytes: Free space where the hub's downloads go.
        token: Whether an access token for the hub is set. Never its value.
        mirror: Whether another endpoint for the hub is set.
        offline: Whether the hub is set to offline.
    """

    python: str = ""
    system: str = ""
    notebook: str = "terminal"
    host: str | None = None
    cpu: str | None = None
    cpu_count: int = 1
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    torch_problem: str | None = None
    cuda: str | None = None
    cudnn: int | None = None
    architectures: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    mps: bool = False
    driver: str | None = None
    ffmpeg: str | None = None
    ram_bytes: int | None = None
    ram_free_bytes: int | None = None
    disk_free_bytes: int | None = None
    token: bool = False
    mirror: bool = False
    offline: bool = False


def gather(*, ask_torch: bool, ask_free: bool = False) -> Facts:
    """Look at this machine.

    Args:
        ask_torch: Import torch (seconds) and ask it about GPUs.
        ask_free: Ask each GPU for its free memory, which takes half a GB of it for as long as this process lives.

    Returns:
        The facts; nothing that goes wrong in finding one out is raised.

    Example:
        >>> gather(ask_torch=False).python.startswith("3.")
        True
    """
    installed = _versions()
    return Facts(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        notebook=notebook_kind(),
        host=hosted_on(os.environ),
        cpu=_cpu(),
        cpu_count=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        versions=installed,
        driver=_driver(),
        ffmpeg=_ffmpeg(),
        disk_free_bytes=_disk_free(os.environ),
        token=_has_token(os.environ),
        mirror=bool(os.environ.get("HF_ENDPOINT")),
        offline=os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"},
        **_ram(),
        **(_ask_torch(free=ask_free) if ask_torch and "torch" in installed else {}),
    )


def _hub_home(environ: Mapping[str, str]) -> str:
    """Folder of the hub's cache and token, by huggingface_hub's own rules; importing it would take longer."""
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return environ.get("HF_HOME") or f"{cache}/huggingface"


def _has_token(environ: Mapping[str, str]) -> bool:
    """Whether an access token is set; its value is not kept, and the file of ``hf auth login`` is not opened."""
    if any(environ.get(name, "").strip() for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")):
        return True
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: this user has no home folder
        return Path(environ.get("HF_TOKEN_PATH") or f"{_hub_home(environ)}/token").expanduser().stat().st_size > 0
    return False


def _disk_free(environ: Mapping[str, str]) -> int | None:
    """Free bytes where the hub's downloads are, or would be made."""
    folder = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE") or f"{_hub_home(environ)}/hub"
    with contextlib.suppress(OSError, RuntimeError):
        cache = Path(folder).expanduser().absolute()
        return shutil.disk_usage(next(path for path in (cache, *cache.parents) if path.exists())).free
    return None


def _without_paths(text: str) -> str:
    """First line of another library's message without folders, which may hold a user's name."""
    line = next(iter(text.strip().splitlines()), "")
    # First as wholes those that are known, for a user's name may hold a blank and end the pattern below.
    for folder in (sys.prefix, os.path.expanduser("~")):  # noqa: PTH111 - Path.home() raises where there is no home
        line = line.replace(folder, "")
    return re.sub(r"""(?:[A-Za-z]:)?(?:[\\/][^\\/\s:'"]+)*[\\/](?=[^\\/\s:'"]+)""", "", line)


def _versions() -> dict[str, str]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)  # None when a killed pip left half a package behind
    return {name: version for name, version in found.items() if version}


def _cpu() -> str | None:
    with contextlib.suppress(OSError):
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or None


def _ram() -> dict[str, Any]:
    """Memory by psutil, which accelerate brings, else by the system's own count; a container's limit is less."""
    try:
        import psutil

        memory = psutil.virtual_memory()
        total, free = memory.total, memory.available
    except ImportError:
        total, free = _pages("SC_PHYS_PAGES"), _pages("SC_AVPHYS_PAGES")
    limit = _container_limit()
    bounds = {"ram_bytes": total, "ram_free_bytes": free}
    return {name: size if None in {size, limit} else min(size, limit) for name, size in bounds.items()}


def _pages(name: str) -> int | None:
    try:
        return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf, macOS not every name
        return None


def _container_limit() -> int | None:
    """What cgroup 2 or 1 allows; both write a huge number or a word when there is no limit."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return int(Path(file).read_text())
    return None


def _driver() -> str | None:
    """Version of the NVIDIA driver: Linux tells it in a file, elsewhere nvidia-smi does."""
    version = r"\b(\d{3,}\.\d+(?:\.\d+)?)\b"
    with contextlib.suppress(OSError):
        match = re.search(version, Path("/proc/driver/nvidia/version").read_text(errors="replace"))
        if match:
            return match[1]
    program = shutil.which("nvidia-smi")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        ask = [program, "--query-gpu=driver_version", "--format=csv,noheader"] if program else []
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True).stdout if ask else ""
        match = re.search(version, answer)
        return match[1] if match else None
    return None


def _ffmpeg() -> str | None:
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_version())
    except Exception:  # noqa: BLE001 - missing, not executable, for another processor: all mean that there is none
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
        return {"torch_problem": f"{type(error).__name__}: {_without_paths(str(error))}"}


def _gpu(index: int, *, free: bool) -> Gpu:
    import torch

    card = torch.cuda.get_device_properties(index)
    unused = None
    if free:
        with contextlib.suppress(RuntimeError):  # a GPU so full that not even its context fits
            unused = torch.cuda.mem_get_info(index)[0]
    return Gpu(name=card.name, vram_bytes=card.total_memory, free_bytes=unused, capability=(card.major, card.minor))
