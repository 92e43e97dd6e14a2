"""Which models there are, where their weights come from, and networks of full size with random weights.

``folder`` (what a good model folder is) → ``info`` (what there is) → ``weights`` (find or download) and
``random_weights`` (build without weights).
"""

from __future__ import annotations

from svdkit.models.info import ModelInfo, catalogue, find_model
from svdkit.models.random_weights import random_pipeline
from svdkit.models.weights import locate

__all__ = ["ModelInfo", "catalogue", "find_model", "locate", "random_pipeline"]
