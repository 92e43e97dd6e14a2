"""What a clip will take in time, memory and money, before anything runs: no GPU, no weights, no download.

``cards`` (GPUs) → ``seconds`` (of a stage) → ``calibration`` (what was measured or published) and ``own`` (measured
here) → ``predict`` (the forecast) → ``result`` and ``show`` (as text).
"""

from __future__ import annotations

from svdkit.forecast.calibration import calibrate
from svdkit.forecast.cards import CARDS, Card, find_card
from svdkit.forecast.predict import forecast
from svdkit.forecast.result import Forecast
from svdkit.models.costs import NotCountedError

__all__ = ["forecast", "Forecast", "calibrate", "CARDS", "Card", "find_card", "NotCountedError"]
