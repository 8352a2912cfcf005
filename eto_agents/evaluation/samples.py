"""Figures of a split whose tasks were played several times each: what Best-of-N reports.

Which sample is chosen, pass@k and majority are defined in `eto_agents.best_of_n`; here they are
averaged over tasks, with intervals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from eto_agents.best_of_n import best, best_at_k, majority, outcome, pass_at_k
from eto_agents.evaluation.results import AgentErrors, counted_scores
from eto_agents.evaluation.statistics import clustered_mean
from eto_agents.trajectory import STATUSES, Trajectory

Group = list[Trajectory]


def by_task_and_seed(episodes: Iterable[Trajectory]) -> list[Group]:
    """The samples of each task under each seed, in an order that the episodes' has no part in."""
    groups: dict[Hashable, Group] = {}
    for episode in sorted(episodes, key=lambda t: (t.seed, t.task_id, t.sample)):
        groups.setdefault((episode.seed, episode.task_id), []).append(episode)
    return list(groups.values())


def chosen(groups: Iterable[Group]) -> list[Trajectory]:
    """The best sample of each group."""
    return [best(group) for group in groups]


def figures(
    groups: Sequence[Group], n_samples: int, *, agent_errors: AgentErrors = "exclude"
) -> dict[str, Any]:
    """What N samples a task say, as JSON-able values.

    Means are over tasks; a sample that ended as `agent_error` counts as nothing, or as a score of
    0; a figure of k samples is over the tasks that have k counted samples.

    Returns:
        ``n``; ``reward_mean``, ``reward_majority`` and ``reward_best``, each ``[mean, low, high]``;
        ``pass_at_k`` and ``best_at_k``, by ``"1"`` … ``"N"``; ``distinct_outcomes``, the mean
        number of different outcomes a task; ``statuses`` of all samples; ``n_short``, the
        number of tasks and seeds with fewer counted samples than N.
    """
    kept = [(group[0].task_id, counted_scores(group, agent_errors)) for group in groups]
    kept = [(task, samples) for task, samples in kept if samples]
    scores = [(task, [score for _, score in samples]) for task, samples in kept]
    trajectories = [(task, [t for t, _ in samples]) for task, samples in kept]
    majorities = [(task, _majority_score(samples)) for task, samples in kept]
    statuses: Counter[str] = Counter(t.status for group in groups for t in group)
    ks = range(1, n_samples + 1)
    return {
        "n": n_samples,
        "reward_mean": list(clustered_mean((task, sum(s) / len(s)) for task, s in scores)),
        "reward_majority": list(clustered_mean(majorities)),
        "reward_best": list(clustered_mean((task, max(s)) for task, s in scores)),
        "pass_at_k": {
            str(k): _mean((t, pass_at_k(len(s), _n_wins(s), k)) for t, s in scores if len(s) >= k)
            for k in ks
        },
        "best_at_k": {
            str(k): _mean((t, best_at_k(s, k)) for t, s in scores if len(s) >= k) for k in ks
        },
        "distinct_outcomes": _mean((t, float(len(set(map(outcome, s))))) for t, s in trajectories),
        "statuses": {name: statuses[name] for name in STATUSES if statuses[name]},
        "n_short": sum(len(samples) < n_samples for _, samples in kept) + (len(groups) - len(kept)),
    }


def _majority_score(samples: list[tuple[Trajectory, float]]) -> float:
    scores = {t.sample: score for t, score in samples}
    return scores[majority([t for t, _ in samples]).sample]


def _n_wins(scores: Sequence[float]) -> int:
    return sum(score >= 1.0 for score in scores)


def _mean(values: Iterable[tuple[Hashable, float]]) -> float | None:
    """The mean over tasks; None if there is none."""
    by_task: dict[Hashable, list[float]] = {}
    for task, value in values:
        by_task.setdefault(task, []).append(value)
    if not by_task:
        return None
    return sum(sum(v) / len(v) for v in by_task.values()) / len(by_task)


def sentence(samples: dict[str, Any]) -> str:
    """The figures in one sentence for a report."""
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
        f"of {samples['n']} samples a task, reward {means}; pass {passes}; "
        f"{_shown(samples['distinct_outcomes'], 1)} different outcomes a task"
    )
    if samples["n_short"]:
        text += f"; {samples['n_short']} tasks have fewer samples that count"
    return text + "."


def _shown(value: float | None, n_digits: int = 3) -> str:
    return "–" if value is None or value != value else f"{value:.{n_digits}f}"
