"""`SloppyExpertPolicy`: an expert with the flaws of a person, for imitation data.

ETO's demonstrations are people's and heuristics', with rewards between 0.7 and 1 (the paper's
Section 4.1); a perfect expert leaves exploration nothing to better. This one follows the world's
own expert, which plans anew from wherever it is led, and on the way looks around, goes to the wrong
place, leaves out a step, or settles for the wrong thing. How often is in the fields of each world's
habits. Not here: the experts, which are the worlds' (`info["expert_plan"]`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from eto_envs.errors import UnknownNameError
from eto_envs.shaping import Info
from eto_envs.tasks import Task


class Habits(Protocol):
    """How one world is played in one episode."""

    def choose(self, observation: str, info: Info) -> str:
        """The next action."""


@dataclass
class WebShopHabits:
    """Shops in a hurry.

    Attributes:
        rng: draws everything.
        settle: how often the first likely product on a page of results is taken.
        skip_option: how often a wanted option is not chosen.
        read: how often a product's description, features or reviews are read first.
        vague: how often the first search leaves out a word.
    """

    rng: random.Random
    settle: float = 0.35
    skip_option: float = 0.25
    read: float = 0.2
    vague: float = 0.2

    def __post_init__(self) -> None:
        """Begin an episode."""
        self._settled_for: list[str] | None = None  # what would be chosen of a product like this
        self._handled: set[str] = set()
        self._n_seen = 0
        self._has_read = False

    def choose(self, observation: str, info: Info) -> str:
        """The next action."""
        plan, admissible = info["expert_plan"], info["admissible_actions"]
        self._n_seen += 1
        if self._n_seen == 1:
            return self._search(plan[0])
        if "click[buy now]" in admissible:
            return self._on_product(plan, admissible)
        if "click[< prev]" in admissible and self._has_read:
            return "click[< prev]"  # from what was read
        products = [a for a in admissible if _is_choice(a)]
        if products and self._n_seen == 2 and self.rng.random() < self.settle:
            self._settled_for = [a for a in plan if _is_choice(a)][1:]
            return str(products[0])
        return str(plan[0])

    def _search(self, action: str) -> str:
        words = action[len("search[") : -1].split()
        if len(words) > 2 and self.rng.random() < self.vague:
            words.pop(self.rng.randrange(len(words)))
        return f"search[{' '.join(words)}]"

    def _on_product(self, plan: Sequence[str], admissible: Sequence[str]) -> str:
        if not self._has_read:
            self._has_read = True
            pages = [p for p in ("description", "features", "reviews") if _click(p) in admissible]
            if pages and self.rng.random() < self.read:
                return _click(self.rng.choice(pages))
        wanted = plan if self._settled_for is None else self._settled_for
        for action in wanted:
            if not _is_choice(action) or action not in admissible or action in self._handled:
                continue
            self._handled.add(action)
            if self.rng.random() >= self.skip_option:
                return action
        return "click[buy now]"


@dataclass
class ALFWorldHabits:
    """Wanders, takes the wrong thing and puts it back, rarely loses heart.

    Attributes:
        rng: draws everything.
        detour: how often, at a step, another place is visited first, half the time a known one.
        look: how often, at a step, something is looked at without need.
        wrong_thing: how often, with empty hands at a place, another object is taken and put back.
        give_up: the share of episodes that at some moment only wander.
    """

    rng: random.Random
    detour: float = 0.12
    look: float = 0.08
    wrong_thing: float = 0.06
    give_up: float = 0.05

    def __post_init__(self) -> None:
        """Begin an episode."""
        gives_up = self.rng.random() < self.give_up
        self._n_steps_left = self.rng.randrange(2, 12) if gives_up else math.inf
        self._visited: list[str] = []
        self._next = ""

    def choose(self, observation: str, info: Info) -> str:
        """The next action."""
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


@dataclass
class ScienceWorldHabits:
    """Looks around, goes through the wrong door, forgets a step, guesses.

    Attributes:
        rng: draws everything.
        look: how often, at a step, something is looked at without need.
        wrong_room: how often, before going somewhere, another room is visited.
        skip: how often, at a step, the next one is done first.
        wrong_choice: how often the focus, or the answer's box, is another one.
    """

    rng: random.Random
    look: float = 0.1
    wrong_room: float = 0.12
    skip: float = 0.05
    wrong_choice: float = 0.06

    def choose(self, observation: str, info: Info) -> str:
        """The next action."""
        plan, admissible = info["expert_plan"], info["admissible_actions"]
        if not plan:
            return "look around"
        action = str(plan[0])
        chance = self.rng.random()
        if chance < self.look:
            looks = [a for a in admissible if a.startswith(("look at ", "examine ", "look in "))]
            return str(self.rng.choice([*self.rng.sample(looks, min(2, len(looks))), *_FREE]))
        chance -= self.look
        if chance < self.skip and len(plan) > 1:
            return str(plan[1])
        if action.startswith("teleport to ") and self.rng.random() < self.wrong_room:
            return self._other(action, [a for a in admissible if a.startswith("teleport to ")])
        if self.rng.random() < self.wrong_choice:
            if action.startswith("focus on "):
                return self._other(action, [a for a in admissible if a.startswith("focus on ")])
            if action.endswith(" box"):
                start = action.rpartition(" to ")[0]
                boxes = [a for a in admissible if a.startswith(start) and a.endswith(" box")]
                return self._other(action, boxes)
        return action

    def _other(self, action: str, actions: Sequence[str]) -> str:
        others = [a for a in actions if a != action]
        return self.rng.choice(others) if others else action


def _click(label: str) -> str:
    return f"click[{label}]"


_FREE = ("look around", "inventory")
_BUTTONS = {_click(label) for label in ("back to search", "next >", "< prev", "buy now")}
_HABITS: Final[dict[str, type[WebShopHabits | ALFWorldHabits | ScienceWorldHabits]]] = {
    "webshop": WebShopHabits,
    "alfworld": ALFWorldHabits,
    "scienceworld": ScienceWorldHabits,
}
"""The habits of each world."""


class SloppyExpertPolicy:
    """Plays one episode at a time as a person who knows the way might; the seed draws the flaws."""

    name = "sloppy-expert"
    reveal = ("admissible_actions", "expert_plan")

    def __init__(self, **rates: float) -> None:
        """Set how often the flaws are; see the habits of each world.

        Raises:
            TypeError: no world has such a flaw.
        """
        known = {name for habits in _HABITS.values() for name in habits.__dataclass_fields__}
        for name in rates:
            if name == "rng" or name not in known:
                raise TypeError(f"no flaw {name!r}; there are {sorted(known - {'rng'})}")
        self._rates = rates
        self._seed = 0
        self._habits: Habits | None = None
        self.provenance: dict[str, Any] = {"flaws": _all_rates(rates)}

    def reset(self, task: Task, seed: int) -> None:
        """Begin an episode; which world it is of is in its first `info`."""
        self._seed, self._habits = seed, None

    def act(self, observation: str, info: Info) -> str:
        """The next action.

        Raises:
            UnknownNameError: there are no habits for this world.
        """
        if self._habits is None:
            self._habits = self._habits_of(info["world"])
        return self._habits.choose(observation, info)

    def _habits_of(self, world: str) -> Habits:
        if world not in _HABITS:
            raise UnknownNameError("habits for world", world, _HABITS)
        habits = _HABITS[world]
        own = {n: r for n, r in self._rates.items() if n in habits.__dataclass_fields__}
        return habits(random.Random(self._seed), **own)


def _all_rates(rates: dict[str, float]) -> dict[str, dict[str, float]]:
    made = {h.__name__: asdict(h(random.Random(0))) for h in _HABITS.values()}
    return {
        name: {n: rates.get(n, r) for n, r in fields.items() if n != "rng"}
        for name, fields in made.items()
    }


def _is_choice(action: str) -> bool:
    """Whether it opens a product or chooses an option."""
    return action.startswith("click[") and action not in _BUTTONS
