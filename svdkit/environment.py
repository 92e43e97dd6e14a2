"""Hardware, versions, platform: facts about this machine, and the doctor, who says what to do about them."""

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
    versions = _versions()
    home = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")  # noqa: PTH111 - never raises
    return Facts(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpu=_cpu(),
        cpu_count=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        versions=versions,
        driver=_driver(),
        ffmpeg=_ffmpeg_version(),
        ffmpeg_lacks=_ffmpeg_lacks() if ask_free else (),
        disk_free_bytes=_disk_free(Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub")),
        token=bool(os.environ.get("HF_TOKEN", "").strip()) or Path(home, "token").is_file(),
        offline=os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"},
        **_ram_bytes(),
        **(_ask_torch(free=ask_free) if ask_torch and "torch" in versions else {}),
    )


def summary(*, gpu: bool | None = None, device: str = "auto") -> dict[str, Any]:
    """Describe this machine and the versions in use, for provenance and tables: no user, host, path or token."""
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


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return {name: version for name, version in found.items() if version}  # None where pip was killed half-way


def _cpu() -> str | None:
    with contextlib.suppress(OSError, IndexError):
        text = Path("/proc/cpuinfo").read_text(errors="replace")
        return str(re.findall(r"(?m)^model name\s*:\s*(.*\S)", text)[0])
    return platform.processor() or None


def free_ram() -> int:
    """Bytes of main memory that this process may still take: of a machine, or of the container it runs in."""
    import psutil

    return int(min([psutil.virtual_memory().available, *(limit - used for limit, used in _containers())]))


def _ram_bytes() -> dict[str, Any]:
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


def _ffmpeg_version() -> str | None:
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
                "gpus": tuple(_gpu_facts(index, free=free) for index in range(torch.cuda.device_count())),
                "mps": bool(torch.backends.mps.is_available()),
            }
    except Exception as error:  # noqa: BLE001 - see above
        reason = str(error).partition("\n")[0].replace(os.path.expanduser("~/"), "~/")  # noqa: PTH111 - never raises
        return {"torch_problem": f"{type(error).__name__}: {reason}"}


def _gpu_facts(index: int, *, free: bool) -> Gpu:
    import torch

    card = torch.cuda.get_device_properties(index)
    try:
        unused = torch.cuda.mem_get_info(index)[0] if free else None
    except RuntimeError:  # so full that not even its context fits
        unused = 0
    return Gpu(card.name, card.total_memory, unused, (card.major, card.minor))


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


def judge(facts: Facts) -> tuple[Finding, ...]:
    """Judge facts, of this machine or of any other."""
    checks = (_torch, _gpu, _libraries, _torchvision, _known_bad, _ffmpeg, _ram, _disk, _hub)
    cores = format_count(facts.cpu_count, "core")
    python = Finding("python", "ok", f"Python {facts.python} on {facts.system}, {cores}")
    return (python, *(finding for check in checks for finding in check(facts)))


def _torch(facts: Facts) -> Iterator[Finding]:
    version = facts.versions.get("torch")
    if version is None:
        yield Finding("torch", "fail", "torch is not installed", f"install it: {_TORCH_HELP}")
    elif facts.torch_problem:
        what = f"torch {version} cannot be used: {facts.torch_problem}"
        yield Finding("torch", "fail", what, f"install it again: {_TORCH_HELP}")
    else:
        build = f"for CUDA {facts.cuda}" if facts.cuda else "without CUDA"
        yield Finding("torch", "ok", f"torch {version}, built {build}")


def _gpu(facts: Facts) -> Iterator[Finding]:
    for gpu in facts.gpus:
        status, problem, cure = _judge_gpu(gpu, facts)
        free = "" if gpu.free_bytes is None else f", {format_bytes(gpu.free_bytes)} free"
        driver = f", driver {facts.driver}" if facts.driver else ""
        what = f"{gpu.name}, {format_bytes(gpu.vram_bytes)}{free}{driver}"
        yield Finding("gpu", status, f"{what}: {problem}" if problem else what, cure)
    if facts.mps:
        yield Finding("gpu", "ok", "Apple GPU (MPS); svdkit uses fp32 on it")
    elif not facts.gpus and "torch" in facts.versions and not facts.torch_problem:
        yield _no_gpu(facts)


def _judge_gpu(gpu: Gpu, facts: Facts) -> tuple[str, str, str]:
    if lack := lacking_code(gpu.capability, facts.architectures):
        problem, cure = lack
        return "fail", f"{problem}, so the first computation fails", cure
    if gpu.vram_bytes < _VRAM_BYTES:
        problem = f"svd-xt at its own size needs {format_bytes(_VRAM_BYTES)}"
        return "warn", problem, "make smaller clips (height 320, width 512), or use micro"
    if gpu.free_bytes is not None and gpu.free_bytes < gpu.vram_bytes // 2:
        return "warn", "other programs hold more than half of it", "nvidia-smi lists them; shut down idle notebooks"
    return "ok", "", ""


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


def _no_gpu(facts: Facts) -> Finding:
    driver = f"an NVIDIA driver ({facts.driver}) is here, but"
    if facts.driver and facts.cuda is None:
        what = f"{driver} this torch is built without CUDA"
        cure = f"install torch with CUDA: {_TORCH_HELP}"
    elif facts.driver:
        what = f"{driver} torch for CUDA {facts.cuda} finds no GPU"
        cure = "update the driver; start a container with --gpus all; unset CUDA_VISIBLE_DEVICES"
    else:
        # 4,174 TFLOP a clip of 25 frames and 25 steps, at well under 1 TFLOP/s.
        what = "no GPU: micro is made for that, the full models would need hours"
        cure = (
            "nothing to do for micro; for the full models choose a GPU (Colab: Runtime, Change runtime type; Kaggle: "
            "Settings, Accelerator), or rent an NVIDIA one with 8 GB or more"
        )
    return Finding("gpu", "warn", what, cure)


def _libraries(facts: Facts) -> Iterator[Finding]:
    if missing := [name for name in _NEEDED if name not in facts.versions]:
        yield Finding("libraries", "fail", f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    else:
        shown = ", ".join(f"{name} {facts.versions[name]}" for name in ("diffusers", "transformers", "accelerate"))
        yield Finding("libraries", "ok", shown)


def _release(facts: Facts, package: str) -> tuple[int, ...]:
    """Numbers of an installed version: (2, 13, 0) of 2.13.0+cu128, none of what is not there."""
    match = re.match(r"\d+(\.\d+)*", facts.versions.get(package, ""))
    return tuple(map(int, match[0].split("."))) if match else ()


def _torchvision(facts: Facts) -> Iterator[Finding]:
    """0.(n + 15) belongs to torch 2.n (https://github.com/pytorch/vision#installation), built for the same CUDA."""
    torch, vision = facts.versions.get("torch", ""), facts.versions.get("torchvision", "")
    release = _release(facts, "torch")[:2]
    if not vision or release[:1] != (2,) or len(release) < 2:
        return
    builds = {version.partition("+")[2] for version in (torch, vision)} - {""}
    if _release(facts, "torchvision")[:2] != (0, release[1] + 15):
        what = f"torchvision {vision} does not belong to torch {torch}, but 0.{release[1] + 15} does"
    elif len(builds) == 2:
        what = f"torchvision {vision} and torch {torch} are built for different devices"
    else:
        return
    cure = "pip uninstall torchvision (svdkit works without it), or install the one that belongs to torch"
    yield Finding("torchvision", "fail", f"{what}; diffusers cannot be imported", cure)


def _known_bad(facts: Facts) -> Iterator[Finding]:
    """Versions that hurt, with where that is known from."""
    torch, ffmpeg, diffusers = (_release(facts, name) for name in ("torch", "imageio-ffmpeg", "diffusers"))
    if () < torch < (2, 6) and _release(facts, "transformers") >= (5,):
        what = f"transformers {facts.versions['transformers']} needs torch 2.6, not {facts.versions['torch']}"
        cure = f"install torch 2.6 or later ({_TORCH_HELP}), or pip install 'transformers<5'"
        yield Finding("torch", "fail", f"{what}: no model can be loaded", cure)
    cudnn_cures = torch >= (2, 9, 1) and (facts.cudnn or 0) >= 91500  # 2.9.0 does not look at cuDNN at all
    if facts.gpus and (2, 9) <= torch < (2, 10) and not cudnn_cures:
        harm = "convolutions over time are about four times slower in half precision"
        source = "https://github.com/pytorch/pytorch/issues/166122"
        cure = "install torch 2.10 or later, or for 2.9.1 cuDNN 9.15 or later (pip install -U nvidia-cudnn-cu12)"
        yield Finding("torch", "warn", f"torch {facts.versions['torch']} is known to hurt: {harm} ({source})", cure)
    if ffmpeg >= (0, 8, 1):
        what = f"imageio-ffmpeg {facts.versions['imageio-ffmpeg']} brings ffmpeg 9: mediapy.read_video fails with it"
        yield Finding("imageio-ffmpeg", "warn", what, "pip install imageio-ffmpeg==0.6.0")
    if () < diffusers < (0, 37, 1):
        what = f"diffusers {facts.versions['diffusers']} is too old: group offload fails with SVD's layers in slices"
        yield Finding("diffusers", "warn", what, "pip install -U diffusers")


def _ffmpeg(facts: Facts) -> Iterator[Finding]:
    lacks = ", ".join(f"no {ENCODERS[suffix]} for {suffix}" for suffix in facts.ffmpeg_lacks)
    if facts.ffmpeg and not lacks:
        yield Finding("ffmpeg", "ok", f"ffmpeg {facts.ffmpeg}")
    else:
        what = f"ffmpeg {facts.ffmpeg} has {lacks}: such clips" if facts.ffmpeg else "no ffmpeg: clips"
        cure = "pip install imageio-ffmpeg==0.6.0, or set IMAGEIO_FFMPEG_EXE to a complete ffmpeg of yours"
        yield Finding("ffmpeg", "fail", f"{what} cannot be saved as video", cure)


def _ram(facts: Facts) -> Iterator[Finding]:
    if facts.ram_bytes is None or facts.ram_free_bytes is None:
        return
    what = f"{format_bytes(facts.ram_bytes)} of RAM, {format_bytes(facts.ram_free_bytes)} free"
    if facts.ram_free_bytes < _RAM_BYTES:
        what = f"{what}: loading the full models takes about {format_bytes(_RAM_BYTES)}"
        yield Finding("memory", "warn", what, "close other programs and notebooks, or use micro")
    else:
        yield Finding("memory", "ok", what)


def _disk(facts: Facts) -> Iterator[Finding]:
    if facts.disk_free_bytes is None:
        return
    what = f"{format_bytes(facts.disk_free_bytes)} free where the hub's downloads go"
    if facts.disk_free_bytes >= 2 * _DOWNLOAD_BYTES:
        yield Finding("disk", "ok", what)
    else:
        what = f"{what}: svd-xt takes {format_bytes(_DOWNLOAD_BYTES)}, and as much again while it downloads"
        cure = "free some space, or set HF_HOME to a folder on a larger disk before Python starts"
        yield Finding("disk", "warn", what, cure)


def _hub(facts: Facts) -> Iterator[Finding]:
    token = "a token is set" if facts.token else "no token is set, which only svd-xt-1.1 needs"
    cure = "" if facts.token else "for svd-xt-1.1: accept its licence on huggingface.co, then run: hf auth login"
    if facts.offline:
        what = f"{token}; offline mode is on, so nothing can be downloaded"
        yield Finding("hub", "warn", what, "unset HF_HUB_OFFLINE unless the models are here already")
    else:
        yield Finding("hub", "ok", token, cure)
