"""Versions that are known to hurt, with what they do, what to do, and where that is known from."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

Version = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownBad:
    """A range of versions of one package that hurts.

    Attributes:
        package: Its name on PyPI.
        first: First bad version.
        until: First good version after it; None when there is none yet.
        harm: What goes wrong.
        cure: What to do.
        source: Where it is known from.
        on_gpu_only: Whether it matters only with an NVIDIA GPU.
        cured_by_cudnn: cuDNN version, as torch tells it, from which on it does not matter.
    """

    package: str
    first: Version
    until: Version | None
    harm: str
    cure: str
    source: str
    on_gpu_only: bool = False
    cured_by_cudnn: int | None = None

    def applies(self, version: str, *, gpu: bool, cudnn: int | None) -> bool:
        """Tell whether an installation is hurt.

        Args:
            version: Installed version of the package.
            gpu: Whether torch can use an NVIDIA GPU.
            cudnn: Its cuDNN version, 91500 for 9.15.0.

        Returns:
            Whether it is.

        Example:
            >>> KNOWN_BAD[0].applies("2.9.0+cu128", gpu=True, cudnn=91002)
            True
        """
        found = numbers(version)
        in_range = self.first <= found and (self.until is None or found < self.until)
        cured = self.cured_by_cudnn is not None and cudnn is not None and cudnn >= self.cured_by_cudnn
        return in_range and not cured and (gpu or not self.on_gpu_only)


_CONV3D = "convolutions over time are about four times slower in half precision"
_CONV3D_SOURCE = "https://github.com/pytorch/pytorch/issues/166122"

KNOWN_BAD = (
    KnownBad(
        package="torch",
        first=(2, 9, 0),
        until=(2, 9, 1),
        harm=_CONV3D,
        cure="install torch 2.10 or later, or 2.8",
        source=_CONV3D_SOURCE,
        on_gpu_only=True,
    ),
    KnownBad(
        package="torch",
        first=(2, 9, 1),
        until=(2, 10),
        harm=f"{_CONV3D} with its own cuDNN",
        cure="install cuDNN 9.15 or later (pip install -U nvidia-cudnn-cu12), or torch 2.10 or later",
        source=_CONV3D_SOURCE,
        on_gpu_only=True,
        cured_by_cudnn=91500,
    ),
    KnownBad(
        package="imageio-ffmpeg",
        first=(0, 8, 1),
        until=None,
        harm="it brings ffmpeg 9, which has no -vsync any more: mediapy.read_video fails",
        cure="pip install imageio-ffmpeg==0.6.0",
        source="https://ffmpeg.org/ffmpeg.html",
    ),
    KnownBad(
        package="diffusers",
        first=(0,),
        until=(0, 35),
        harm="it lacks group offload and fp8 storage, and before 0.32 sizes off a multiple of 64 fail",
        cure="pip install -U diffusers",
        source="https://github.com/huggingface/diffusers/releases",
    ),
)


def numbers(version: str) -> Version:
    """Read the release numbers of a version, without what follows them.

    Args:
        version: As a package tells it.

    Returns:
        Its leading numbers; empty when it has none.

    Example:
        >>> numbers("2.13.0+cu128")
        (2, 13, 0)
    """
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def torchvision_clash(versions: Mapping[str, str]) -> str | None:
    """Tell what is wrong between torch and torchvision, which load each other's compiled code.

    torchvision 0.(n + 15) belongs to torch 2.n (https://github.com/pytorch/vision#installation), and both must be
    built for the same CUDA. A mismatch breaks the import of diffusers' pipelines; without torchvision they work.

    Args:
        versions: Package to version.

    Returns:
        What is wrong, or None.

    Example:
        >>> torchvision_clash({"torch": "2.9.0", "torchvision": "0.23.0"})
        'torchvision 0.23.0 does not belong to torch 2.9.0, but 0.24 does'
    """
    torch, vision = versions.get("torch", ""), versions.get("torchvision", "")
    if len(numbers(torch)) < 2 or len(numbers(vision)) < 2 or numbers(torch)[0] != 2:
        return None
    wanted = (0, numbers(torch)[1] + 15)
    if numbers(vision)[:2] != wanted:
        return f"torchvision {vision} does not belong to torch {torch}, but {wanted[0]}.{wanted[1]} does"
    builds = [version.partition("+")[2] for version in (torch, vision)]
    if all(builds) and builds[0] != builds[1]:
        return f"torchvision {vision} and torch {torch} are built for different devices"
    return None
