"""Parts of a task set to train on: a development split out of train, and playing for exploration.

Everything that is tuned (a learning rate, which iteration to keep) is tuned on tasks split off
train; the splits ``seen`` and ``unseen`` are for one evaluation at the end. Reports with intervals
are `eto_agents.evaluation`'s part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym

from eto_agents.console import Episodes, Progress
from eto_agents.episodes import play_into, split_jobs
from eto_agents.policy import Policy
from eto_agents.processes import is_main_process
from eto_agents.rollout import jobs_of
from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import EpisodeKey, Trajectory
from eto_envs.tasks import Task


class SplitTasks(NamedTuple):
    """Train in two parts that have no task in common.

    Attributes:
        train: what is left of it, in its order.
        dev: the tasks to tune on, in its order.
    """

    train: list[Task]
    dev: list[Task]


def split_dev(tasks: Iterable[Task], n: int, seed: int = 0) -> SplitTasks:
    """Take `n` tasks out of train.

    Which ones depends on the tasks' ids and the seed, not on their order: those whose hash of seed
    and id is least. So it is the same on every machine, and more tasks to train on move few of it.

    Args:
        tasks: the train split, or a part of it; of tasks with one id the first counts.
        n: how many to take.
        seed: another seed takes others.

    Raises:
        ValueError: `n` is negative, or leaves nothing to train on.
    """
    unique = list({task.id: task for task in reversed(list(tasks))}.values())[::-1]
    if not 0 <= n < max(len(unique), 1):
        raise ValueError(f"a dev split of {n} cannot be split off {len(unique)} tasks")
    dev = draw(unique, n, f"dev/{seed}")
    taken = {task.id for task in dev}
    return SplitTasks([task for task in unique if task.id not in taken], dev)


def draw(tasks: Sequence[Task], n: int | None, key: str) -> list[Task]:
    """At most `n` of the tasks, in their order: those whose hash of key and id is least.

    Args:
        tasks: to draw from.
        n: how many; None takes all.
        key: another one draws others.
    """

    def place(task: Task) -> bytes:
        return hashlib.sha256(f"{key}/{task.id}".encode()).digest()

    taken = {task.id for task in sorted(tasks, key=place)[:n]}
    return [task for task in tasks if task.id in taken]


def tasks_of(env_id: str, split: str, env_args: Mapping[str, Any] | None = None) -> list[Task]:
    """The tasks of a split.

    Raises:
        UnknownNameError: no such split.
    """
    env = gym.make(env_id, split=split, **dict(env_args or {}))
    try:
        return list(env.unwrapped.tasks)  # type: ignore[attr-defined]
    finally:
        env.close()


def play(
    make_policy: Callable[[], Policy],
    env_id: str,
    tasks: Sequence[Task],
    file: Path,
    *,
    split: str,
    seeds: Sequence[int] = (0,),
    n_envs: int = 64,
    env_args: Mapping[str, Any] | None = None,
) -> list[Trajectory]:
    """Play tasks, many at once; a call that was interrupted resumes.

    Args:
        make_policy: makes the agent; called only if there is something to play.
        env_id: the Gymnasium id.
        tasks: tasks of `split`.
        file: where episodes are kept, as they end. Of several processes only the main one plays;
            the others, which have waited for it, read.
        split: its name.
        seeds: every task is played once for each.
        n_envs: episodes that are played at once.
        env_args: further arguments for the environment.

    Returns:
        The episodes in the order of seeds and tasks.
    """
    jobs = jobs_of(tasks, seeds)
    keys = [EpisodeKey(split, job.task.id, job.seed) for job in jobs]
    finished, waiting = split_jobs(split, jobs, TrajectoryStore(file).latest())
    show = Episodes(f"{file.parent.name} ")
    if waiting and is_main_process():
        show(Progress(split, len(finished), len(keys), None, list(finished.values())))

    def on_end(trajectory: Trajectory) -> None:
        finished[trajectory.key] = trajectory
        show(Progress(split, len(finished), len(keys), trajectory))

    if waiting and is_main_process():
        with TrajectoryStore(file) as store:
            play_into(
                store,
                make_policy(),
                env_id,
                waiting,
                split=split,
                n_envs=n_envs,
                env_args=env_args or {},
                on_end=on_end,
            )
    return [finished[key] for key in keys if key in finished]


def mean_score(episodes: Iterable[Trajectory]) -> float:
    """Mean final score; an episode in which the agent failed counts as 0.

    Raises:
        ValueError: there is no episode.
    """
    scores = [0.0 if e.status == "agent_error" else e.score for e in episodes]
    if not scores:
        raise ValueError("no episode was played")
    return sum(scores) / len(scores)
