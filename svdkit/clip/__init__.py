"""A clip: its frames, how fast they play, where they come from; its files and its look in a notebook."""

from __future__ import annotations

from svdkit.clip.clip import Clip, side_by_side
from svdkit.clip.provenance import Provenance

__all__ = ["Provenance", "Clip", "side_by_side"]
