"""`Results`: the outcome of an evaluation, and its JSON file.

Means are over tasks (the episodes of a task are averaged first), and only over episodes that the
task or its step limit ended; missing episodes are counted and reported.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from eto_agents.evaluation.statistics import Estimate, bounded_mean
from eto_agents.strict_json import write_json
from eto_agents.trajectory import PLAYED, STATUSES, Trajectory, check_schema
from eto_envs.errors import CorruptDataError, DataNotFoundError
from eto_envs.files import read_json

SCHEMA_VERSION = 2

AgentErrors = Literal["exclude", "zero"]
"""How an episode in which the agent failed counts: not at all, or as a score of 0."""


@dataclass(frozen=True, slots=True)
class SplitResult:
    """The results of one split.

    Attributes:
        split: the split's name.
        tasks_sha256: the hash of its task set.
        n_tasks: number of tasks in the means.
        n_episodes: number of episodes in the means.
        n_planned: number of episodes that were to be played.
        reward: average final score in [0, 1], with its interval.
        success: share of episodes with a score of 1, with its interval (`bounded_mean`).
        steps: mean number of steps.
        invalid_actions: share of actions that the world did not accept, in [0, 1].
        tokens: total of prompt and completion tokens; 0 for agents without a model.
        wall_s: total of the episodes' seconds (episodes played at once overlap in time).
        statuses: number of episodes by status.
        samples: metrics over all samples of a task if each task was played several times
            (`eto_agents.evaluation.samples.summarise_samples`). The other fields are then about
            the best samples, except that `tokens` and `wall_s` are about all of them.
    """

    split: str
    tasks_sha256: str
    n_tasks: int
    n_episodes: int
    n_planned: int
    reward: Estimate
    success: Estimate
    steps: float
    invalid_actions: float
    tokens: int
    wall_s: float
    statuses: dict[str, int]
    samples: dict[str, Any] = field(default_factory=dict)


def summarise(
    split: str,
    tasks_sha256: str,
    trajectories: Iterable[Trajectory],
    *,
    n_planned: int,
    agent_errors: AgentErrors = "exclude",
) -> SplitResult:
    """Summarise the episodes of one split."""
    episodes = list(trajectories)
    scored = counted_scores(episodes, agent_errors)
    counted = [e for e, _ in scored]
    n_steps = sum(len(e.steps) for e in counted)
    n_invalid = sum(not step.is_valid for e in counted for step in e.steps)
    statuses: Counter[str] = Counter(e.status for e in episodes)
    return SplitResult(
        split=split,
        tasks_sha256=tasks_sha256,
        n_tasks=len({e.task_id for e in counted}),
        n_episodes=len(counted),
        n_planned=n_planned,
        reward=bounded_mean((e.task_id, score) for e, score in scored),
        success=bounded_mean((e.task_id, float(e.success and e.status in PLAYED)) for e in counted),
        steps=n_steps / len(counted) if counted else float("nan"),
        invalid_actions=n_invalid / n_steps if n_steps else float("nan"),
        tokens=n_tokens(episodes),
        wall_s=sum(e.wall_s for e in episodes),
        statuses={status: statuses[status] for status in STATUSES if statuses[status]},
    )


def counted_scores(
    episodes: Iterable[Trajectory], agent_errors: AgentErrors = "exclude"
) -> list[tuple[Trajectory, float]]:
    """The episodes that count in means, each with the score it counts with."""
    return [
        (episode, episode.score if episode.status in PLAYED else 0.0)
        for episode in episodes
        if episode.status in PLAYED or (episode.status == "agent_error" and agent_errors == "zero")
    ]


def n_tokens(episodes: Iterable[Trajectory]) -> int:
    """Total of prompt and completion tokens."""
    return int(sum(_tokens(step.usage) for e in episodes for step in e.steps))


def _tokens(usage: Mapping[str, float]) -> float:
    return usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0)


@dataclass(frozen=True, slots=True)
class Results:
    """The outcome of an evaluation.

    Attributes:
        env_id: the Gymnasium id.
        dataset: the dataset's name.
        policy: the policy's name.
        splits: results by split.
        provenance: what is needed to repeat it: arguments, seeds, versions, commit, model.
    """

    env_id: str
    dataset: str
    policy: str
    splits: dict[str, SplitResult]
    provenance: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION

    def save(self, path: Path) -> None:
        """Write the JSON file, whole or not at all."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a results file, or the one in a run's folder.

        Raises:
            DataNotFoundError: there is no such file.
            CorruptDataError: it is damaged, or has another schema.
        """
        path = path / "results.json" if path.is_dir() else path
        if not path.is_file():
            raise DataNotFoundError(f"no results at {path}: run `eto eval --out {path.parent}`")
        record = read_json(path)
        try:
            check_schema(str(path), record["schema"], SCHEMA_VERSION)
            for name, split in record["splits"].items():
                for key in ("reward", "success"):
                    mean, low, high = split[key]
                    split[key] = Estimate(_number(mean), low, high)
                for key in ("steps", "invalid_actions"):
                    split[key] = _number(split[key])
                record["splits"][name] = _checked(SplitResult(**split))
            results = cls(**record)
            if not {*map(type, (results.env_id, results.dataset, results.policy))} <= {str}:
                raise ValueError("a name is not text")
            known = ("policy", "env_args", "versions")
            parts = [results.provenance.get(name, {}) for name in known]
            if not all(isinstance(part, dict) for part in (results.provenance, *parts)):
                raise ValueError("its provenance has the wrong type")
            return results
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptDataError(f"{path} is not a results file ({error!r})") from error


def _checked(split: SplitResult) -> SplitResult:
    """The split, if its numbers are numbers; raises ValueError otherwise."""
    numbers = (split.steps, split.invalid_actions, split.tokens, split.wall_s, split.reward.mean)
    counts = (split.n_tasks, split.n_episodes, split.n_planned, *split.statuses.values())
    ends = (*split.reward[1:], *split.success)
    fits = {*map(type, (*numbers, *ends))} <= {int, float, type(None)}
    if not fits or not {*map(type, counts)} <= {int} or type(split.samples) is not dict:
        raise ValueError(f"a value of split {split.split!r} has the wrong type")
    return split


def _number(value: float | None) -> float:
    """A mean of nothing is NaN, which is null in JSON."""
    return float("nan") if value is None else value
