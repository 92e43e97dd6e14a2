"""Sliders and buttons around the functions of svdkit, for notebooks and as a web page.

``words`` (all texts) and ``parts`` (widgets that work on ipywidgets 7 and 8) → ``photo_form``, ``settings_form``,
``outlook`` (forecast), ``results`` (clips) and ``run`` (start, stop, progress) → ``panel`` → ``show`` (what a notebook
calls). Clips are made by a ``studio``, here or, over ``wire``, in the process that all tabs of ``svdkit app`` share.
"""

from __future__ import annotations

from svdkit.ui.panel import Panel
from svdkit.ui.show import panel

__all__ = ["panel", "Panel"]
