"""Splitting development tasks off train, and playing tasks during training.

Everything that is tuned (a learning rate, the number of iterations) is tuned on development tasks
held out of train; the splits ``seen`` and ``unseen`` are for a single evaluation at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eto_agents.console import Episodes, Progress
from eto_agents.distributed import Cluster
from eto_agents.episodes import play_into, played_job, split_jobs
from eto_agents.policy import Policy
from eto_agents.processes import is_main_process
from eto_agents.rollout import jobs_of, open_task_set
from eto_agents.settings import Playing
from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import PLAYED, EpisodeKey, EpisodeSummary, Trajectory
from eto_envs.tasks import Task


class SplitTasks(NamedTuple):
    """The train split, divided into two disjoint parts.

    Attributes:
        train: the tasks to train on, in their order.
        dev: the development tasks, in their order.
    """

    train: list[Task]
    dev: list[Task]


def split_dev(tasks: Iterable[Task], n: int, seed: int = 0) -> SplitTasks:
    """Hold `n` development tasks out of train.

    The selection depends on the tasks' ids and the seed, not on their order: the tasks with the
    smallest hash of seed and id are taken. So it is the same on every machine, and it changes
    little when tasks are added.

    Args:
        tasks: the train split, or a part of it; of tasks with the same id the first counts.
        n: number of development tasks.
        seed: seed of the selection.

    Raises:
        ValueError: `n` is negative, or leaves no task to train on.
    """
    unique = list({task.id: task for task in reversed(list(tasks))}.values())[::-1]
    if not 0 <= n < max(len(unique), 1):
        raise ValueError(f"cannot hold {n} development tasks out of {len(unique)} tasks")
    dev = draw(unique, n, f"dev/{seed}")
    dev_ids = {task.id for task in dev}
    return SplitTasks([task for task in unique if task.id not in dev_ids], dev)


def draw(tasks: Sequence[Task], n: int | None, key: str) -> list[Task]:
    """Draw at most `n` tasks pseudo-randomly: those with the smallest hash of key and id.

    Args:
        tasks: the tasks to draw from.
        n: maximum number of tasks; None returns all.
        key: seed of the draw, any text.

    Returns:
        The drawn tasks, in their original order.
    """

    def rank(task: Task) -> bytes:
        return hashlib.sha256(f"{key}/{task.id}".encode()).digest()

    drawn_ids = {task.id for task in sorted(tasks, key=rank)[:n]}
    return [task for task in tasks if task.id in drawn_ids]


def tasks_of(env_id: str, split: str, env_args: Mapping[str, Any] | None = None) -> list[Task]:
    """The tasks of a split.

    Raises:
        UnknownNameError: there is no such split.
    """
    return list(open_task_set(env_id, split, env_args))


def playing_tasks(settings: Playing) -> SplitTasks:
    """The tasks that a method plays to learn from, and the development tasks split off them.

    Raises:
        UnknownNameError: there is no such split.
        ValueError: as in `split_dev`.
    """
    tasks = tasks_of(settings.env, settings.split, settings.env_args)[: settings.n_tasks]
    return split_dev(tasks, settings.dev_tasks, settings.dev_seed)


def play(
    make_policy: Callable[[], Policy | Cluster],
    env_id: str,
    tasks: Sequence[Task],
    file: Path,
    *,
    split: str,
    seeds: Sequence[int] = (0,),
    n_envs: int = 64,
    env_args: Mapping[str, Any] | None = None,
) -> list[Trajectory]:
    """Play tasks, many at once; repeating an interrupted call resumes.

    Args:
        make_policy: makes the agent, or the cluster on which it plays; called only if there is
            something to play.
        env_id: the Gymnasium id.
        tasks: tasks of `split`.
        file: file in which episodes are stored as they end. Of several processes only the main one
            plays; the others, which have waited for it, read the file.
        split: name of the split.
        seeds: every task is played once for each seed.
        n_envs: number of episodes played at once.
        env_args: further keyword arguments for the environment.

    Returns:
        The episodes in the order of seeds and tasks.

    Raises:
        AgentFailedError: the agent fails in every episode; repeat the call to resume.
    """
    jobs = jobs_of(tasks, seeds)
    keys = [job.key(split) for job in jobs]
    finished, waiting = split_jobs(split, jobs, TrajectoryStore(file).latest())
    show = Episodes(f"{file.parent.name} ")
    if waiting and is_main_process():
        show(Progress(split, len(finished), len(keys), None, list(finished.values())))

    ended: set[EpisodeKey] = set(finished)

    def on_end(episode: Trajectory | EpisodeSummary) -> None:
        ended.add(episode.key)
        show(Progress(split, len(ended), len(keys), episode))

    if waiting and is_main_process():
        with contextlib.ExitStack() as stack:
            store = stack.enter_context(TrajectoryStore(file))
            policy = make_policy()
            if isinstance(policy, Cluster):
                stack.enter_context(policy)
            finished |= play_into(
                store,
                policy,
                env_id,
                waiting,
                split=split,
                n_envs=n_envs,
                env_args=env_args or {},
                on_end=on_end,
                known_to_work=played_job(split, jobs, finished),
            )
    return [finished[key] for key in keys if key in finished]


def mean_score(episodes: Iterable[Trajectory]) -> float:
    """Mean final score in [0, 1], as evaluation counts it.

    An episode in which the agent failed counts as 0; one in which the environment failed, or that
    was cancelled, is left out.

    Raises:
        ValueError: no episode counts.
    """
    counted = [e for e in episodes if e.status in (*PLAYED, "agent_error")]
    if not counted:
        raise ValueError("the mean score of no episodes is undefined")
    return sum(0.0 if e.status == "agent_error" else e.score for e in counted) / len(counted)
