"""Intervals cover what they say, tests reject as often as they say, order does not matter."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest, ttest_1samp

from eto_agents.evaluation.statistics import (
    Estimate,
    bounded_mean,
    clustered_mean,
    holm,
    minimum_detectable,
    paired,
    paired_average,
    standard_deviation,
    task_means,
)

Values = list[tuple[int, float]]
SCORES = st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1)), min_size=1, max_size=40)
WINS = st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0.0, 1.0])), min_size=1, max_size=40)
slowly = settings(deadline=None, max_examples=25, derandomize=True)


@slowly
@given(SCORES)
def test_estimate_ignores_order_and_stays_in_range(values: Values) -> None:
    found = clustered_mean(values)
    assert found == pytest.approx(clustered_mean(sorted(values)), nan_ok=True)
    if found.low is not None and found.high is not None:
        assert 0.0 <= found.low <= found.mean + 1e-12
        assert found.mean - 1e-12 <= found.high <= 1.0
    assert (found.low is None) == (len({task for task, _ in values}) < 2)


@slowly
@given(SCORES, WINS, st.permutations(range(10)))
def test_order_task_names_and_repeated_seeds_change_nothing(
    scores: Values, wins: Values, names: list[int]
) -> None:
    for estimate, values in ((clustered_mean, scores), (bounded_mean, wins)):
        found = estimate(values)
        assert estimate(values[::-1]) == pytest.approx(found, nan_ok=True)
        assert estimate([(names[task], value) for task, value in values]) == found
        assert estimate(values * 3) == pytest.approx(found, nan_ok=True)


def test_a_task_counts_once_however_many_seeds() -> None:
    values = [("a", 1.0)] * 9 + [("b", 0.0)]
    assert clustered_mean(values).mean == 0.5
    assert task_means(values) == {"a": 1.0, "b": 0.0}


@slowly
@given(st.integers(2, 60), st.data())
def test_one_seed_gives_wilsons_interval_which_always_has_a_width(
    n: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(0, n))
    found = bounded_mean([(i, float(i < k)) for i in range(n)])
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert found == pytest.approx((k / n, expected.low, expected.high))
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low < found.high <= 1


def test_seeds_that_disagree_give_the_bootstrap() -> None:
    values = [(i % 20, float(i % 3 == 0)) for i in range(60)]
    assert bounded_mean(values) == clustered_mean(values)


def coverage(estimate: Callable[[Values], Estimate], n_tasks: int, n_seeds: int) -> float:
    rng = np.random.default_rng(0)
    n_runs, hits = 300, 0
    for _ in range(n_runs):
        tasks = rng.beta(2, 2, size=n_tasks)
        episodes = [
            (i, float(rng.random() < p)) for i, p in enumerate(tasks) for _ in range(n_seeds)
        ]
        _, low, high = estimate(episodes)
        assert low is not None
        assert high is not None
        hits += low <= 0.5 <= high
    return hits / n_runs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimate", "n_tasks", "n_seeds"),
    [(clustered_mean, 60, 3), (clustered_mean, 200, 1), (bounded_mean, 60, 3)],
)
def test_the_interval_covers_the_truth_about_as_often_as_it_says(
    estimate: Callable[[Values], Estimate], n_tasks: int, n_seeds: int
) -> None:
    assert 0.91 <= coverage(estimate, n_tasks, n_seeds) <= 0.99


def test_wilsons_interval_covers_where_the_bootstrap_has_no_width() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        wins = rng.random(40) < 0.03
        _, low, high = bounded_mean([(i, float(win)) for i, win in enumerate(wins)])
        assert low is not None
        assert high is not None
        hits += low <= 0.03 <= high
    assert hits / 300 >= 0.91


def share_covered(draw: Any, mean: float, n_trials: int = 300) -> float:
    """How often the interval of 100 drawn values covers their mean."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(n_trials):
        _, low, high = bounded_mean(enumerate(draw(rng, 100)))
        assert low is not None
        assert high is not None
        hits += low <= mean <= high
    return hits / n_trials


@pytest.mark.parametrize("share", [0.02, 0.05, pytest.param(0.2, marks=pytest.mark.slow)])
def test_a_column_near_zero_or_one_has_an_interval_that_covers(share: float) -> None:
    values = np.array([0.1, 1 / 3, 0.5, 1.0])

    def draw(rng: Any, n: int) -> Any:
        return np.where(rng.random(n) < share, rng.choice(values, n), 0.0)

    mean = share * float(values.mean())
    assert share_covered(draw, mean) >= 0.93
    assert share_covered(lambda rng, n: 1 - draw(rng, n), 1 - mean) >= 0.93


def test_an_average_over_task_sets_resamples_each_by_itself() -> None:
    small = [(i, 1.0) for i in range(5)], [(i, 0.0) for i in range(5)]
    large = [(i, float(i % 2)) for i in range(50)], [(i, 0.0) for i in range(50)]
    found = paired_average([small, large])
    assert found.n_tasks == 55
    assert found.difference.mean == pytest.approx(0.75)
    # The small task set has no variance: the interval is half of the large one's.
    alone = paired(*large).difference
    assert alone.low is not None
    assert found.difference.low == pytest.approx((1 + alone.low) / 2, abs=0.005)
    swapped = paired_average([small[::-1], large[::-1]])
    assert swapped.difference.mean == -found.difference.mean
    assert swapped.difference.low == -found.difference.high  # type: ignore[operator]
    assert swapped.p == found.p < 0.001
    assert paired_average([(small[0], [])]).n_tasks == 0


@slowly
@given(SCORES, SCORES)
def test_swapping_the_agents_swaps_the_sign_and_nothing_else(ours: Values, theirs: Values) -> None:
    there, back = paired(ours, theirs), paired(theirs, ours)
    assert there.n_tasks == back.n_tasks == len({t for t, _ in ours} & {t for t, _ in theirs})
    if there.n_tasks == 0:
        assert math.isnan(there.p)
        assert math.isnan(there.difference.mean)
        return
    assert (there.p, there.detectable) == (back.p, back.detectable)
    assert 0 < there.p <= 1
    mean, low, high = there.difference
    assert back.difference.mean == pytest.approx(-mean)
    if low is not None and high is not None:
        assert back.difference[1:] == pytest.approx((-high, -low))


@slowly
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=10))
def test_few_tasks_get_the_exact_p(differences: list[float]) -> None:
    observed = abs(math.fsum(differences))
    flips = itertools.product((1, -1), repeat=len(differences))
    sums = [math.fsum(s * d for s, d in zip(signs, differences, strict=True)) for signs in flips]
    if any(0 < abs(abs(s) - observed) < 1e-9 for s in sums):
        return  # a tie up to rounding: both answers are right
    expected = sum(abs(s) >= observed for s in sums) / len(sums)
    found = paired(list(enumerate(differences)), [(i, 0.0) for i in range(len(differences))])
    assert found.p == pytest.approx(expected)


def test_p_is_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(2)
    p_values = []
    for _ in range(120):
        tasks = rng.random(30)
        ours, theirs = (list(enumerate(tasks + rng.normal(0, 0.2, 30))) for _ in range(2))
        p_values.append(paired(ours, theirs).p)
    assert kstest(p_values, "uniform").pvalue > 0.01
    assert sum(p < 0.05 for p in p_values) / 120 < 0.11


def test_p_agrees_with_the_t_test_on_bell_shaped_differences() -> None:
    differences = np.random.default_rng(3).normal(0.1, 0.5, 100)
    found = paired(list(enumerate(differences)), [(i, 0.0) for i in range(100)])
    assert found.p == pytest.approx(ttest_1samp(differences, 0.0).pvalue, abs=0.01)


def test_no_difference_and_no_tasks() -> None:
    same = [(i, 0.5) for i in range(9)]
    assert paired(same, same) == (9, (0.0, 0.0, 0.0), 1.0, None)
    assert math.isnan(paired([], []).p)
    assert paired([("a", 1.0)], [("a", 0.0)]).difference == (1.0, None, None)


@slowly
@given(st.floats(0.05, 1), st.integers(2, 2_000))
def test_more_tasks_detect_less_and_more_power_needs_more(deviation: float, n: int) -> None:
    found = minimum_detectable(deviation, n)
    assert found is not None
    assert minimum_detectable(deviation, 4 * n) == pytest.approx(found / 2)
    assert found < (minimum_detectable(deviation, n, power=0.9) or 0)
    assert found < (minimum_detectable(deviation, n, alpha=0.01) or 0)


def test_the_detectable_effect_is_detected_as_often_as_stated() -> None:
    deviation, n = 0.4, 60
    effect = minimum_detectable(deviation, n)
    assert effect is not None
    rng = np.random.default_rng(4)
    nothing = [(i, 0.0) for i in range(n)]
    found = [
        paired(list(enumerate(rng.normal(effect, deviation, n))), nothing).p < 0.05
        for _ in range(120)
    ]
    assert 0.68 < np.mean(found) < 0.92


def test_five_points_unpaired_need_about_1300_tasks_an_arm() -> None:
    # Success rates near one half: the deviation of one task is 0.5, of a difference sqrt(2) of it.
    found = minimum_detectable(0.45 * math.sqrt(2), 1_300)
    assert found == pytest.approx(0.05, abs=0.005)


def test_nothing_is_detectable_without_spread() -> None:
    assert minimum_detectable(None, 10) is None
    assert minimum_detectable(0.0, 10) is None
    assert standard_deviation([1.0]) is None


@slowly
@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    n = len(p_values)
    assert all(p <= a <= min(1.0, n * p) for p, a in zip(p_values, adjusted, strict=True))
    assert [a for _, a in sorted(zip(p_values, adjusted, strict=True))] == sorted(adjusted)
    backwards = holm(p_values[::-1])
    assert backwards[::-1] == adjusted
    with_gap = holm([*p_values, float("nan")])
    assert with_gap[:-1] == adjusted
    assert math.isnan(with_gap[-1])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
