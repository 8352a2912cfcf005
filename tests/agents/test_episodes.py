"""Finished episodes are not played again, and are stored before they are reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eto_agents.episodes import play_into, split_jobs
from eto_agents.policy import as_policy
from eto_agents.rollout import jobs_of, run_episode
from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import Trajectory

ENV = "ETO-WebShop-v0"


def test_jobs_with_a_final_episode_are_finished() -> None:
    played = run_episode("expert", ENV, 0, dataset="mini", split="seen")
    tasks = _tasks()[:2]
    jobs = jobs_of(tasks, (0,))
    finished, waiting = split_jobs("seen", jobs, {played.key: played})
    assert (list(finished), [job.task.id for job in waiting]) == ([played.key], [tasks[1].id])
    for status, n_left in (("cancelled", 2), ("env_error", 2), ("agent_error", 1)):
        other = replace(played, status=status)
        assert len(split_jobs("seen", jobs, {other.key: other})[1]) == n_left
    assert len(split_jobs("unseen", jobs, {played.key: played})[1]) == 2


def test_an_interrupted_call_stores_finished_and_live_episodes(tmp_path: Path) -> None:
    stored: list[str] = []
    with TrajectoryStore(tmp_path / "episodes.jsonl") as store:

        def stop(trajectory: Trajectory) -> None:
            stored.extend(t.task_id for t in store.read())
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            play_into(
                store,
                as_policy("expert"),
                ENV,
                jobs_of(_tasks()[:3], (0,)),
                split="seen",
                n_envs=2,
                env_args={"dataset": "mini"},
                on_end=stop,
            )
    assert len(stored) == 1
    statuses = [t.status for t in TrajectoryStore(tmp_path / "episodes.jsonl").read()]
    assert statuses[0] == "completed"
    assert "cancelled" in statuses


def _tasks() -> list:
    import gymnasium as gym

    import eto_envs  # noqa: F401 (registers the ids)

    return list(gym.make(ENV, dataset="mini", split="seen").unwrapped.tasks[:3])
