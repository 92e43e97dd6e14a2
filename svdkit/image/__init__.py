"""Anything people have → an upright sRGB photo → a frame of the model's size → back to the photo's aspect.

The files follow the photo: ``fetch`` (address → bytes), ``decode`` (bytes → picture), ``arrays`` (numbers →
picture), ``colour`` (picture → upright sRGB), ``read`` (any source → photo), ``frame`` (the fitted photo), ``fitting``
(photo → frame → photo's aspect), ``preview`` (what will be cut) and ``sizes`` (which sizes suit a model).
"""

from __future__ import annotations

from svdkit.image.fitting import fit, restore
from svdkit.image.frame import Frame
from svdkit.image.preview import preview_fit
from svdkit.image.read import read_image, sample_photo, sample_photos
from svdkit.image.sizes import size_advice

__all__ = [
    "sample_photos",
    "sample_photo",
    "read_image",
    "size_advice",
    "preview_fit",
    "Frame",
    "fit",
    "restore",
]
