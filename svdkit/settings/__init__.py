"""What a load needs, what a call can change, and what other tools really send.

:class:`LoadSettings` is what needs a reload (model, dtype, memory plan); :class:`ClipSettings` is what a
call can change, under diffusers' names. Both are frozen, checked when built, and plain JSON both ways.
"""

from __future__ import annotations

from svdkit.settings.clip import ClipSettings, Conditioning, choose_decode_chunk_size
from svdkit.settings.load import LoadSettings
from svdkit.settings.presets import clip_preset, presets

__all__ = ["LoadSettings", "ClipSettings", "Conditioning", "choose_decode_chunk_size", "clip_preset", "presets"]
