"""From raw seconds to numbers with an interval: medians, percentiles, ratios. Always the same for the same samples.

What differs from process to process (memory layout, clocks, neighbours) is larger than what differs inside one, so
samples are a list a process, and an interval rests on the processes' medians where there are several.
``python benchmarks/verdicts.py`` measures how often such intervals are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

# A clip's seconds, one number a repeat: a list of repeats for each process.
Samples = Sequence[Sequence[float]]

# From n samples the median's widest interval, smallest to largest, holds it with 1 − 2^(1−n): 94 % for 5, 88 % for 4.
FEWEST_REPEATS = 5
_RESAMPLES = 5_000


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval; ``low`` and ``high`` are NaN when there are too few repeats for one."""

    value: float
    low: float
    high: float

    def named(self, name: str) -> dict[str, float]:
        """Give the three numbers as ``name``, ``name_low`` and ``name_high``."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}

    def wider(self, fraction: float) -> Interval:
        """Give the interval with a systematic error added: 0.02 is 2 % of each end."""
        return Interval(self.value, self.low / (1 + fraction), self.high * (1 + fraction))

    def excludes(self, value: float) -> bool:
        """Whether the interval is known and lies wholly on one side of a value."""
        return self.low > value or self.high < value


def median(samples: Samples) -> Interval:
    """Geometric mean of the processes' median seconds, with a 95 % interval; NaN when there are no samples.

    Of several processes it is Student's, on the logarithms of their medians. A bootstrap over them, then over runs,
    would be too narrow: of three processes that differ by 2 % it holds the truth in 83 % of experiments. Of one process
    it is the bootstrap of its repeats (percentile method, seeded), which knows nothing of other processes.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; Kalibera & Jones, Rigorous
    Benchmarking in Reasonable Time, 2013.
    """
    if len(samples) < 2:
        low, high = np.quantile(_resampled(samples, seed=0), [0.025, 0.975])
        return Interval(_middle(samples), float(low), float(high))
    return _student(*_logs(samples))


def ratio(new: Samples, old: Samples) -> Interval:
    """New median over old median with its 95 % interval (Welch's, where both have several processes)."""
    if min(len(new), len(old)) < 2:
        above, below = _resampled(new, seed=1), _resampled(old, seed=2)  # the two runs' chances are independent
        low, high = np.quantile(above / below if np.all(below) else below * math.nan, [0.025, 0.975])
        over = _middle(old)
        return Interval(_middle(new) / over if over else math.nan, float(low), float(high))
    (middle, variance, count), (base, other, least) = _logs(new), _logs(old)
    total = variance + other
    freedom = total**2 / (variance**2 / count + other**2 / least) if total else 1.0
    return _student(middle - base, total, freedom)


def percentiles(samples: Samples) -> tuple[float, float]:
    """10th and 90th percentile of all repeats."""
    if not any(samples):
        return math.nan, math.nan
    low, high = np.quantile(np.concatenate([*samples]), [0.1, 0.9])
    return float(low), float(high)


def chance_of_trend(order: npt.ArrayLike, seconds: npt.ArrayLike) -> float:
    """How often the same seconds in a random order would show as steep a trend, 0 to 1 (permutation test, seeded)."""
    place = np.asarray(order, dtype=np.float64)
    place = place - place.mean()
    return _chance(seconds, lambda values: np.abs(values @ place))


def chance_of_memory(seconds: npt.ArrayLike) -> float:
    """How often in a random order each of the seconds would be as much like the one before it, 0 to 1."""
    values = np.asarray(seconds, dtype=np.float64)
    return _chance(values - values.mean(), lambda rows: np.sum(rows[..., 1:] * rows[..., :-1], axis=-1))


def _chance(seconds: npt.ArrayLike, measure: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> float:
    values = np.asarray(seconds, dtype=np.float64)
    shuffled = np.random.default_rng(0).permuted(np.tile(values, (_RESAMPLES, 1)), axis=1)
    here = float(measure(values))
    return float(np.mean(measure(shuffled) >= here - 1e-12 * abs(here)))


def _middle(samples: Samples) -> float:
    """Median seconds of one process, the geometric mean of several."""
    return float(np.median(samples[0])) if len(samples) == 1 else math.exp(_logs(samples)[0]) if samples else math.nan


def _logs(samples: Samples) -> tuple[float, float, float]:
    """Mean of the logarithms of several processes' medians, its variance and its degrees of freedom."""
    with np.errstate(divide="ignore", invalid="ignore"):  # of a clip that took no time
        logs = np.log([float(np.median(each)) for each in samples])
        return float(logs.mean()), float(logs.var(ddof=1)) / len(logs), len(logs) - 1.0


def _student(middle: float, variance: float, freedom: float) -> Interval:
    from scipy.special import stdtrit

    half = float(stdtrit(freedom, 0.975)) * math.sqrt(variance)
    return Interval(math.exp(middle), math.exp(middle - half), math.exp(middle + half))


def _resampled(samples: Samples, *, seed: int) -> npt.NDArray[np.float64]:
    """Medians of all repeats, drawn anew with replacement; NaN when there are too few."""
    every = np.concatenate([*samples]) if samples else np.array([])
    if len(every) < FEWEST_REPEATS:
        return np.array([math.nan])
    draw = np.random.default_rng(seed)
    return np.asarray(np.median(every[draw.integers(len(every), size=(_RESAMPLES, len(every)))], axis=1))
