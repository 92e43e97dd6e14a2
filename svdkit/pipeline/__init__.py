"""From settings to a ready diffusers pipeline, and techniques that are applied and undone by name.

``memory`` (which plan fits, pure arithmetic) and ``device`` (what is here) → ``techniques`` (on and off) →
``loading`` (all of it, with reasons). ``report`` is what a load leaves at ``pipe.svdkit``.
"""

from __future__ import annotations

from svdkit.pipeline.loading import load
from svdkit.pipeline.memory import MemoryChoice, Need, Rung, choose_memory
from svdkit.pipeline.report import LoadReport
from svdkit.pipeline.techniques import TECHNIQUES, active_techniques, apply_technique, undo_technique

__all__ = [
    "load",
    "LoadReport",
    "choose_memory",
    "Need",
    "Rung",
    "MemoryChoice",
    "TECHNIQUES",
    "apply_technique",
    "undo_technique",
    "active_techniques",
]
