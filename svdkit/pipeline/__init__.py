"""From settings to a ready diffusers pipeline, and techniques that are applied and undone by name.

``memory`` (which plan fits, pure arithmetic), ``device`` (what is here) and ``techniques`` (on and off) → ``loading``
(all of it, with reasons).
"""

from __future__ import annotations

from svdkit.pipeline.loading import LoadReport, load
from svdkit.pipeline.techniques import TECHNIQUES, active_techniques, apply_technique, undo_technique

__all__ = ["load", "LoadReport", "TECHNIQUES", "apply_technique", "undo_technique", "active_techniques"]
