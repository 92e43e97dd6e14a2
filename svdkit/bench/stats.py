"""From raw seconds to numbers with an interval: medians, percentiles, ratios. Always the same for the same samples.

What differs from process to process (memory layout, clocks, neighbours) is larger than what differs inside one, so
samples are a list a process, and an interval rests on the processes' medians where there are several.
``python benchmarks/verdicts.py`` measures how often such intervals are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
        return Interval(_middle(samples), *_quantiles(_resampled(samples, seed=0)))
    return _student(*_logs(samples))


def ratio(new: Samples, old: Samples) -> Interval:
    """New median over old median with its 95 % interval (Welch's, where both have several processes)."""
    if min(len(new), len(old)) < 2:
        above, below = _resampled(new, seed=1), _resampled(old, seed=2)  # the two runs' chances are independent
        low, high = _quantiles(above / np.where(below, below, math.nan))
        return Interval(_middle(new) / (_middle(old) or math.nan), low, high)
    (middle, variance, count), (base, other, least) = _logs(new), _logs(old)
    total = variance + other
    freedom = total**2 / (variance**2 / count + other**2 / least) if total else 1.0
    return _student(middle - base, total, freedom)


def spread(samples: Samples) -> float:
    """By how much the medians of processes differ, as a fraction; NaN of one process."""
    middles = [float(np.median(process)) for process in samples]
    return max(middles) / min(middles) - 1 if len(middles) > 1 and min(middles) > 0 else math.nan


def percentiles(samples: Samples) -> tuple[float, float]:
    """10th and 90th percentile of all repeats."""
    return _quantiles(_all(samples) or [math.nan], 0.1, 0.9)


def chance_of_trend(order: npt.ArrayLike, seconds: npt.ArrayLike) -> float:
    """How often the same seconds in a random order would show as steep a trend, 0 to 1 (permutation test, seeded)."""
    place: Any = np.asarray(order)
    return _chance(np.asarray(seconds), lambda rows: abs(rows @ (place - place.mean())))


def chance_of_memory(seconds: npt.ArrayLike) -> float:
    """How often in a random order each of the seconds would be as much like the one before it, 0 to 1."""
    values: Any = np.asarray(seconds)
    return _chance(values - values.mean(), lambda rows: np.sum(rows[..., 1:] * rows[..., :-1], axis=-1))


def _chance(values: Any, measure: Callable[[Any], Any]) -> float:
    shuffled = np.random.default_rng(0).permuted(np.tile(values, (_RESAMPLES, 1)), axis=1)
    here = measure(values)
    return float(np.mean(measure(shuffled) >= here - 1e-12 * abs(here)))


def _all(samples: Samples) -> list[float]:
    return [seconds for process in samples for seconds in process]


def _quantiles(values: Any, least: float = 0.025, most: float = 0.975) -> tuple[float, float]:
    low, high = np.quantile(values, [least, most])
    return float(low), float(high)


def _middle(samples: Samples) -> float:
    """Median seconds of one process, the geometric mean of several."""
    if len(samples) > 1:
        return math.exp(_logs(samples)[0])
    return float(np.median(_all(samples) or [math.nan]))


def _logs(samples: Samples) -> tuple[float, float, float]:
    """Mean of the logarithms of several processes' medians, its variance and its degrees of freedom."""
    with np.errstate(divide="ignore", invalid="ignore"):  # of a clip that took no time
        logs = np.log([float(np.median(each)) for each in samples])
        return float(logs.mean()), float(logs.var(ddof=1)) / len(logs), len(logs) - 1.0


def _student(middle: float, variance: float, freedom: float) -> Interval:
    from scipy.special import stdtrit

    half = float(stdtrit(freedom, 0.975)) * math.sqrt(variance)
    return Interval(math.exp(middle), math.exp(middle - half), math.exp(middle + half))


def _resampled(samples: Samples, *, seed: int) -> Any:
    """Medians of all repeats, drawn anew with replacement; NaN when there are too few."""
    every = np.array(_all(samples))
    if len(every) < FEWEST_REPEATS:
        return np.array(math.nan)
    drawn = np.random.default_rng(seed).integers(len(every), size=(_RESAMPLES, len(every)))
    return np.median(every[drawn], axis=1)
