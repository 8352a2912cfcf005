"""Playing episodes into a file, so that an interrupted run plays only the missing ones.

Evaluation, exploration and scoring on development tasks all resume this way. The file format is in
`eto_agents.store`, the playing in `eto_agents.rollout`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from eto_agents.distributed import Cluster, Work
from eto_agents.live_episode import Job
from eto_agents.policy import Policy
from eto_agents.rollout import Rollouts, make_batch, open_task_set
from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import PLAYED, EpisodeKey, EpisodeSummary, Trajectory

FINAL: Final = (*PLAYED, "agent_error")
"""Statuses of episodes that are not played again when a run resumes."""


def split_jobs(
    split: str,
    jobs: Iterable[Job],
    known: Mapping[EpisodeKey, Trajectory],
    final: Sequence[str] = FINAL,
) -> tuple[dict[EpisodeKey, Trajectory], list[Job]]:
    """Split jobs into those that have been played and those that have not.

    Args:
        split: the split that the tasks belong to.
        jobs: the jobs of the run.
        known: the episodes on file.
        final: statuses of episodes that are not played again.

    Returns:
        The episodes of the finished jobs, in the order of `jobs`, and the remaining jobs.
    """
    finished: dict[EpisodeKey, Trajectory] = {}
    waiting: list[Job] = []
    for job in jobs:
        key = job.key(split)
        if key in known and known[key].status in final:
            finished[key] = known[key]
        else:
            waiting.append(job)
    return finished, waiting


def played_job(
    split: str, jobs: Iterable[Job], finished: Mapping[EpisodeKey, Trajectory]
) -> Job | None:
    """The first job whose episode was played to its end or limit; None if there is none."""
    for job in jobs:
        episode = finished.get(job.key(split))
        if episode is not None and episode.status in PLAYED and episode.steps:
            return job
    return None


def play_into(  # noqa: PLR0913 (each is a separate choice of the caller)
    store: TrajectoryStore,
    policy: Policy | Cluster,
    env_id: str,
    jobs: Sequence[Job],
    *,
    split: str,
    n_envs: int,
    env_args: Mapping[str, Any],
    on_end: Callable[[Trajectory | EpisodeSummary], None],
    action_timeout_s: float | None = None,
    known_to_work: Job | None = None,
) -> dict[EpisodeKey, Trajectory]:
    """Play jobs, many at once; each episode is on file before `on_end` is called with it.

    Args:
        store: an open store; after Ctrl-C the live episodes are stored as `cancelled`.
        policy: the agent, or the cluster that plays.
        env_id: the Gymnasium id.
        jobs: the episodes to play; if there are none, no environment is made.
        split: the split that the tasks belong to.
        n_envs: maximum number of episodes played at once, by each actor of a cluster.
        env_args: further keyword arguments for the environment.
        on_end: called with every episode that has ended.
        action_timeout_s: seconds an agent may take to decide before its episode ends as
            `agent_error`; None sets no limit.
        known_to_work: an episode of the run that has been played (`played_job`), so that tasks that
            alone are refused do not stop the run for ever. A cluster does without.

    Returns:
        The episodes by key.

    Raises:
        AgentFailedError: the agent fails in every episode; these episodes are not stored.
    """
    if not jobs:
        return {}
    if isinstance(policy, Cluster):
        tasks = open_task_set(env_id, split, env_args)
        arguments = {**env_args, "split": split}
        work = Work(env_id, arguments, tasks.sha256, n_envs, action_timeout_s)
        for block in policy.play(work, jobs):
            store.append_lines(block.lines)
            for summary in block.summaries:
                on_end(summary)
        # Parsed at the end: while they play, the actors need all of this process's time.
        played = {job.key(split) for job in jobs}
        return {key: episode for key, episode in store.latest().items() if key in played}
    ended: dict[EpisodeKey, Trajectory] = {}
    env = make_batch(env_id, policy, min(n_envs, len(jobs)), {**env_args, "split": split})
    rollouts = Rollouts(
        policy,
        env,
        jobs,
        action_timeout_s=action_timeout_s,
        is_whole_run=True,
        known_to_work=known_to_work,
    )
    try:
        for trajectory in rollouts:
            store.append(trajectory)
            ended[trajectory.key] = trajectory
            on_end(trajectory)
    except KeyboardInterrupt:
        for trajectory in rollouts.cancel():
            store.append(trajectory)
        raise
    finally:
        env.close()
    return ended
