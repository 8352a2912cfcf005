"""Run folders made for tests: whatever scores a test wants, without playing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eto_agents.runs import episodes_folder
from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import Trajectory
from tests.agents.test_trajectory import episode


def made_episode(task: str, score: float, **changes: Any) -> Trajectory:
    """An episode of one step that ends with a score."""
    base = episode(task)
    steps = [dataclasses.replace(base.steps[0], score=score)]
    values: dict[str, Any] = {"score": score, "success": score == 1.0, "steps": steps}
    return dataclasses.replace(base, **(values | {"status": "completed"} | changes))


def made_run(
    folder: Path,
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    policy: str = "agent",
    env_id: str = "ETO-ALFWorld-v0",
    dataset: str = "mini",
    tasks_hash: str = "aa",
    env_args: Mapping[str, Any] | None = None,
    n_planned: Mapping[str, int] | None = None,
    model: str = "",
    kinds: Sequence[str] = ("",),
) -> Path:
    """Write a run: split to task to the scores of its seeds."""
    run = episodes_folder(
        folder,
        env_id=env_id,
        env_args=env_args or {},
        policy=policy,
        policy_provenance={"model": model},
        task_sets={split: tasks_hash + split for split in scores},
    )
    counts = {split: sum(map(len, tasks.values())) for split, tasks in scores.items()}
    with run, TrajectoryStore(run.episodes) as store:
        run.state(n_planned=dict(n_planned or counts))
        for split, tasks in scores.items():
            for number, (task, found) in enumerate(tasks.items()):
                for seed, score in enumerate(found):
                    made = made_episode(
                        task,
                        score,
                        env_id=env_id,
                        dataset=dataset,
                        split=split,
                        tasks_sha256=tasks_hash + split,
                        policy=policy,
                        seed=seed,
                        kind=kinds[number % len(kinds)],
                    )
                    store.append(made)
    return folder


def scores_of(*scores: float) -> dict[str, list[float]]:
    """Tasks t0, t1, … with one seed each."""
    return {f"t{i:03}": [score] for i, score in enumerate(scores)}
