"""Small trajectories for tests of training."""

from __future__ import annotations

from pathlib import Path

from eto_agents.models.checkpoint import Checkpoint
from eto_agents.models.tiny import make_tiny
from eto_agents.store import TrajectoryStore
from eto_agents.training.rows import texts_of
from eto_agents.trajectory import Step, Trajectory


def episode(
    n: int = 0, *, score: float = 1.0, status: str = "completed", n_steps: int = 2
) -> Trajectory:
    steps = [
        Step(
            action=f"go to desk {k + n}",
            observation=f"On the desk {k + n}, you see a mug {k}.",
            reward=0.0,
            task_reward=0.0,
            reward_terms={},
            score=score,
            is_valid=True,
            text=f"Thought: find mug\nAction: go to desk {k + n}",
            thought="find mug",
        )
        for k in range(n_steps)
    ]
    return Trajectory(
        env_id="ETO-ALFWorld-v0",
        world="alfworld",
        dataset="mini",
        split="train",
        tasks_sha256="0" * 64,
        task_id=f"look_at_obj_in_light-Mug-None-DeskLamp-1/trial_{n}",
        kind="look_at_obj_in_light",
        goal="look at mug",
        seed=0,
        policy="expert",
        initial_observation=f"You see a desk {n}.\nYour task is to: look at mug.",
        messages=[],
        steps=steps,
        status=status,  # type: ignore[arg-type]
        score=score,
        success=score == 1.0,
    )


def write(folder: Path, episodes: list[Trajectory]) -> Path:
    with TrajectoryStore(folder / "episodes.jsonl") as store:
        for one in episodes:
            store.append(one)
    return folder


def nano(episodes: list[Trajectory]) -> Checkpoint:
    return make_tiny(texts_of(episodes), size="nano", vocab_size=400)
