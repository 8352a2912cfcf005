"""Policies without a model: random, expert and replay.

They give a lower and an upper bound on what an agent can score, and they test the harness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eto_agents.policy import Decision
from eto_agents.runs import episodes_file
from eto_agents.store import TrajectoryStore
from eto_envs.errors import DataNotFoundError
from eto_envs.shaping import Info
from eto_envs.tasks import Task


class RandomPolicy:
    """Chooses uniformly among the admissible actions.

    An action with a placeholder for free text (WebShop's ``search[<keywords>]``) is filled with one
    to four random words of the instruction. Each episode has its own random generator, so that it
    does not depend on the other episodes of the batch.
    """

    name = "random"
    reveal = ("admissible_actions",)

    def __init__(self) -> None:
        """Start without generators; `reset` makes one per slot."""
        self._rngs: dict[int, np.random.Generator] = {}

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Seed each slot's generator."""
        self._rngs.update((s, np.random.default_rng(x)) for s, x in zip(slots, seeds, strict=True))

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[Info]
    ) -> list[Decision]:
        """Return a random action for each of `slots`."""
        return [
            Decision(self._pick(self._rngs[slot], info))
            for slot, info in zip(slots, infos, strict=True)
        ]

    @staticmethod
    def _pick(rng: np.random.Generator, info: Info) -> str:
        actions = info["admissible_actions"]
        if not actions:
            return ""
        action = str(actions[int(rng.integers(len(actions)))])
        if "<keywords>" not in action:
            return action
        words = info["goal"].split() or ["anything"]
        chosen = rng.choice(len(words), size=min(len(words), int(rng.integers(1, 5))))
        return action.replace("<keywords>", " ".join(words[int(i)] for i in chosen))


class ExpertPolicy:
    """Follows the world's expert, which uses information that is hidden from agents."""

    name = "expert"
    reveal = ("expert_action",)

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Do nothing: the environment's expert plans from the current state."""

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[Info]
    ) -> list[Decision]:
        """Return the expert's next action for each of `slots`."""
        return [Decision(info["expert_action"]) for info in infos]


class ReplayPolicy:
    """Repeats recorded actions, task by task; fails when none is left."""

    name = "replay"

    def __init__(
        self, source: str | Path | None = None, actions: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """Load the actions to repeat.

        Args:
            source: a run's folder or a file of trajectories; the last episode of a task counts.
            actions: the actions themselves, by task id.

        Raises:
            DataNotFoundError: there are no trajectories at `source`.
        """
        self._actions = {task: list(texts) for task, texts in (actions or {}).items()}
        if source is not None:
            path = episodes_file(Path(source))
            if not path.is_file():
                raise DataNotFoundError(f"no trajectories at {path}: run `eto eval` first")
            for trajectory in TrajectoryStore(path).read():
                self._actions[trajectory.task_id] = [step.action for step in trajectory.steps]
        self._left: dict[int, list[str]] = {}

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Start each task's recorded actions from the beginning."""
        for slot, task in zip(slots, tasks, strict=True):
            self._left[slot] = list(self._actions.get(task.id, ()))[::-1]

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[Info]
    ) -> list[Decision]:
        """Return the next recorded action for each of `slots`."""
        return [self._next(slot, info) for slot, info in zip(slots, infos, strict=True)]

    def _next(self, slot: int, info: dict[str, Any]) -> Decision:
        if self._left[slot]:
            return Decision(self._left[slot].pop())
        return Decision("", error=f"no recorded action left for task {info['task_id']!r}")
