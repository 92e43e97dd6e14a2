"""Medians, intervals and ratios: right on known samples, and honest about chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from svdkit.bench.stats import Interval, chance_of_memory, chance_of_trend, median, percentiles, ratio, spread
from tests.bench_records import record


def test_the_median_is_not_moved_by_one_slow_clip_and_is_always_the_same() -> None:
    seconds = [1.0, 1.0, 1.1, 1.2, 60.0]
    assert median([seconds]).value == 1.1
    assert median([seconds]) == median([list(seconds)])
    assert ratio([seconds], [seconds]) == ratio([seconds], [seconds])


def test_processes_count_alike_however_many_repeats_they_have() -> None:
    """A geometric mean of their medians, with Student's interval on the logarithms."""
    found = median([[1.0, 1.0, 9.0], [4.0]])
    assert found.value == pytest.approx(2.0)
    assert (found.low, found.high) == pytest.approx((2.0 / 4**6.353, 2.0 * 4**6.353), rel=1e-3)
    for equal in (median([[2.0] * 2, [2.0] * 3]), ratio([[4.0], [4.0]], [[2.0]] * 3)):
        assert (equal.value, equal.low, equal.high) == pytest.approx((2.0, 2.0, 2.0))


def test_one_process_a_side_knows_only_its_own_repeats() -> None:
    assert ratio([[3.0] * 5], [[2.0] * 5]) == Interval(1.5, 1.5, 1.5)
    found = ratio([[3.0] * 5], [[2.0] * 3, [2.0] * 3])
    assert (found.value, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_too_few_repeats_give_no_interval(count: int) -> None:
    found = median([[1.0, 2.0, 3.0, 4.0][:count]])
    assert found.value == (1 + count) / 2
    assert all(map(math.isnan, (found.low, found.high)))
    assert not found.excludes(0)
    assert math.isnan(ratio([[1.0] * count], [[1.0] * 9]).low)


def test_no_samples_are_no_number() -> None:
    found = (median([]).value, ratio([], [[1.0] * 5]).value, ratio([[1.0] * 5], [[0.0] * 5]).value, *percentiles([]))
    assert all(map(math.isnan, (*found, spread([[1.0, 2.0]]), spread([[0.0], [1.0]]))))


def test_percentiles_and_what_processes_differ_by() -> None:
    assert percentiles([list(range(11))]) == percentiles([list(range(5)), list(range(5, 11))]) == (1.0, 9.0)
    assert spread([[2.0, 9.0, 2.0], [2.5], [2.2]]) == 0.25


@pytest.mark.parametrize("repeats", [5, 7, 10, 20])
def test_the_interval_holds_the_true_median_about_as_often_as_it_says(repeats: int) -> None:
    """400 experiments with a known median: the docstring of median says how often it is held."""
    draw = np.random.default_rng(3)
    held = [found.low <= 0 <= found.high for found in (median([list(draw.normal(0, 1, repeats))]) for _ in range(400))]
    assert 0.84 <= np.mean(held) <= 0.99


@pytest.mark.parametrize(("factor", "least", "most"), [(1.0, 0, 0.08), (1.05, 0.99, 1)])
def test_a_change_is_found_and_none_is_seldom_called_one(factor: float, least: float, most: float) -> None:
    """400 pairs of 7 repeats under a noise of 1 %: how often the interval excludes 1."""
    draw = np.random.default_rng(4)
    runs = [[[list(mean * draw.normal(10, 0.1, 7))] for mean in (factor, 1.0)] for _ in range(400)]
    assert least <= np.mean([ratio(*pair).excludes(1) for pair in runs]) <= most


def simulated(draw: np.random.Generator, *, effect: float) -> list[list[float]]:
    """Give three processes of five clips, each process with a speed of its own."""
    speeds = effect * draw.normal(size=(3, 1))
    return (1 + speeds + 0.01 * draw.normal(size=(3, 5))).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("effect", [0.0, 0.005, 0.02])
def test_what_differs_between_processes_is_seldom_called_a_change(effect: float) -> None:
    """Of 400 pairs at most 7 % exclude 1; with one process a side more than half would."""
    draw = np.random.default_rng(6)
    pairs = [(simulated(draw, effect=effect), simulated(draw, effect=effect)) for _ in range(400)]
    assert np.mean([ratio(*pair).excludes(1) for pair in pairs]) <= 0.07
    if effect == 0.02:
        assert np.mean([ratio(new[:1], old[:1]).excludes(1) for new, old in pairs]) > 0.5


def test_what_follows_an_order_is_told_from_chance() -> None:
    assert chance_of_memory([1.0, 1.1, 1.2, 1.2, 1.1, 1.0, 0.9, 0.9, 1.0, 1.1]) < 0.02
    assert chance_of_memory([1.0, 1.2, 1.0, 1.1, 0.9, 1.2, 1.0, 1.1, 0.9, 1.1]) > 0.3
    assert chance_of_trend(range(8), [1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07]) < 0.01
    assert chance_of_trend(range(8), [1.0, 1.07, 1.02, 1.05, 1.04, 1.03, 1.06, 1.01]) > 0.3
    assert chance_of_trend(range(5), [1.0] * 5) == 1.0


def test_a_records_seconds_are_its_total_or_the_sum_of_its_stages_by_process() -> None:
    whole = record()
    assert whole.timed == [whole.samples["timed"]["total"]]
    apart = record(samples={"timed": {"load": [9.0], "unet": [1.0], "vae_decode": [2.0, 3.0], "export": []}})
    assert apart.timed == [[3.0]]
    assert record(samples={"cold": {"total": [9.0]}}).timed == []
    several = record(samples={"timed": {"total": [1.0, 2.0, 3.0]}}, processes=["a", "b", "a"])
    assert several.timed == [[1.0, 3.0], [2.0]]
