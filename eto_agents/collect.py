"""`collect`: play expert trajectories to train on, into a resumable folder.

It evaluates (`eto_agents.evaluation.harness`) a policy whose decisions are put into words
(`eto_agents.policies.narrated`), and records the minimum score of the episodes to train on. In the
paper (section 4.1) the experts are people, GPT-4 and search, and episodes that score too low are
left out as well.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eto_agents.collection import Collection, check_min_score, read_collection
from eto_agents.console import Progress
from eto_agents.distributed import Cluster
from eto_agents.evaluation.harness import evaluate
from eto_agents.policies.narrated import NarratedPolicy
from eto_agents.worlds.narrator import Style

MIN_SCORE = 0.7  # the paper leaves out WebShop demonstrations that score less


def collect(  # noqa: PLR0913 (each is a separate choice of the user)
    policy: Any,
    env_id: str,
    splits: Sequence[str] = ("train",),
    *,
    out: str | Path,
    thoughts: Style = "none",
    min_score: float = MIN_SCORE,
    seeds: Sequence[int] = (0,),
    n_envs: int = 32,
    n_tasks: int | None = None,
    env_args: Mapping[str, Any] | None = None,
    action_timeout_s: float | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Collection:
    """Play every task of the splits, and select the episodes that score enough to train on.

    Args:
        policy: anything `evaluate` takes.
        env_id: the Gymnasium id.
        splits: the splits to play.
        out: the folder; repeating the call resumes an interrupted collection.
        thoughts: style of the thoughts that the narrator adds: ``"full"``, ``"brief"``, or
            ``"none"`` for "Action: …" alone.
        min_score: minimum final score of an episode to train on, in [0, 1]; recorded in
            ``run.json`` and applied on reading.
        seeds: every task is played once for each seed.
        n_envs: maximum number of episodes played at once.
        n_tasks: play only the first this many tasks of each split.
        env_args: keyword arguments for the environment.
        action_timeout_s: seconds an agent may take to decide before its episode ends as
            `agent_error`; None sets no limit.
        progress: see `evaluate`.

    Returns:
        What `read_collection` returns for the folder.

    Raises:
        UnknownNameError: an unknown split, policy, style or argument, or `min_score` is not in
            [0, 1].
        DataError: `out` holds another run.
        AgentFailedError: as in `evaluate`.
    """
    check_min_score(min_score)
    narrate = functools.partial(NarratedPolicy, style=thoughts)
    evaluate(
        policy.wrapped(narrate) if isinstance(policy, Cluster) else narrate(policy),
        env_id,
        splits,
        seeds=seeds,
        out=out,
        n_envs=n_envs,
        n_tasks=n_tasks,
        env_args=env_args,
        action_timeout_s=action_timeout_s,
        facts={"min_score": min_score},
        progress=progress,
    )
    return read_collection(out)
