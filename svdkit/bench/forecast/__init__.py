"""What a clip will take in time, memory and money, before anything runs: no GPU, no weights, no download.

``meter`` (one call on the meta device) → ``calls`` (counts, shipped or cached) and ``cards`` (GPUs) → ``model``
(seconds of a stage) → ``calibrate`` (what was measured or published) → ``predict`` (the forecast) → ``show`` (as text).
"""

from __future__ import annotations

from svdkit.bench.forecast.call import NotCountedError
from svdkit.bench.forecast.cards import CARDS, Card, find_card
from svdkit.bench.forecast.own import calibrate
from svdkit.bench.forecast.predict import forecast
from svdkit.bench.forecast.result import Forecast

__all__ = ["forecast", "Forecast", "calibrate", "CARDS", "Card", "find_card", "NotCountedError"]
