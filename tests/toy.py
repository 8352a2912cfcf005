"""A corridor to walk: the smallest world of the contract, for tests of what all worlds share."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from eto_envs.core import Advance, TextEnv
from eto_envs.tasks import SPLITS, Task, TaskSet, TaskSets
from eto_envs.vector import TextVectorEnv

CORRIDOR = "eto-test/Corridor-v0"
BROKEN = "eto-test/Broken-v0"


def _make_task(task_id: str) -> Task:
    length = int(task_id.removeprefix("room"))
    return Task(id=task_id, goal=f"walk {length} rooms", max_steps=12, data={"length": length})


def corridor_tasks(n: int = 5, split: str = "train") -> TaskSet:
    """The same `n` corridors in every split but ``"long"``, whose corridors no other has."""
    first = 10 if split == "long" else 2
    ids = [f"room{i + first}" for i in range(n)]
    return TaskSet(ids, _make_task, split=split, dataset="toy", fingerprint="v1")


class CorridorEnv(TextEnv):
    """Walk `length` rooms to the east; each new room pays, the last one ends the task."""

    world = "corridor"

    def __init__(self, n: int = 5, split: str = "train", **kwargs: Any) -> None:
        sets = TaskSets((*SPLITS, "long"), lambda name: corridor_tasks(n, name))
        super().__init__(sets, split, **kwargs)
        self._position = self._furthest = self._length = 0

    def _start(self, task: Task) -> str:
        self._position = self._furthest = 0
        self._length = int(task.data["length"])
        return f"{task.goal}. You are in room 0."

    def _advance(self, action: str) -> Advance:
        is_valid = action in ("east", "west")
        if action == "east":
            self._position += 1
        elif action == "west":
            self._position = max(0, self._position - 1)
        self._furthest = max(self._furthest, self._position)
        text = f"You are in room {self._position}." if is_valid else "Nothing happens."
        score = self._furthest / self._length
        return Advance(text, score, self._furthest == self._length, is_valid)

    def _reveal(self, name: str) -> Any:
        return {
            "admissible_actions": ["east", "west"],
            "expert_action": "east",
            "hidden_state": {"position": self._position},
        }[name]

    def _world_state(self) -> Any:
        return (self._position, self._furthest)

    def _set_world_state(self, task: Task, state: Any) -> None:
        self._length = int(task.data["length"])
        self._position, self._furthest = state


class BrokenEnv(CorridorEnv):
    """Of its corridors the first fails at its first step, and the last cannot be entered."""

    def _start(self, task: Task) -> str:
        if task.id == "room6":
            raise OSError("no world")
        return super()._start(task)

    def _advance(self, action: str) -> Advance:
        if self._length == 2:
            raise OSError("the world ended")
        return super()._advance(action)


def corridor_vector_env(**kwargs: Any) -> TextVectorEnv:
    return TextVectorEnv(CorridorEnv, **kwargs)


gym.register(
    CORRIDOR,
    entry_point="tests.toy:CorridorEnv",
    vector_entry_point="tests.toy:corridor_vector_env",
)
gym.register(BROKEN, entry_point="tests.toy:BrokenEnv")
