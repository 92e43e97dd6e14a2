"""From settings to a ready diffusers pipeline, and techniques that are applied and undone by name.

``memory`` (what is here, and which plan fits) and ``techniques`` (on and off) → ``loading``
(all of it, with reasons).
"""

from __future__ import annotations

from svdkit.pipeline.loading import LoadReport, load, report_of
from svdkit.pipeline.techniques import TECHNIQUES, active_techniques, apply_technique, undo_technique

__all__ = ["load", "LoadReport", "report_of", "TECHNIQUES", "apply_technique", "undo_technique", "active_techniques"]
