"""A clip: its frames, how fast they play, where they come from; its files and its look in a notebook.

The files follow the data: ``provenance`` (what made the clip, as JSON), ``stills`` and ``video`` (frames to bytes and
back), ``files`` (bytes to disk, all or nothing), ``display`` (frames as HTML and on a sheet), ``clip`` (the object).
"""

from __future__ import annotations

from svdkit.clip.clip import Clip, SideBySide, side_by_side
from svdkit.clip.provenance import Provenance

__all__ = ["Provenance", "Clip", "side_by_side", "SideBySide"]
