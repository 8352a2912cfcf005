"""A player that plays as a person would, knowing only what it has read.

It looks for things where they usually are (`priors`), opens what is closed, and takes, treats and
puts down objects. It has the interface of an agent for one episode: `reset(task, seed)`, then
`act(observation, info)`. Of `info`, it reads only the grammar, which determines the syntax of
"put".
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any, Final, Literal, get_args

from eto_envs.alfworld.engine.problem import Goal
from eto_envs.alfworld.experts.memory import Memory, kind_of
from eto_envs.alfworld.experts.priors import Priors, load
from eto_envs.errors import UnknownNameError
from eto_envs.tasks import Task

_TASKS = {
    "two": r"(?:find|put) two (\w+) and put them in (\w+)|put two (\w+) in (\w+)",
    "look": r"(?:look at|examine the) (\w+) (?:under|with) the (\w+)",
    "clean": r"clean some (\w+) and put it in (\w+)|put a clean (\w+) in (\w+)",
    "heat": r"heat some (\w+) and put it in (\w+)|put a hot (\w+) in (\w+)",
    "cool": r"cool some (\w+) and put it in (\w+)|put a cool (\w+) in (\w+)",
    "place": r"put (?:a|some) (\w+) (?:in|on) (\w+)",
}
Order = Literal["likely", "likely-then-listed", "listed"]
"""How a room is searched: the most likely places first, with ties broken at random or by the order
in which the room's description lists them; or in that order alone."""

ORDERS: Final[tuple[str, ...]] = get_args(Order)

_APPLIANCES = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
_DOORS = ("cabinet", "drawer", "fridge", "microwave", "safe")
_RARE = 0.01  # assumed for combinations that are not in the priors


def read_task(text: str) -> Goal | None:
    """Parse the goal from the text of a game; None if its wording is unknown."""
    for kind, pattern in _TASKS.items():
        match = re.search(pattern, text, re.IGNORECASE)
        if match:
            thing, target = (name.lower() for name in match.groups() if name)
            return Goal(kind, thing, target)
    return None


class Explorer:
    """Plays one episode at a time."""

    def __init__(
        self,
        priors: Priors | None = None,
        order: Order = "likely",
        skip_treatment: float = 0.0,
    ) -> None:
        """Make a player.

        Args:
            priors: where things usually are; by default the priors that are part of the package.
            order: the order in which places are searched.
            skip_treatment: the fraction of episodes, in [0, 1], in which it forgets to clean, heat
                or cool the object: it puts it down untreated, and then only looks around.
        """
        if order not in ORDERS:
            raise UnknownNameError("order", order, ORDERS)
        if not 0 <= skip_treatment <= 1:
            raise ValueError(f"skip_treatment must be in [0, 1], got {skip_treatment}")
        self._order = order
        self._skip_treatment = skip_treatment
        self._skips = False
        self._priors = load() if priors is None else priors
        self._rng = random.Random(0)
        self._goal: Goal | None = None
        self._memory: Memory | None = None
        self._last = ""
        self._ranks: dict[str, float] = {}
        self._put = ""

    def reset(self, task: Task, seed: int) -> None:
        """Begin an episode; the task is read from the first observation."""
        self._rng = random.Random(seed)
        self._memory = None
        self._skips = self._skip_treatment > 0 and self._rng.random() < self._skip_treatment

    def act(self, observation: str, info: dict[str, Any]) -> str:
        """The next command."""
        if self._memory is None:
            self._memory = Memory.of_room(observation)
            self._goal = self._read_goal(observation)
            names = self._memory.receptacles
            ranks = [
                self._rng.random() if self._order == "likely" else k for k in range(len(names))
            ]
            self._ranks = dict(zip(names, ranks, strict=True))
            self._put = "put {} in/on {}" if info.get("grammar") == "2.1.1" else "move {} to {}"
        else:
            held = self._memory.held
            self._memory.learn(self._last, observation)
            if self._skips and held and not self._memory.held:
                self._goal = None  # the untreated object was put down: there is nothing left to do
        self._last = self._choose(self._memory)
        return self._last

    def _read_goal(self, observation: str) -> Goal | None:
        goal = read_task(observation)
        self._skips = self._skips and goal is not None and goal.kind in _APPLIANCES
        return goal._replace(kind="place") if goal is not None and self._skips else goal

    def _choose(self, memory: Memory) -> str:
        if self._goal is None:
            return "look"
        for command in self._candidates(memory, self._goal):
            return command
        # Everything has been searched and something went wrong: start over with a clean memory.
        memory.contents.clear()
        memory.blocked.clear()
        return next(self._search(memory, self._goal.object_type), "look")

    def _candidates(self, memory: Memory, goal: Goal) -> Iterator[str]:
        """Sensible commands, best first."""
        wanted = [goal.object_type]
        if goal.kind == "look":
            if kind_of(memory.held) == goal.object_type:
                yield from self._use_lamp(memory, goal.target_type)
                wanted = [goal.target_type]
            else:
                yield from self._fetch(memory, goal)
                if not memory.find(goal.target_type):
                    wanted.append(goal.target_type)
        elif memory.held:
            if goal.kind in _APPLIANCES and memory.held not in memory.treated:
                yield from self._treat(memory, goal.kind)
            yield from self._deliver(memory, goal.target_type)
        else:
            yield from self._fetch(memory, goal)
        yield from self._search(memory, *wanted)

    def _use_lamp(self, memory: Memory, kind: str) -> Iterator[str]:
        for lamp, place in memory.find(kind):
            yield from self._reach(memory, place)
            yield f"use {lamp}"

    def _fetch(self, memory: Memory, goal: Goal) -> Iterator[str]:
        """Take a suitable object that has been seen, nearest first."""
        seen = [
            (thing, place)
            for thing, place in memory.find(goal.object_type)
            if goal.kind == "look" or not self._is_done(memory, thing, place, goal)
        ]
        for thing, place in sorted(seen, key=lambda pair: pair[1] not in memory.here):
            yield from self._reach(memory, place)
            yield f"take {thing} from {place}"

    def _is_done(self, memory: Memory, thing: str, place: str, goal: Goal) -> bool:
        if kind_of(place) != goal.target_type:
            return False
        return goal.kind not in _APPLIANCES or thing in memory.treated

    def _treat(self, memory: Memory, kind: str) -> Iterator[str]:
        for place in self._near_first(memory, _APPLIANCES[kind]):
            if (memory.held, place) not in memory.blocked:
                yield from self._reach(memory, place, open_it=False)
                yield f"{kind} {memory.held} with {place}"

    def _deliver(self, memory: Memory, kind: str) -> Iterator[str]:
        """Put the object in hand where it belongs, next to one of its type if there is one."""
        places = self._near_first(memory, kind)
        own = kind_of(memory.held)
        places.sort(key=lambda place: not any(kind_of(o) == own for o in self._in(memory, place)))
        for place in places:
            if (memory.held, place) not in memory.blocked:
                yield from self._reach(memory, place)
                yield self._put.format(memory.held, place)

    def _near_first(self, memory: Memory, kind: str) -> list[str]:
        places = [name for name in memory.receptacles if kind_of(name) == kind]
        seen = memory.contents
        return sorted(places, key=lambda p: (p not in memory.here, p not in seen, self._ranks[p]))

    @staticmethod
    def _in(memory: Memory, place: str) -> set[str]:
        return memory.contents.get(place, set())

    def _reach(self, memory: Memory, place: str, *, open_it: bool = True) -> Iterator[str]:
        if place not in memory.here:
            yield f"go to {place}"
        if open_it and place in memory.closed:
            yield f"open {place}"

    def _search(self, memory: Memory, *kinds: str) -> Iterator[str]:
        """Inspect the receptacle with the highest chance of success per step."""
        unseen = [name for name in memory.receptacles if name not in memory.contents]
        for place in sorted(unseen, key=lambda name: self._priority(memory, name, kinds)):
            if place not in memory.here:
                yield f"go to {place}"
            elif self._has_door(memory, place):
                yield f"open {place}"
            else:
                yield f"examine {place}"

    def _priority(self, memory: Memory, place: str, kinds: tuple[str, ...]) -> tuple[float, float]:
        """A sort key, lower is better: the negative chance per step, then the rank of the place."""
        if self._order == "listed":
            return 0.0, self._ranks[place]
        chance = sum(self._priors.get(k, {}).get(kind_of(place), _RARE) for k in kinds)
        n_steps = (place not in memory.here) + self._has_door(memory, place)
        return -chance / max(1, n_steps), self._ranks[place]

    @staticmethod
    def _has_door(memory: Memory, place: str) -> bool:
        if place in memory.doorless:
            return False
        return place in memory.closed or kind_of(place) in _DOORS
