"""What an evaluation sends to experiment trackers: scores so far, and at the end the results."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from typing import Final

from eto_agents.evaluation.results import AgentErrors, SplitResult
from eto_agents.evaluation.statistics import task_means
from eto_agents.tracking import Trackers
from eto_agents.trajectory import PLAYED, EpisodeSummary, Trajectory

N_POINTS: Final = 100
"""Number of points of a split's curve: one for each episode would be a line of a large file."""


class Reporter:
    """Sends the figures of one evaluation.

    The horizontal axis is the number of episodes on file, in all splits. An episode that is played
    again counts again, so that results that change when a run is resumed come after earlier ones.

    Args:
        trackers: the trackers of the run.
        n_records: number of episodes on file.
        agent_errors: how an episode in which the agent failed counts.
    """

    def __init__(self, trackers: Trackers, n_records: int, agent_errors: AgentErrors) -> None:
        """Start from the episodes on file."""
        self._trackers = trackers
        self._n_records = n_records
        self._agent_errors = agent_errors

    def on_episode(
        self, split: str, ended: Collection[Trajectory | EpisodeSummary], n_planned: int
    ) -> None:
        """Report an episode of a split that has just been stored.

        Args:
            split: the split's name.
            ended: all of the split's episodes that have ended, this one included.
            n_planned: number of episodes that are to be played.
        """
        self._n_records += 1
        is_due = len(ended) % -(-n_planned // N_POINTS) == 0
        if not is_due or len(ended) >= n_planned:  # the last one's figures are among the results
            return
        best: dict[tuple[str, int], float] = {}  # by task and seed
        for episode in ended:
            key = episode.key.task_id, episode.key.seed
            if episode.status in PLAYED:
                best[key] = max(episode.score, best.get(key, 0.0))
            elif episode.status == "agent_error" and self._agent_errors == "zero":
                best.setdefault(key, 0.0)
        means = task_means((task_id, score) for (task_id, _), score in best.items())
        reward = statistics.fmean(means.values()) if means else None
        self._log({split: {"episodes": len(ended), "reward": reward}})

    def on_results(self, splits: Mapping[str, SplitResult]) -> None:
        """Report the results of all splits."""
        self._log({name: _figures(result) for name, result in splits.items()})

    def _log(self, figures: Mapping[str, Mapping[str, float | None]]) -> None:
        flat = {f"{split}/{name}": n for split, own in figures.items() for name, n in own.items()}
        self._trackers.log({"step": self._n_records, **flat})


def _figures(result: SplitResult) -> dict[str, float | None]:
    return {
        "episodes": result.n_episodes,
        "missing": result.n_planned - result.n_episodes,
        "reward": result.reward.mean,
        "reward_low": result.reward.low,
        "reward_high": result.reward.high,
        "success": result.success.mean,
        "success_low": result.success.low,
        "success_high": result.success.high,
        "steps": result.steps,
        "invalid_actions": result.invalid_actions,
        "tokens": result.tokens,
    }
