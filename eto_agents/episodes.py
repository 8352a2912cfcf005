"""Episodes that are kept as they end, so that a run that was killed plays only what it lacks.

Evaluation, exploration and scoring on development tasks all go on in this way. The file is
`eto_agents.store`'s part, playing is `eto_agents.rollout`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from eto_agents.policy import Policy
from eto_agents.rollout import Job, Rollouts, make_batch
from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import PLAYED, EpisodeKey, Trajectory

FINAL: Final = (*PLAYED, "agent_error")
"""Statuses of episodes that are not played again."""


def sort_out(
    split: str,
    jobs: Iterable[Job],
    known: Mapping[EpisodeKey, Trajectory],
    final: Sequence[str] = FINAL,
) -> tuple[dict[EpisodeKey, Trajectory], list[Job]]:
    """The jobs that were done, as their episodes in the jobs' order, and those that are left."""
    finished: dict[EpisodeKey, Trajectory] = {}
    waiting: list[Job] = []
    for job in jobs:
        key = EpisodeKey(split, job.task.id, job.seed, job.sample)
        if key in known and known[key].status in final:
            finished[key] = known[key]
        else:
            waiting.append(job)
    return finished, waiting


def play_into(  # noqa: PLR0913 (each is one thing that the caller decides)
    store: TrajectoryStore,
    policy: Policy,
    env_id: str,
    jobs: Sequence[Job],
    *,
    split: str,
    n_envs: int,
    env_args: Mapping[str, Any],
    on_end: Callable[[Trajectory], None],
    action_timeout_s: float | None = None,
) -> None:
    """Play jobs, many at once; each episode is in the file before `on_end` gets it.

    Args:
        store: an open store; after Ctrl-C the episodes in flight are there as `cancelled`.
        policy: the agent.
        env_id: the Gymnasium id.
        jobs: what to play; of none no environment is made.
        split: the split that the tasks are of.
        n_envs: the most episodes that run at once.
        env_args: further arguments for the environment.
        on_end: called with every episode that has ended.
        action_timeout_s: an agent that takes longer to answer has failed; None waits for ever.
    """
    if not jobs:
        return
    env = make_batch(env_id, policy, min(n_envs, len(jobs)), {**env_args, "split": split})
    rollouts = Rollouts(policy, env, jobs, action_timeout_s=action_timeout_s)
    try:
        for trajectory in rollouts:
            store.append(trajectory)
            on_end(trajectory)
    except KeyboardInterrupt:
        for trajectory in rollouts.cancel():
            store.append(trajectory)
        raise
    finally:
        env.close()
