"""Judge what is here: what works, what falls short, and what to do about each."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from svdkit.environment.facts import Facts, Gpu, gather
from svdkit.environment.known_bad import KNOWN_BAD, torchvision_clash
from svdkit.units import format_bytes, format_count

_GIB = 1024**3
# fp16 weights of svd-xt: UNet 2.84, image encoder 1.18, VAE 0.18 GiB; the hub also writes while it downloads.
_DOWNLOAD_BYTES = round(4.2 * _GIB)
# Those weights wait in RAM while they are offloaded, beside Python and torch with about 3 GiB.
_RAM_BYTES = 8 * _GIB
# Smallest plan for 25 frames at 576 × 1024: offload, forward chunking, chunk 2 (documented as "below 8 GB").
_VRAM_BYTES = round(7.3 * _GIB)
_NEEDED = ("diffusers", "transformers", "accelerate", "safetensors", "huggingface-hub", "numpy", "pillow")
_TORCH_HELP = "choose yours on https://pytorch.org/get-started/locally/"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing the doctor looked at.

    Attributes:
        name: What was looked at.
        status: ``"ok"``, ``"warn"`` (something will be slow, small or missing) or ``"fail"`` (svdkit cannot work).
        what: What was found.
        cure: What to do about it; empty when nothing needs doing.
    """

    name: str
    status: str
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
    """Judge facts, of this machine or of any other.

    Args:
        facts: What is there.

    Returns:
        Findings in the order in which they should be mended.

    Example:
        >>> judge(Facts())[1].what
        'torch is not installed'
    """
    checks = (_python, _torch, _gpu, _libraries, _torchvision, _known_bad, _ffmpeg, _ram, _disk, _hub)
    return tuple(finding for check in checks for finding in check(facts))


def _python(facts: Facts) -> Iterator[Finding]:
    cores = format_count(facts.cpu_count, "core")
    yield Finding(name="python", status="ok", what=f"Python {facts.python} on {facts.system}, {cores}")


def _torch(facts: Facts) -> Iterator[Finding]:
    version = facts.versions.get("torch")
    if version is None:
        yield Finding(name="torch", status="fail", what="torch is not installed", cure=f"install it: {_TORCH_HELP}")
    elif facts.torch_problem:
        what = f"torch {version} cannot be used: {facts.torch_problem}"
        yield Finding(name="torch", status="fail", what=what, cure=f"install it again: {_TORCH_HELP}")
    else:
        build = f"for CUDA {facts.cuda}" if facts.cuda else "without CUDA"
        yield Finding(name="torch", status="ok", what=f"torch {version}, built {build}")


def _gpu(facts: Facts) -> Iterator[Finding]:
    """Judge each GPU; when there is none, say why svdkit cannot use one."""
    for gpu in facts.gpus:
        status, problem, cure = _judge_gpu(gpu, facts)
        free = "" if gpu.free_bytes is None else f", {format_bytes(gpu.free_bytes)} free"
        driver = f", driver {facts.driver}" if facts.driver else ""
        what = f"{gpu.name}, {format_bytes(gpu.vram_bytes)}{free}{driver}"
        yield Finding(name="gpu", status=status, what=f"{what}: {problem}" if problem else what, cure=cure)
    if facts.gpus or "torch" not in facts.versions or facts.torch_problem:
        return
    if facts.mps:
        yield Finding(name="gpu", status="ok", what="Apple GPU (MPS); svdkit uses fp32 on it")
    else:
        yield Finding(name="gpu", status="warn", **_no_gpu(facts))


def _judge_gpu(gpu: Gpu, facts: Facts) -> tuple[str, str, str]:
    """Give status, problem and cure of one GPU."""
    if not _built_for(gpu, facts.architectures):
        model = f"sm_{gpu.capability[0]}{gpu.capability[1]}"
        cure = f"install a torch that has {model} (a build for CUDA 12.6 has the older ones): {_TORCH_HELP}"
        if facts.host == "kaggle":
            cure = "choose GPU T4 under Settings, Accelerator"
        return "fail", f"this torch has no code for {model}, so the first computation fails", cure
    if gpu.vram_bytes < _VRAM_BYTES:
        need = format_bytes(_VRAM_BYTES)
        return (
            "warn",
            f"svd-xt at its own size needs {need}",
            "make smaller clips (height 320, width 512), or use micro",
        )
    if gpu.free_bytes is not None and gpu.free_bytes < gpu.vram_bytes // 2:
        return "warn", "other programs hold more than half of it", "nvidia-smi lists them; shut down idle notebooks"
    return "ok", "", ""


def _built_for(gpu: Gpu, architectures: tuple[str, ...]) -> bool:
    """Whether torch has code for a GPU: of its generation up to its step, or a portable form of an older one.

    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#binary-compatibility
    """
    built = [(kind, divmod(int(number), 10)) for kind, number in map(_split_architecture, architectures) if number]
    if not built or gpu.capability == (0, 0):
        return True  # AMD, or not asked: nothing to judge by
    return any(step <= gpu.capability and (kind == "compute" or step[0] == gpu.capability[0]) for kind, step in built)


def _split_architecture(name: str) -> tuple[str, str]:
    """Split sm_90a into sm and 90; a gfx name of AMD has no number."""
    match = re.fullmatch(r"(sm|compute)_(\d+)[a-z]?", name)
    return (match[1], match[2]) if match else (name, "")


def _no_gpu(facts: Facts) -> dict[str, str]:
    """Say why there is no GPU, and how to get one."""
    if facts.driver and facts.cuda is None:
        what = f"an NVIDIA driver ({facts.driver}) is here, but this torch is built without CUDA"
        return {"what": what, "cure": f"install torch with CUDA: {_TORCH_HELP}"}
    if facts.driver:
        what = f"an NVIDIA driver ({facts.driver}) is here, but torch for CUDA {facts.cuda} finds no GPU"
        return {
            "what": what,
            "cure": "update the driver; start a container with --gpus all; unset CUDA_VISIBLE_DEVICES",
        }
    cures = {
        "colab": "Runtime, Change runtime type, T4 GPU, for the full models",
        "kaggle": "Settings, Accelerator, GPU T4, for the full models",
    }
    everywhere = "nothing to do for micro; rent or borrow an NVIDIA GPU with 8 GB or more for the full models"
    # 4,174 TFLOP a clip of 25 frames and 25 steps, at well under 1 TFLOP/s.
    what = "no GPU: micro is made for that, the full models would need hours"
    return {"what": what, "cure": cures.get(facts.host or "", everywhere)}


def _libraries(facts: Facts) -> Iterator[Finding]:
    missing = [name for name in _NEEDED if name not in facts.versions]
    if missing:
        what = f"not installed: {', '.join(missing)}"
        yield Finding(name="libraries", status="fail", what=what, cure=f"pip install {' '.join(missing)}")
    else:
        shown = ", ".join(f"{name} {facts.versions[name]}" for name in ("diffusers", "transformers", "accelerate"))
        yield Finding(name="libraries", status="ok", what=shown)


def _torchvision(facts: Facts) -> Iterator[Finding]:
    clash = torchvision_clash(facts.versions)
    if clash:
        cure = "pip uninstall torchvision (svdkit works without it), or install the one that belongs to torch"
        yield Finding(name="torchvision", status="fail", what=f"{clash}; diffusers cannot be imported", cure=cure)


def _known_bad(facts: Facts) -> Iterator[Finding]:
    for bad in KNOWN_BAD:
        version = facts.versions.get(bad.package)
        if version and bad.applies(version, gpu=bool(facts.gpus), cudnn=facts.cudnn):
            what = f"{bad.package} {version} is known to hurt: {bad.harm} ({bad.source})"
            yield Finding(name=bad.package, status="warn", what=what, cure=bad.cure)


def _ffmpeg(facts: Facts) -> Iterator[Finding]:
    if facts.ffmpeg is None:
        cure = "pip install imageio-ffmpeg==0.6.0, or set IMAGEIO_FFMPEG_EXE to an ffmpeg of yours"
        yield Finding(name="ffmpeg", status="fail", what="no ffmpeg: clips cannot be saved as video", cure=cure)
    else:
        yield Finding(name="ffmpeg", status="ok", what=f"ffmpeg {facts.ffmpeg}")


def _ram(facts: Facts) -> Iterator[Finding]:
    if facts.ram_bytes is None:
        return
    free = "" if facts.ram_free_bytes is None else f", {format_bytes(facts.ram_free_bytes)} free"
    what = f"{format_bytes(facts.ram_bytes)} of RAM{free}"
    if min(facts.ram_bytes, facts.ram_free_bytes or facts.ram_bytes) >= _RAM_BYTES:
        yield Finding(name="memory", status="ok", what=what)
    else:
        what = f"{what}: loading the full models takes about {format_bytes(_RAM_BYTES)}"
        yield Finding(name="memory", status="warn", what=what, cure="close other programs and notebooks, or use micro")


def _disk(facts: Facts) -> Iterator[Finding]:
    if facts.disk_free_bytes is None:
        return
    what = f"{format_bytes(facts.disk_free_bytes)} free where the hub's downloads go"
    if facts.disk_free_bytes >= 2 * _DOWNLOAD_BYTES:
        yield Finding(name="disk", status="ok", what=what)
    else:
        what = f"{what}: svd-xt takes {format_bytes(_DOWNLOAD_BYTES)}, and as much again while it downloads"
        cure = "free some space, or set HF_HOME to a folder on a larger disk before Python starts"
        yield Finding(name="disk", status="warn", what=what, cure=cure)


def _hub(facts: Facts) -> Iterator[Finding]:
    parts = ["a token is set" if facts.token else "no token is set, which only svd-xt-1.1 needs"]
    parts += ["a mirror is set"] if facts.mirror else []
    if facts.offline:
        what = "; ".join([*parts, "offline mode is on, so nothing can be downloaded"])
        yield Finding(
            name="hub", status="warn", what=what, cure="unset HF_HUB_OFFLINE unless the models are here already"
        )
    else:
        cure = "" if facts.token else "for svd-xt-1.1: accept its licence on huggingface.co, then run: hf auth login"
        yield Finding(name="hub", status="ok", what="; ".join(parts), cure=cure)
