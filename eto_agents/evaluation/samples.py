"""Metrics of a split whose tasks were each played several times, for Best-of-N.

`eto_agents.best_of_n` defines the best sample, the majority and pass@k for one task; this module
averages them over tasks and adds intervals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from eto_agents.best_of_n import best, best_at_k, majority, outcome, pass_at_k
from eto_agents.evaluation.results import AgentErrors, counted_scores
from eto_agents.evaluation.statistics import bounded_mean
from eto_agents.trajectory import STATUSES, Trajectory

Group = list[Trajectory]


def by_task_and_seed(episodes: Iterable[Trajectory]) -> list[Group]:
    """Group samples by task and seed; the result does not depend on the order of the episodes."""
    groups: dict[Hashable, Group] = {}
    for episode in sorted(episodes, key=lambda t: (t.seed, t.task_id, t.sample)):
        groups.setdefault((episode.seed, episode.task_id), []).append(episode)
    return list(groups.values())


def best_of_each(groups: Iterable[Group]) -> list[Trajectory]:
    """The best sample of each group."""
    return [best(group) for group in groups]


def summarise_samples(
    groups: Sequence[Group], n_samples: int, *, agent_errors: AgentErrors = "exclude"
) -> dict[str, Any]:
    """Summarise N samples of each task as JSON-able values.

    Means are over tasks. Metrics of k samples are over the tasks that have at least k counted
    samples.

    Args:
        groups: the samples of each task under each seed.
        n_samples: N.
        agent_errors: how a sample in which the agent failed counts.

    Returns:
        ``n``: N; ``reward_mean``, ``reward_majority`` and ``reward_best``: each ``[mean, low,
        high]``; ``pass_at_k`` and ``best_at_k``: by ``"1"`` … ``"N"``; ``distinct_outcomes``: mean
        number of different outcomes of a task; ``statuses``: number of samples by status;
        ``n_short``: number of tasks and seeds with fewer than N counted samples.
    """
    counted = [(group[0].task_id, counted_scores(group, agent_errors)) for group in groups]
    counted = [(task, samples) for task, samples in counted if samples]
    scores = [(task, [score for _, score in samples]) for task, samples in counted]
    trajectories = [(task, [t for t, _ in samples]) for task, samples in counted]
    majorities = [(task, _majority_score(samples)) for task, samples in counted]
    statuses: Counter[str] = Counter(t.status for group in groups for t in group)
    ks = range(1, n_samples + 1)
    return {
        "n": n_samples,
        "reward_mean": list(bounded_mean((task, sum(s) / len(s)) for task, s in scores)),
        "reward_majority": list(bounded_mean(majorities)),
        "reward_best": list(bounded_mean((task, max(s)) for task, s in scores)),
        "pass_at_k": {
            str(k): _mean((t, pass_at_k(len(s), _n_wins(s), k)) for t, s in scores if len(s) >= k)
            for k in ks
        },
        "best_at_k": {
            str(k): _mean((t, best_at_k(s, k)) for t, s in scores if len(s) >= k) for k in ks
        },
        "distinct_outcomes": _mean((t, float(len(set(map(outcome, s))))) for t, s in trajectories),
        "statuses": {name: statuses[name] for name in STATUSES if statuses[name]},
        "n_short": sum(len(samples) < n_samples for _, samples in counted)
        + (len(groups) - len(counted)),
    }


def _majority_score(samples: list[tuple[Trajectory, float]]) -> float:
    scores = {t.sample: score for t, score in samples}
    return scores[majority([t for t, _ in samples]).sample]


def _n_wins(scores: Sequence[float]) -> int:
    return sum(score >= 1.0 for score in scores)


def _mean(values: Iterable[tuple[Hashable, float]]) -> float | None:
    """The mean over tasks; None if there are no values."""
    by_task: dict[Hashable, list[float]] = {}
    for task, value in values:
        by_task.setdefault(task, []).append(value)
    if not by_task:
        return None
    return sum(sum(v) / len(v) for v in by_task.values()) / len(by_task)


def in_words(samples: dict[str, Any]) -> str:
    """What `summarise_samples` returned, as one sentence for a report."""
    means = ", ".join(
        f"{label} {_shown(samples[key][0])}"
        for label, key in (
            ("mean", "reward_mean"),
            ("majority", "reward_majority"),
            ("best", "reward_best"),
        )
    )
    ks = [k for k in (1, 2, 5, 10, 20, 50, 100) if k < samples["n"]] + [samples["n"]]
    passes = ", ".join(f"@{k} {_shown(samples['pass_at_k'][str(k)])}" for k in ks)
    text = (
        f"of {samples['n']} samples per task, reward {means}; pass {passes}; "
        f"{_shown(samples['distinct_outcomes'], 1)} different outcomes per task"
    )
    if samples["n_short"]:
        text += f"; {samples['n_short']} tasks have fewer counted samples"
    return text + "."


def _shown(value: float | None, n_digits: int = 3) -> str:
    return "–" if value is None or value != value else f"{value:.{n_digits}f}"
