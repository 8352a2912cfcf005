"""ALFWorld: its prompts, narrator and flaws.

The narrator uses the explorer's memory (`eto_envs.alfworld.experts.memory`), which holds only what
a player has read: an object "may" be at any place that was not looked into.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from eto_agents.react.parse import LENIENT, Format
from eto_agents.worlds.base import World
from eto_agents.worlds.narrator import Narrator, Style, capitalised, with_article
from eto_envs.alfworld.engine.problem import Goal
from eto_envs.alfworld.engine.rules import NOTHING_HAPPENS
from eto_envs.alfworld.experts.explorer import read_task
from eto_envs.alfworld.experts.memory import Memory, kind_of, split_command
from eto_envs.shaping import Info

if TYPE_CHECKING:
    from eto_agents.trajectory import Trajectory


class ALFWorld(World):
    """Household tasks in text."""

    name = "alfworld"
    title = "ALFWorld"
    env_id = "ETO-ALFWorld-v0"
    format = Format(
        LENIENT, "Observation: Error Input. Your input must contains 'Action: '", "Observation: "
    )
    variants = ("alfworld-2.1.1", "alfworld-2.1.2")
    # ETO published prompts in the wording of 2.1.1 only.
    published: ClassVar = {"alfworld-2.1.1": "alfworld"}
    columns: ClassVar = {"alfworld_seen": "seen", "alfworld_unseen": "unseen"}
    dataset = "2.1.1"
    refusals = r"Nothing happens\."
    goal = r"Your task is to: (.*)"
    has_more_tasks = True
    licence = "The texts are ALFWorld's, under the MIT licence."

    def variant(self, info: Info) -> str:
        """The variant with the wording of the episode's game."""
        return f"{self.name}-{info['grammar']}"

    def variant_of(self, trajectory: Trajectory) -> str:
        """The variant with the wording of the recorded game."""
        # The dataset's name does not always tell the version, but only 2.1.2 has "move X to Y".
        moved = any(re.match(r"move .+ to ", step.action) for step in trajectory.steps)
        is_212 = moved or trajectory.dataset.endswith("2.1.2")
        return "alfworld-2.1.2" if is_212 else "alfworld-2.1.1"

    @property
    def flaws(self) -> type[Any]:
        """The flaws of an imperfect player."""
        return ALFWorldFlaws

    def narrator(self, style: Style, rng: random.Random) -> Narrator:
        """Make a narrator of thoughts about what is left to do and where to look."""
        return ALFWorldNarrator(style, rng)

    def write_more_tasks(self, folder: Path, n_rounds: int) -> None:
        """Generate games in additional rooms."""
        from eto_envs.alfworld.mini.games import write_mini

        write_mini(folder, n_rounds)


_APPLIANCES = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
_DONE = {"clean": "clean", "heat": "hot", "cool": "cool"}


class ALFWorldNarrator(Narrator):
    """Writes the thoughts of one ALFWorld episode."""

    def __init__(self, style: Style, rng: random.Random) -> None:
        """Start; the task is read from the initial observation."""
        super().__init__(style, rng)
        self._memory: Memory | None = None
        self._goal: Goal | None = None
        self._failed = False

    def see(self, observation: str, action: str) -> None:
        """Update the memory of what has been seen where."""
        if self._memory is None:
            self._memory = Memory.of_room(observation)
            self._goal = read_task(observation)
        else:
            self._memory.learn(action, observation)
        self._failed = observation == NOTHING_HAPPENS

    # The current state

    @property
    def _known(self) -> Memory:
        return self._memory if self._memory is not None else Memory([])

    def _is_target(self, thing: str) -> bool:
        """Whether an object is of the goal's type."""
        return self._goal is not None and kind_of(thing) == self._goal.object_type

    def _is_ready(self, thing: str) -> bool:
        """Whether an object has been cleaned, heated or cooled if the goal requires it."""
        goal = self._goal
        return goal is None or goal.kind not in _APPLIANCES or thing in self._known.treated

    def _n_placed(self) -> int:
        """Number of the goal's objects that were seen at their destination."""
        goal = self._goal
        if goal is None:
            return 0
        places = [p for p in self._known.contents if kind_of(p) == goal.target_type]
        return sum(self._is_target(o) for place in places for o in self._known.contents[place])

    def _elsewhere(self) -> list[tuple[str, str]]:
        """The goal's objects that were seen away from their destination, each with its place."""
        goal = self._goal
        if goal is None:
            return []
        seen = self._known.find(goal.object_type)
        if goal.kind == "look":
            return seen
        return [
            (thing, place)
            for thing, place in seen
            if kind_of(place) != goal.target_type or not self._is_ready(thing)
        ]

    # Brief thoughts

    def brief(self, action: str) -> str:
        """The current subgoal: ``mug?``, ``mug 2`` if it is here, ``clean mug``, ``put mug shelf``.

        The object comes first and is followed by its number, if it is in the latest observation, or
        by a question mark, since copying is what a tiny model learns first.
        """
        goal, memory = self._goal, self._known
        if goal is None:
            return split_command(action)[0]
        target, held = goal.object_type, memory.held
        verb, *named = split_command(action)
        if goal.kind == "look" and self._is_target(held):
            if verb == "use":
                return named[0]
            lamp = goal.target_type
            return f"use {lamp}" if memory.find(lamp) else f"{lamp}?"
        if self._is_target(held):
            if not self._is_ready(held):
                return f"{goal.kind} {target}"
            return f"put {target} {goal.target_type}"
        if verb == "take" and self._is_target(named[0]):
            return named[0]
        return f"take {target}" if self._elsewhere() else f"{target}?"

    # Full thoughts

    def full(self, action: str) -> str:
        """The reason for the action, given what was seen."""
        verb, *names = split_command(action)
        before = self.pick("That did nothing. ", "Nothing happened. ") if self._failed else ""
        match verb, names:
            case "go to", [place]:
                why = self._going(place)
            case "open", [place]:
                why = self._opening(place)
            case "take", [thing, place]:
                why = self._taking(thing, place)
            case (("put" | "move"), [thing, place]):
                why = self._putting(thing, place)
            case (("clean" | "heat" | "cool"), [thing, place]):
                why = self._treating(verb, thing, place)
            case "use", [thing]:
                why = self._using(thing)
            case _:
                why = self._other(action)
        return before + why

    def _going(self, place: str) -> str:
        goal, memory = self._goal, self._known
        if goal is None:
            return self.pick(f"I go to {place}.", f"Next is {place}.")
        if self._is_target(memory.held):
            return self._carrying(goal, memory.held, place)
        here = [thing for thing, where in self._elsewhere() if where == place]
        if here:
            return self.pick(
                f"I saw {here[0]} at {place}. I go there to take it.",
                f"{capitalised(here[0])} is at {place}, and I need {self._need(goal)}. I go there.",
            )
        return self._searching(goal.object_type, self._need(goal), place)

    def _carrying(self, goal: Goal, held: str, place: str) -> str:
        """On the way to a place, carrying one of the goal's objects."""
        kind, adjective = kind_of(place), _DONE.get(goal.kind, "")
        if goal.kind == "look":
            if any(where == place for _, where in self._known.find(goal.target_type)):
                return self.pick(
                    f"I have {held}, and I saw a {goal.target_type} at {place}. I take it there.",
                    f"The {goal.target_type} is at {place}. I bring {held} to it.",
                )
            return self._searching(goal.target_type, f"a {goal.target_type}", place)
        if not self._is_ready(held):
            if kind == _APPLIANCES[goal.kind]:
                return self.pick(
                    f"I carry {held}. It must be {adjective}, and {place} can do that.",
                    f"Before {held} is put away it has to be {adjective}. "
                    f"I go to {place} to {goal.kind} it.",
                    f"The next step is to {goal.kind} {held}, at {place}.",
                )
            return f"I carry {held} and go to {place} first."
        if kind == goal.target_type:
            state = f"{held} is {adjective} now" if adjective else f"I have {held}"
            return self.pick(
                f"{capitalised(state)}. It belongs in or on a {kind}, so I go to {place}.",
                f"{capitalised(state)}. What is left is to bring it to a {kind}; I go to {place}.",
            )
        return f"I carry {held} and go to {place}."

    def _need(self, goal: Goal) -> str:
        """What is needed: ``a mug``, or for two objects ``two mugs`` or ``the second mug``."""
        if goal.kind != "two":
            return with_article(goal.object_type)
        return f"the second {goal.object_type}" if self._n_placed() else f"two {goal.object_type}s"

    def _searching(self, kind: str, need: str, place: str) -> str:
        if place in self._known.contents:
            return self.pick(f"I go back to {place}.", f"I return to {place}.")
        last = self._seen_last()
        nothing = f"No {kind} at {last}. " if last and not self._known.find(kind) else ""
        if nothing:
            return nothing + self.pick(
                f"{capitalised(place)} may have one.",
                f"I try {place} next.",
                f"I still look for {need}; I check {place}.",
            )
        return self.pick(
            f"I need {need}. There may be one at {place}.",
            f"I look for {need}. {capitalised(place)} is worth a look.",
            f"Where could I find {need}? I try {place}.",
        )

    def _seen_last(self) -> str:
        """The place in front of the agent if it was looked into, else empty."""
        here = [place for place in self._known.here if place in self._known.contents]
        return here[0] if len(here) == 1 else ""

    def _opening(self, place: str) -> str:
        held, goal = self._known.held, self._goal
        closed = f"{capitalised(place)} is closed. " if place in self._known.closed else ""
        if goal is not None and self._is_target(held):
            fits = kind_of(place) == goal.target_type and self._is_ready(held)
            return closed + (f"I open it to put {held} in." if fits else "I open it.")
        return closed + self.pick(
            "I open it to see what is inside.",
            "What I need could be inside, so I open it.",
        )

    def _taking(self, thing: str, place: str) -> str:
        if not self._is_target(thing):
            return f"I take {thing} from {place}."
        if thing not in self._known.contents.get(place, ()):
            return f"I try to take {thing} from {place}."
        return self.pick(
            f"There is {thing}, which I need. I take it.",
            f"{capitalised(thing)} is here at {place}. I pick it up.",
            f"I have found {thing}. I take it along.",
        )

    def _treating(self, verb: str, thing: str, place: str) -> str:
        if self._goal is None or self._goal.kind != verb or not self._is_target(thing):
            return f"I {verb} {thing} with {place}."
        return self.pick(
            f"I stand at {place} with {thing}. The task wants it {_DONE[verb]}.",
            f"With {place} I can make {thing} {_DONE[verb]}, as the task asks.",
            f"Here I can {verb} {thing}.",
        )

    def _putting(self, thing: str, place: str) -> str:
        goal = self._goal
        fits = (
            goal is not None
            and goal.kind != "look"
            and kind_of(place) == goal.target_type
            and self._is_target(thing)
            and self._is_ready(thing)
        )
        if goal is None or not fits:
            return f"I put {thing} down at {place}."
        which = "the first of the two" if goal.kind == "two" else "what the task asks for"
        if goal.kind == "two" and self._n_placed():
            which = "the second one, which completes the pair"
        state = f"{_DONE[goal.kind]} " if goal.kind in _DONE else ""
        return self.pick(
            f"This is {place}. Here I put the {state}{thing}: {which}.",
            f"I put the {state}{thing} at {place}, where it belongs. It is {which}.",
        )

    def _using(self, thing: str) -> str:
        goal, held = self._goal, self._known.held
        is_lamp = goal is not None and goal.kind == "look" and kind_of(thing) == goal.target_type
        if not is_lamp or not self._is_target(held):
            return f"I switch on {thing}."
        return self.pick(
            f"I hold {held} and {thing} is here. I switch it on to look at {held}.",
            f"With {held} in my hand I turn on {thing}, as the task asks.",
        )

    def _other(self, action: str) -> str:
        verb, *names = split_command(action)
        if verb in ("look", "inventory"):
            return "I check where I am." if verb == "look" else "I check what I carry."
        if verb == "examine":
            return f"I look at {names[0]} more closely."
        if verb == "close":
            return f"I close {names[0]}."
        return f"I try: {action}."


@dataclass
class ALFWorldFlaws:
    """An expert that wanders, takes the wrong object and puts it back, or rarely gives up.

    Attributes:
        rng: random generator of the flaws.
        detour: probability per step of visiting another place first; half of the time one that was
            visited before.
        look: probability per step of looking at something needlessly.
        wrong_thing: probability per step, where other objects can be taken, of taking one and
            putting it back.
        give_up: share of episodes in which the agent only wanders from some step on.
    """

    rng: random.Random
    detour: float = 0.12
    look: float = 0.08
    wrong_thing: float = 0.06
    give_up: float = 0.05

    def __post_init__(self) -> None:
        """Draw whether and when the agent gives up."""
        gives_up = self.rng.random() < self.give_up
        self._n_steps_left = self.rng.randrange(2, 12) if gives_up else math.inf
        self._visited: list[str] = []
        self._next = ""

    def choose(self, observation: str, info: Info) -> str:
        """Return the next action."""
        admissible = info["admissible_actions"]
        queued, self._next = self._next, ""
        action = queued if queued in admissible else self._pick(info["expert_plan"], admissible)
        if action.startswith("go to ") and action not in self._visited:
            self._visited.append(action)
        self._n_steps_left -= 1
        return action

    def _pick(self, plan: Sequence[str], admissible: Sequence[str]) -> str:
        walks = [a for a in admissible if a.startswith("go to ")]
        if self._n_steps_left <= 0 or not plan:
            return self.rng.choice(walks)
        chance = self.rng.random()
        if chance < self.detour and walks:
            known = [a for a in self._visited if a in walks]
            return self.rng.choice(known if known and self.rng.random() < 0.5 else walks)
        chance -= self.detour
        if chance < self.look:
            looks = [a for a in admissible if a.startswith(("examine ", "inventory", "look"))]
            return self.rng.choice(looks)
        chance -= self.look
        others = [a for a in admissible if a.startswith("take ") and a not in plan]
        if chance < self.wrong_thing and others:
            taken = self.rng.choice(others)
            thing, _, place = taken.removeprefix("take ").partition(" from ")
            verb, joint = ("move", "to") if "help" in admissible else ("put", "in/on")
            self._next = f"{verb} {thing} {joint} {place}"
            return taken
        return str(plan[0])
