"""Hardware, versions, platform: facts about this machine, and the doctor, who says what to do about them."""

from __future__ import annotations

import collections
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from svdkit.units import format_bytes, format_count

# What svdkit's results depend on, by their names on PyPI.
_PACKAGES = (
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
    versions = {name: version for name in _PACKAGES if (version := _version(name))}
    home = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")  # noqa: PTH111 - never raises
    total, free = _ram()
    return Facts(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpu=_cpu(),
        cpu_count=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        ram_bytes=total,
        ram_free_bytes=free,
        versions=versions,
        driver=_driver(),
        disk_free_bytes=_disk_free(Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub")),
        token=bool(os.environ.get("HF_TOKEN", "").strip()) or Path(home, "token").is_file(),
        offline=os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"},
        **_ffmpeg(ask=ask_free),
        **(_ask_torch(free=ask_free) if ask_torch and "torch" in versions else {}),
    )


def summary(*, gpu: bool | None = None, device: str = "auto") -> dict[str, Any]:
    """Describe this machine and the versions in use, for provenance and tables: no user, host, path or token."""
    facts = gather(ask_torch="torch" in sys.modules if gpu is None else gpu)
    kind, _, number = device.partition(":")
    used = () if kind in {"cpu", "mps"} else facts.gpus[int(number or 0) :]
    same = ("python", "cpu", "cpu_count", "ram_bytes", "driver", "cuda", "cudnn", "ffmpeg")
    return {
        **{name: getattr(facts, name) for name in same},
        "platform": facts.system,
        "notebook": notebook_kind(),
        "gpu": used[0].name if used else "Apple GPU (MPS)" if facts.mps and kind != "cpu" else None,
        "gpu_count": len(facts.gpus),
        "vram_bytes": used[0].vram_bytes if used else None,
        **facts.versions,
    }


def machine(device: str = "auto") -> dict[str, Any]:
    """``summary``, gathered once a device: it does not change while Python runs, unless torch is imported."""
    return dict(_summary(gpu="torch" in sys.modules, device=device))


_summary = functools.cache(summary)


def notebook_kind() -> str:
    """Tell what shows our output; IPython is not imported for it.

    A script that a notebook starts (``!svdkit demo``) is in a terminal, on Colab too: it cannot draw in the cell.
    """
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    if not hasattr(get_shell() if get_shell else None, "kernel"):
        return "terminal"
    hosts = {"COLAB_RELEASE_TAG": "colab", "KAGGLE_KERNEL_RUN_TYPE": "kaggle"}
    return next((host for variable, host in hosts.items() if variable in os.environ), "jupyter")


def _version(package: str) -> str | None:
    """Version of what is installed; None too where pip was killed half-way."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _cpu() -> str | None:
    with contextlib.suppress(OSError):
        if match := re.search(r"(?m)^model name\s*:\s*(.*\S)", Path("/proc/cpuinfo").read_text(errors="replace")):
            return match[1]
    return platform.processor() or None


def free_ram() -> int:
    """Bytes of main memory that this process may still take: of a machine, or of the container it runs in."""
    return _ram()[1]


def _ram() -> tuple[int, int]:
    """Total and available memory, or what a container may have of it.

    cgroup 2 or 1 counts a container's; files the kernel could drop at once are not in use.
    """
    import psutil

    memory = psutil.virtual_memory()
    totals, free = [memory.total], [memory.available]
    for folder, limit, used, cache in (
        ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):  # not there; "max"
            size, taken = (int(Path(folder, name).read_text()) for name in (limit, used))
            stat = dict(line.split() for line in Path(folder, "memory.stat").read_text().splitlines())
            totals.append(size)
            free.append(size - taken + int(stat.get(cache, 0)))
    return min(totals), min(free)


@functools.cache  # nvidia-smi takes a while, and the panel asks at each move of a slider
def _driver() -> str | None:
    """Version of the NVIDIA driver: Linux tells it in a file, Windows, and Linux inside of it, by nvidia-smi."""
    text = ""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(errors="replace")
    except OSError:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]  # wherever it is
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    match = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", text)
    return match[0] if match else None


def _ffmpeg(*, ask: bool) -> dict[str, Any]:
    """Version of ffmpeg, and, asked for, the suffixes of clips that it cannot save."""
    found: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # missing, not executable, for another processor: all mean that there is none
        import imageio_ffmpeg

        found["ffmpeg"] = str(imageio_ffmpeg.get_ffmpeg_version())
        if ask:
            command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-encoders"]
            known = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()
            found["ffmpeg_lacks"] = tuple(suffix for suffix, encoder in ENCODERS.items() if encoder not in known)
    return found


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
            gpus = []
            for index in range(torch.cuda.device_count()):
                card, unused = torch.cuda.get_device_properties(index), 0 if free else None
                if free:
                    with contextlib.suppress(RuntimeError):  # so full that not even its context fits
                        unused = torch.cuda.mem_get_info(index)[0]
                gpus.append(Gpu(card.name, card.total_memory, unused, (card.major, card.minor)))
            return {
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),
                "architectures": tuple(torch.cuda.get_arch_list()),
                "gpus": tuple(gpus),
                "mps": bool(torch.backends.mps.is_available()),
            }
    except Exception as error:  # noqa: BLE001 - see above
        reason = str(error).partition("\n")[0].replace(os.path.expanduser("~/"), "~/")  # noqa: PTH111 - never raises
        return {"torch_problem": f"{type(error).__name__}: {reason}"}


_GIB = 1024**3
# fp16 weights of svd-xt: UNet 2.84, image encoder 1.18, VAE 0.18 GiB; the hub also writes while it downloads.
_DOWNLOAD_BYTES = round(4.2 * _GIB)
# Those weights wait in RAM while they are offloaded, beside Python and torch with about 3 GiB.
_RAM_BYTES = 8 * _GIB
# Smallest plan for 25 frames at 576 × 1024: offload, forward chunking, chunk 2 (documented as "below 8 GB").
_VRAM_BYTES = round(7.3 * _GIB)
_NEEDED = ("diffusers", "transformers", "accelerate", "safetensors", "huggingface-hub", "numpy", "pillow")
_TORCH_HELP = "choose yours on https://pytorch.org/get-started/locally/"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing the doctor looked at, and what to do about it; the cure is empty when nothing needs doing."""

    name: str
    status: str  # "ok", "warn" (something will be slow, small or missing) or "fail" (svdkit cannot work)
    what: str
    cure: str = ""


def doctor() -> tuple[Finding, ...]:
    """Look at this machine and say what works, what does not, and what to do.

    It imports torch and asks the GPU for its free memory, so it takes seconds.

    Returns:
        Findings in the order in which they should be mended.

    Example:
        >>> [finding.name for finding in doctor() if finding.status == "fail"]
        []
    """
    return judge(gather(ask_torch=True, ask_free=True))


def default_model() -> str:
    """Name the full model where a GPU here can hold it, else micro; without a driver torch is not imported for it."""
    facts = gather(ask_torch=True) if _driver() else Facts()
    fits = [
        gpu.vram_bytes >= _VRAM_BYTES and not lacking_code(gpu.capability, facts.architectures) for gpu in facts.gpus
    ]
    return "svd-xt" if any(fits) else "micro"


def judge(facts: Facts) -> tuple[Finding, ...]:
    """Judge facts, of this machine or of any other."""
    cores = format_count(facts.cpu_count, "core")
    python = Finding("python", "ok", f"Python {facts.python} on {facts.system}, {cores}")
    checks = (_torch, _gpus, _libraries, _known_bad, _resources)
    return (python, *(finding for check in checks for finding in check(facts)))


def _judged(name: str, what: str, *problems: tuple[object, str, str, str]) -> Finding:
    """Say what is there and the first problem that it has: whether it has it, status, words, cure."""
    for has_it, status, words, cure in problems:
        if has_it:
            return Finding(name, status, f"{what}: {words}", cure)
    return Finding(name, "ok", what)


def _torch(facts: Facts) -> Iterator[Finding]:
    version = facts.versions.get("torch")
    if version is None:
        yield Finding("torch", "fail", "torch is not installed", f"install it: {_TORCH_HELP}")
    elif facts.torch_problem:
        what = f"torch {version} cannot be used: {facts.torch_problem}"
        yield Finding("torch", "fail", what, f"install it again: {_TORCH_HELP}")
    else:
        yield Finding(
            "torch", "ok", f"torch {version}, built {f'for CUDA {facts.cuda}' if facts.cuda else 'without CUDA'}"
        )


def _gpus(facts: Facts) -> Iterator[Finding]:
    driver = f", driver {facts.driver}" if facts.driver else ""
    for gpu in facts.gpus:
        unused = gpu.vram_bytes if gpu.free_bytes is None else gpu.free_bytes
        free = "" if gpu.free_bytes is None else f", {format_bytes(unused)} free"
        lack, cure = lacking_code(gpu.capability, facts.architectures) or ("", "")
        needs = f"svd-xt at its own size needs {format_bytes(_VRAM_BYTES)}"
        others = "other programs hold more than half of it"
        yield _judged(
            "gpu",
            f"{gpu.name}, {format_bytes(gpu.vram_bytes)}{free}{driver}",
            (lack, "fail", f"{lack}, so the first computation fails", cure),
            (gpu.vram_bytes < _VRAM_BYTES, "warn", needs, "make smaller clips (height 320, width 512), or use micro"),
            (unused < gpu.vram_bytes // 2, "warn", others, "nvidia-smi lists them; shut down idle notebooks"),
        )
    if facts.mps:
        yield Finding("gpu", "ok", "Apple GPU (MPS); svdkit uses fp32 on it")
    elif not facts.gpus and "torch" in facts.versions and not facts.torch_problem:
        yield Finding("gpu", "warn", *_no_gpu(facts))


def _no_gpu(facts: Facts) -> tuple[str, str]:
    here = f"an NVIDIA driver ({facts.driver}) is here, but"
    if facts.driver and facts.cuda is None:
        return f"{here} this torch is built without CUDA", f"install torch with CUDA: {_TORCH_HELP}"
    if facts.driver:
        cure = "update the driver; start a container with --gpus all; unset CUDA_VISIBLE_DEVICES"
        return f"{here} torch for CUDA {facts.cuda} finds no GPU", cure
    # 4,174 TFLOP a clip of 25 frames and 25 steps, at well under 1 TFLOP/s.
    return "no GPU: micro is made for that, the full models would need hours", (
        "nothing to do for micro; for the full models choose a GPU (Colab: Runtime, Change runtime type; Kaggle: "
        "Settings, Accelerator), or rent an NVIDIA one with 8 GB or more"
    )


def lacking_code(capability: tuple[int, int], architectures: Sequence[str]) -> tuple[str, str] | None:
    """Say that torch has no code for a GPU, and the cure; None if it has.

    Code runs on its own generation from its step on; a portable form of it on all later ones too:
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#binary-compatibility. For AMD there is nothing to judge by.
    """
    names = re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(architectures))
    built = [(kind, (int(major), int(minor))) for kind, major, minor in names]
    if not built or any(code <= capability and (kind == "compute" or code[0] == capability[0]) for kind, code in built):
        return None
    model = f"sm_{capability[0]}{capability[1]}"
    # CUDA 12.8 is the first with Blackwell (https://github.com/pytorch/pytorch/issues/150733), and 13 has no Volta.
    builds = "12.8 or later" if capability >= (10, 0) else "12.6"
    kaggle = "on Kaggle choose GPU T4; else " if capability < (7, 0) else ""
    cure = f"{kaggle}install a torch that has {model}, as builds for CUDA {builds} do: {_TORCH_HELP}"
    return f"this torch has no code for {model}", cure


def _libraries(facts: Facts) -> Iterator[Finding]:
    if missing := [name for name in _NEEDED if name not in facts.versions]:
        yield Finding("libraries", "fail", f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    else:
        shown = ", ".join(f"{name} {facts.versions[name]}" for name in ("diffusers", "transformers", "accelerate"))
        yield Finding("libraries", "ok", shown)


def _known_bad(facts: Facts) -> Iterator[Finding]:
    """Versions that hurt, with where that is known from."""
    has = collections.defaultdict(str, facts.versions)
    names = ("torch", "torchvision", "transformers", "imageio-ffmpeg", "diffusers")
    # (2, 13, 0) of 2.13.0+cu128, none of what is not there
    torch, vision, transformers, ffmpeg, diffusers = (
        tuple(map(int, re.findall(r"\d+", has[name].partition("+")[0]))) for name in names
    )
    clash = ""
    if vision and torch[:1] == (2,) and len(torch) > 1:
        # 0.(n + 15) belongs to torch 2.n (https://github.com/pytorch/vision#installation), built for the same CUDA.
        builds = {has[name].partition("+")[2] for name in names[:2]} - {""}
        if vision[:2] != (0, torch[1] + 15):
            clash = f"{has['torchvision']} does not belong to torch {has['torch']}, but 0.{torch[1] + 15} does"
        elif len(builds) == 2:
            clash = f"{has['torchvision']} and torch {has['torch']} are built for different devices"
    if clash:
        cure = "pip uninstall torchvision (svdkit works without it), or install the one that belongs to torch"
        yield Finding("torchvision", "fail", f"torchvision {clash}; diffusers cannot be imported", cure)
    if () < torch < (2, 6) and transformers >= (5,):
        what = f"transformers {has['transformers']} needs torch 2.6, not {has['torch']}: no model can be loaded"
        cure = f"install torch 2.6 or later ({_TORCH_HELP}), or pip install 'transformers<5'"
        yield Finding("torch", "fail", what, cure)
    cudnn_cures = torch >= (2, 9, 1) and (facts.cudnn or 0) >= 91500  # 2.9.0 does not look at cuDNN at all
    if facts.gpus and (2, 9) <= torch < (2, 10) and not cudnn_cures:
        harm = "convolutions over time are about four times slower in half precision"
        what = f"torch {has['torch']} is known to hurt: {harm} (https://github.com/pytorch/pytorch/issues/166122)"
        cure = "install torch 2.10 or later, or for 2.9.1 cuDNN 9.15 or later (pip install -U nvidia-cudnn-cu12)"
        yield Finding("torch", "warn", what, cure)
    if ffmpeg >= (0, 8, 1):
        what = f"imageio-ffmpeg {has['imageio-ffmpeg']} brings ffmpeg 9: mediapy.read_video fails with it"
        yield Finding("imageio-ffmpeg", "warn", what, "pip install imageio-ffmpeg==0.6.0")
    if () < diffusers < (0, 37, 1):
        what = f"diffusers {has['diffusers']} is too old: group offload fails with SVD's layers in slices"
        yield Finding("diffusers", "warn", what, "pip install -U diffusers")


def _resources(facts: Facts) -> Iterator[Finding]:
    """What clips, models and their downloads need beside a GPU."""
    lacks = ", ".join(f"no {ENCODERS[suffix]} for {suffix}" for suffix in facts.ffmpeg_lacks)
    if facts.ffmpeg and not lacks:
        yield Finding("ffmpeg", "ok", f"ffmpeg {facts.ffmpeg}")
    else:
        what = f"ffmpeg {facts.ffmpeg} has {lacks}: such clips" if facts.ffmpeg else "no ffmpeg: clips"
        cure = "pip install imageio-ffmpeg==0.6.0, or set IMAGEIO_FFMPEG_EXE to a complete ffmpeg of yours"
        yield Finding("ffmpeg", "fail", f"{what} cannot be saved as video", cure)
    if facts.ram_bytes is not None and facts.ram_free_bytes is not None:
        what = f"{format_bytes(facts.ram_bytes)} of RAM, {format_bytes(facts.ram_free_bytes)} free"
        needs = f"loading the full models takes about {format_bytes(_RAM_BYTES)}"
        cure = "close other programs and notebooks, or use micro"
        yield _judged("memory", what, (facts.ram_free_bytes < _RAM_BYTES, "warn", needs, cure))
    if facts.disk_free_bytes is not None:
        what = f"{format_bytes(facts.disk_free_bytes)} free where the hub's downloads go"
        needs = f"svd-xt takes {format_bytes(_DOWNLOAD_BYTES)}, and as much again while it downloads"
        cure = "free some space, or set HF_HOME to a folder on a larger disk before Python starts"
        yield _judged("disk", what, (facts.disk_free_bytes < 2 * _DOWNLOAD_BYTES, "warn", needs, cure))
    token = "a token is set" if facts.token else "no token is set, which only svd-xt-1.1 needs"
    cure = "" if facts.token else "for svd-xt-1.1: accept its licence on huggingface.co, then run: hf auth login"
    if facts.offline:
        token = f"{token}; offline mode is on, so nothing can be downloaded"
        cure = "unset HF_HUB_OFFLINE unless the models are here already"
    yield Finding("hub", "warn" if facts.offline else "ok", token, cure)
