"""Means with confidence intervals, and tests of whether two agents differ.

Episodes of one task under several seeds are not independent, so intervals resample tasks rather
than episodes (a cluster bootstrap). Two agents are compared task by task: most of the variance of a
task set is between its tasks, and a paired comparison removes it. `scipy.stats` does the
resampling, always seeded and over sorted values, so that no result depends on the order of the
episodes. `eto_agents.evaluation.comparison` decides which comparisons a report makes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

N_RESAMPLES = 9_999
MAX_EXACT_FLIPS = 16
"""Up to this many non-zero differences, all 2^n sign flips are enumerated instead of sampled."""
ALPHA = 0.05
POWER = 0.8

Values = Iterable[tuple[Hashable, float]]
"""Pairs of task and value; a task may occur several times (seeds)."""


class Estimate(NamedTuple):
    """A mean and its interval.

    Attributes:
        mean: the mean.
        low: lower end of the 95 % interval; None if it is undefined (fewer than two tasks).
        high: upper end.
    """

    mean: float
    low: float | None
    high: float | None


class Paired(NamedTuple):
    """A comparison of two agents on the same tasks.

    Attributes:
        n_tasks: number of tasks that both have played.
        difference: mean over tasks of the first agent's value minus the second's, with its 95 %
            interval (a bootstrap over tasks).
        p: two-sided p-value of a sign-flip permutation test against "no difference"; NaN without
            tasks.
        detectable: minimum detectable difference with `n_tasks` tasks of this standard deviation,
            at a power of 0.8 and alpha 0.05; None if the standard deviation is 0 or undefined.
    """

    n_tasks: int
    difference: Estimate
    p: float
    detectable: float | None


def clustered_mean(values: Values, *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """The mean over tasks with a percentile bootstrap interval that resamples tasks.

    Args:
        values: pairs of task and value; a task that occurs several times counts once, with the
            mean of its values.
        confidence: the interval's nominal coverage, in (0, 1).
        seed: seeds the resampling.

    Returns:
        The estimate; its mean is NaN if there are no values.
    """
    means = np.sort(list(task_means(values).values()))
    if len(means) == 0:
        return Estimate(float("nan"), None, None)
    mean = float(np.mean(means))
    if len(means) < 2:
        return Estimate(mean, None, None)
    low, high = _percentile_interval(means, confidence, seed)
    return Estimate(mean, low, high)


def success_rate(values: Values, *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """The success rate over tasks, with an interval that never has zero width.

    If every task either always succeeds or always fails (in particular with one seed), tasks are
    Bernoulli trials and the interval is Wilson's: unlike the bootstrap it has a width at 0 of n and
    n of n, and unlike Clopper and Pearson's it is not conservative. If seeds of a task disagree,
    the tasks' rates are no longer 0 or 1, and the interval is that of `clustered_mean`.

    Args:
        values: pairs of task and 0 or 1.
        confidence: the interval's nominal coverage, in (0, 1).
        seed: seeds the resampling.

    Returns:
        The estimate; its mean is NaN if there are no values.
    """
    rates = task_means(values)
    if not rates or not set(rates.values()) <= {0.0, 1.0}:
        return clustered_mean(rates.items(), confidence=confidence, seed=seed)
    from scipy.stats import binomtest

    n_successes = int(sum(rates.values()))
    interval = binomtest(n_successes, len(rates)).proportion_ci(confidence, method="wilson")
    return Estimate(n_successes / len(rates), float(interval.low), float(interval.high))


def paired(first: Values, second: Values, *, seed: int = 0) -> Paired:
    """Compare two agents on the tasks that both have played.

    Args:
        first: one agent's pairs of task and value.
        second: the other's.
        seed: seeds the resampling.
    """
    ours, theirs = task_means(first), task_means(second)
    differences = sorted(ours[task] - theirs[task] for task in ours if task in theirs)
    mirrored = [-value for value in reversed(differences)]
    # Use the same resamples whichever agent comes first: swapping them changes the sign alone.
    is_mirrored = mirrored > differences
    values = mirrored if is_mirrored else differences
    difference = clustered_mean(enumerate(values), seed=seed)
    if is_mirrored:
        difference = _negative(difference)
    return Paired(
        len(values),
        difference,
        _sign_flip_p(np.array(values), seed),
        minimum_detectable(standard_deviation(values), len(values)),
    )


def standard_deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation; None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def minimum_detectable(
    deviation: float | None, n_tasks: int, *, power: float = POWER, alpha: float = ALPHA
) -> float | None:
    """The smallest true mean that a two-sided test against zero detects with a given power.

    ``(z(1 - alpha / 2) + z(power)) * deviation / sqrt(n_tasks)``, the normal approximation.

    Args:
        deviation: standard deviation of a task's value. For a paired comparison that of the
            differences; for an unpaired one of two agents on n tasks each with the same standard
            deviation, that times sqrt(2).
        n_tasks: number of tasks.
        power: probability of detecting the effect, in (0, 1).
        alpha: probability of a false positive, in (0, 1).

    Returns:
        The effect in the unit of `deviation`; None if `deviation` is 0 or undefined, or there are
        fewer than two tasks.
    """
    from scipy.stats import norm

    if not deviation or n_tasks < 2:
        return None
    return float((norm.ppf(1 - alpha / 2) + norm.ppf(power)) * deviation / math.sqrt(n_tasks))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values adjusted for the number of comparisons.

    NaN (nothing to compare) stays NaN and does not count as a comparison.
    """
    order = sorted(
        (i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i]
    )
    adjusted = [float("nan")] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def task_means(values: Values) -> dict[Hashable, float]:
    """The mean of each task's values, for example over seeds."""
    by_task: dict[Hashable, list[float]] = {}
    for task, value in values:
        by_task.setdefault(task, []).append(value)
    # math.fsum, unlike numpy's sum, does not depend on the order of the values.
    return {task: math.fsum(own) / len(own) for task, own in by_task.items()}


def _negative(estimate: Estimate) -> Estimate:
    mean, low, high = estimate
    return Estimate(-mean, None if high is None else -high, None if low is None else -low)


def _percentile_interval(
    values: npt.NDArray[np.float64], confidence: float, seed: int
) -> tuple[float, float]:
    from scipy.stats import bootstrap

    result = bootstrap(
        (values,),
        np.mean,
        n_resamples=N_RESAMPLES,
        batch=1_000,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _sign_flip_p(differences: npt.NDArray[np.float64], seed: int) -> float:
    """Under the null hypothesis, each task's difference is equally likely to have either sign."""
    from scipy.stats import permutation_test

    if len(differences) == 0:
        return float("nan")
    # A zero has no sign to flip; leaving zeros out gives the same test, more often exact.
    nonzero = differences[differences != 0]
    if len(nonzero) < 2:
        return 1.0  # a single sign is no evidence: the other one is equally likely
    result = permutation_test(
        (nonzero, np.zeros_like(nonzero)),
        _mean_difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf if len(nonzero) <= MAX_EXACT_FLIPS else N_RESAMPLES,
        batch=1_000,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _mean_difference(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], axis: int
) -> npt.NDArray[np.float64]:
    return np.asarray(np.mean(first - second, axis=axis))
