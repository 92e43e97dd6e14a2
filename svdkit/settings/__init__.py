"""What needs a reload, what a call can change, and what other tools really send; all frozen and checked when built."""

from __future__ import annotations

from svdkit.settings.clip import (
    ClipSettings,
    Conditioning,
    LoadSettings,
    choose_decode_chunk_size,
    clip_preset,
    presets,
)

__all__ = ["LoadSettings", "ClipSettings", "Conditioning", "choose_decode_chunk_size", "clip_preset", "presets"]
