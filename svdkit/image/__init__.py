"""Anything people have → an upright sRGB photo → a frame of the model's size → back to the photo's aspect."""

from __future__ import annotations

from svdkit.image.fitting import Frame, fit, preview_fit, restore, size_advice
from svdkit.image.read import read_image, sample_photo, sample_photos

__all__ = ["sample_photos", "sample_photo", "read_image", "size_advice", "preview_fit", "Frame", "fit", "restore"]
