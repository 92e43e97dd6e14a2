"""What is saved beside every clip, so that a result can be understood and repeated."""

from __future__ import annotations

import sys
from typing import Any

from svdkit.environment.facts import gather


def summary(*, gpu: bool | None = None) -> dict[str, Any]:
    """Describe this machine and the versions in use, for provenance and tables.

    It holds no user name, host name, path or token.

    Args:
        gpu: Ask torch about the GPU. None asks only if torch is imported already, so that this stays quick; True
            imports it.

    Returns:
        Plain JSON: ``python``, ``platform``, ``notebook``, ``cpu``, ``cpu_count``, ``ram_bytes``; ``gpu``,
        ``gpu_count``, ``vram_bytes`` (of the first), ``driver``, ``cuda``, ``cudnn``; the version of each
        package that is installed; ``ffmpeg``. None where it is not known, or torch was not asked.

    Example:
        >>> summary()["notebook"]
        'terminal'
    """
    facts = gather(ask_torch="torch" in sys.modules if gpu is None else gpu)
    first = facts.gpus[0] if facts.gpus else None
    return {
        "python": facts.python,
        "platform": facts.system,
        "notebook": facts.notebook,
        "cpu": facts.cpu,
        "cpu_count": facts.cpu_count,
        "ram_bytes": facts.ram_bytes,
        "gpu": first.name if first else "Apple GPU (MPS)" if facts.mps else None,
        "gpu_count": len(facts.gpus),
        "vram_bytes": first.vram_bytes if first else None,
        "driver": facts.driver,
        "cuda": facts.cuda,
        "cudnn": facts.cudnn,
        "ffmpeg": facts.ffmpeg,
        **facts.versions,
    }
