"""Which models there are and where their weights come from; or networks of full size with random weights.

The files import each other in one direction: ``files`` → ``info`` (what there is) → ``layout`` (which files) →
``folder`` (is it complete and safe) → ``hub`` → ``weights`` (find or download). ``configurations`` →
``random_weights`` build without weights; ``quiet`` silences libraries while they load.
"""

from __future__ import annotations

from svdkit.models.folder import check_folder
from svdkit.models.info import ModelInfo, catalogue, describe_folder, find_model
from svdkit.models.layout import fingerprint
from svdkit.models.random_weights import random_pipeline
from svdkit.models.weights import locate

__all__ = [
    "ModelInfo",
    "catalogue",
    "find_model",
    "describe_folder",
    "check_folder",
    "fingerprint",
    "locate",
    "random_pipeline",
]
