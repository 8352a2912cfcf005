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
FEWEST_FOR_BOOTSTRAP = 10
"""The fewest tasks with another value than 0, or than 1, whose resampling gives an interval."""
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
    low, high = _percentile_interval([means], confidence, seed)
    return Estimate(mean, low, high)


def bounded_mean(values: Values, *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """The mean over tasks of values in [0, 1], with an interval that never has zero width.

    If all tasks, or all but a few, have the lowest or the highest value, resampling them says
    little about the values that were not drawn: with 95 of 100 tasks at 0, a bootstrap interval
    covers the mean in 87 % of the cases instead of 95 %. The interval then is Wilson's, which is
    exact enough for values of 0 and 1 and conservative for others, whose variance is smaller. It
    has a width at 0 of n and n of n, and unlike Clopper and Pearson's it is not conservative for a
    success rate. In all other cases the interval is that of `clustered_mean`.

    Args:
        values: pairs of task and score, or of task and 0 or 1.
        confidence: the interval's nominal coverage, in (0, 1).
        seed: seeds the resampling.

    Returns:
        The estimate; its mean is NaN if there are no values, and it has no interval for one task.
    """
    means = task_means(values)
    if len(means) < 2:  # of one task an interval would say nothing
        return clustered_mean(means.items())
    n_off = min(sum(mean != bound for mean in means.values()) for bound in (0.0, 1.0))
    is_binary = set(means.values()) <= {0.0, 1.0}
    is_bounded = all(0 <= mean <= 1 for mean in means.values())
    if not is_bounded or (not is_binary and n_off >= FEWEST_FOR_BOOTSTRAP):
        return clustered_mean(means.items(), confidence=confidence, seed=seed)
    from scipy.stats import norm

    n = len(means)
    mean = math.fsum(means.values()) / n
    z = float(norm.ppf((1 + confidence) / 2))
    middle = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z * math.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return Estimate(mean, max(0.0, middle - half_width), min(1.0, middle + half_width))


def paired(first: Values, second: Values, *, seed: int = 0) -> Paired:
    """Compare two agents on the tasks that both have played.

    Args:
        first: one agent's pairs of task and value.
        second: the other's.
        seed: seeds the resampling.
    """
    differences = _differences(first, second)
    values, is_mirrored = _one_way_round(differences)
    difference = clustered_mean(enumerate(values), seed=seed)
    return Paired(
        len(values),
        _negative(difference) if is_mirrored else difference,
        _sign_flip_p(np.array(values), seed),
        minimum_detectable(standard_deviation(values), len(values)),
    )


def paired_average(task_sets: Sequence[tuple[Values, Values]], *, seed: int = 0) -> Paired:
    """Compare two agents on the average of several task sets, each with equal weight.

    The bootstrap is stratified: it resamples the tasks of each task set separately, because how
    many tasks each one has is no matter of chance.

    Args:
        task_sets: for each task set both agents' pairs of task and value.
        seed: seeds the resampling.

    Returns:
        The comparison; its minimum detectable difference is not defined.
    """
    strata = [differences for pair in task_sets if (differences := _differences(*pair))]
    n_tasks = sum(map(len, strata))
    # With these weights the mean over all tasks is the mean of the task sets' means.
    weighted = [n_tasks / (len(strata) * len(s)) * value for s in strata for value in s]
    values, is_mirrored = _one_way_round(sorted(weighted))
    if is_mirrored:
        strata = [[-value for value in reversed(stratum)] for stratum in strata]
    difference = _stratified_mean(strata, seed)
    return Paired(
        n_tasks,
        _negative(difference) if is_mirrored else difference,
        _sign_flip_p(np.array(values), seed),
        None,
    )


def _differences(first: Values, second: Values) -> list[float]:
    """First minus second in each task that both have, sorted."""
    ours, theirs = task_means(first), task_means(second)
    return sorted(ours[task] - theirs[task] for task in ours if task in theirs)


def _one_way_round(differences: list[float]) -> tuple[list[float], bool]:
    """Differences in the same direction whichever agent comes first, and whether they are negated.

    So swapping the agents changes the sign alone, and not the resamples.
    """
    mirrored = [-value for value in reversed(differences)]
    return max(differences, mirrored), mirrored > differences


def _stratified_mean(strata: Sequence[Sequence[float]], seed: int) -> Estimate:
    """Mean of the strata's means, with a percentile bootstrap that resamples within each."""
    if not strata:
        return Estimate(float("nan"), None, None)
    mean = math.fsum(math.fsum(stratum) / len(stratum) for stratum in strata) / len(strata)
    if min(map(len, strata)) < 2:
        return Estimate(mean, None, None)

    return Estimate(mean, *_percentile_interval(strata, 0.95, seed))


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
    strata: Sequence[npt.ArrayLike], confidence: float, seed: int
) -> tuple[float, float]:
    """The bootstrap interval of the mean of the strata's means, each resampled by itself."""
    from scipy.stats import bootstrap

    def average(*resampled: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
        return np.asarray(np.mean([stratum.mean(axis=axis) for stratum in resampled], axis=0))

    result = bootstrap(
        tuple(np.asarray(stratum) for stratum in strata),
        average,
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
