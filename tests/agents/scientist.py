"""A scripted agent for ScienceWorld: the same score through every way into the worlds.

It does all that the expert does but for the end, and then waits for the step limit, so that its
score is a part of the whole.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from eto_agents import run_episode

SCIENCEWORLD: Final = "ETO-ScienceWorld-v0"
SEEN: Final[dict[str, Any]] = {"split": "seen", "dataset": "1.2.3"}
TASKS: Final = (
    "chemistry-mix-paint-secondary-color/26",
    "find-animal/170",
    "find-living-thing/155",
)


class Script:
    """Takes given actions."""

    def __init__(self, actions: Sequence[str]) -> None:
        self._actions = actions
        self._rest: Iterator[str] = iter(())

    def reset(self, task: Any, seed: int) -> None:
        self._rest = iter(self._actions)

    def act(self, observation: str, info: Any) -> str:
        return next(self._rest)


@functools.cache
def actions_of(task: str) -> tuple[str, ...]:
    """What the agent does in a task, up to the step limit."""
    expert = run_episode("expert", SCIENCEWORLD, task, **SEEN)
    assert expert.success
    return (*(step.action for step in expert.steps[:-1]), *["wait1"] * 15)


@functools.cache
def score_of(task: str) -> float:
    """The score that `eto_agents` gives the agent in a task."""
    episode = run_episode(Script(actions_of(task)), SCIENCEWORLD, task, **SEEN)
    assert episode.status == "truncated"
    assert 0 < episode.score < 1
    return episode.score


def agent_of(task: str) -> Callable[[Any], str]:
    """The agent in a task, as a function of whatever it reads, which it ignores."""
    rest = iter(actions_of(task))
    return lambda _: next(rest)


def replier_of(task: str) -> Callable[[Any], str]:
    """The same in the protocol "thought"."""
    agent = agent_of(task)
    return lambda read: f"Thought: go on.\nAction: {agent(read)}"
