"""What a clip will take in time, memory and money, before anything runs: no GPU, no weights, no download.

``cards`` (GPUs) → ``calibration`` (seconds of a stage: own, shipped or published) → ``predict`` (numbers and text).
"""

from __future__ import annotations

from svdkit.forecast.calibration import calibrate
from svdkit.forecast.cards import CARDS, Card, find_card
from svdkit.forecast.predict import Forecast, forecast
from svdkit.models.costs import NotCountedError

__all__ = ["forecast", "Forecast", "calibrate", "CARDS", "Card", "find_card", "NotCountedError"]
