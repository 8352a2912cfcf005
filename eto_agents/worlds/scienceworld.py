"""ScienceWorld: its prompts, narrator and flaws.

A thought uses what the observations state (the objects carried, the last temperature, that
something is broken); the rest of it is the intent of the action.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from eto_agents.react.parse import INVALID, STRICT, Format
from eto_agents.worlds.base import World
from eto_agents.worlds.narrator import Narrator, Style, capitalised
from eto_envs.shaping import Info


class ScienceWorld(World):
    """A simulated house in which the agent does scientific experiments."""

    name = "scienceworld"
    title = "ScienceWorld"
    env_id = "ETO-ScienceWorld-v0"
    format = Format(STRICT, INVALID, "Observation: ")
    variants = ("scienceworld",)
    published: ClassVar = {"scienceworld": "sciworld"}
    columns: ClassVar = {"scienceworld_seen": "seen", "scienceworld_unseen": "unseen"}
    dataset = "eto"
    refusals = r"No known action matches that input\.|Ambiguous request"
    licence = "The texts are ScienceWorld's, under the Apache 2.0 licence."
    goal = r"(?:Task Description:\s*)?(.*)"

    @property
    def flaws(self) -> type[Any]:
        """The flaws of an imperfect experimenter."""
        return ScienceWorldFlaws

    def narrator(self, style: Style, rng: random.Random) -> Narrator:
        """Make a narrator of thoughts about the task and the purpose of each action."""
        return ScienceWorldNarrator(style, rng)


_TASK = re.compile(r"Your task is to (.+?)(?:\.\s|\.$|$)", re.DOTALL)
_TAKEN = re.compile(r"You move the (.+) to the inventory\.")
_MOVED = re.compile(r"You move the (.+) to the (.+)\.")
_MEASURED = re.compile(r"measures a temperature of (-?\d+) degrees")

_NEWS: Final[Mapping[str, str]] = {
    r"No known action matches that input": "That was not understood. ",
    r"The (.+?) appears broken": "The {0} is broken. ",
    r"Ambiguous request": "That could mean several things. ",
    r"You can't ": "That did not work. ",
}
"""Beginnings of observations that a thought mentions, with the wording."""

_VERBS: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    # Pattern of a command, its brief thought, its full thoughts.
    (
        r"(?:teleport|go) to (?:the )?(.+)",
        "go {0}",
        (
            "I have to be in the {0}{carry}.",
            "Next I go to the {0}{carry}.",
            "On to the {0}{carry}.",
        ),
    ),
    (
        r"pick up (.+)",
        "get {0}",
        ("I need the {0}, so I take it along.", "The {0} will be of use. I pick it up."),
    ),
    (
        r"focus on (.+)",
        "focus {0}",
        (
            "I focus on the {0}, since this is what I work with.",
            "The {0} is the one: I focus on it.",
        ),
    ),
    (
        r"use thermometer(?: in inventory)? on (.+)",
        "measure {0}",
        ("How warm is the {0}? I measure it.", "I check the temperature of the {0}."),
    ),
    (
        r"use (.+) on (.+)",
        "use {0} {1}",
        ("I use the {0} on the {1}.", "The {0} is for the {1}. I use it."),
    ),
    (
        r"move (.+) to (.+)",
        "move {0} {1}",
        ("The {0} belongs in or on the {1} now.", "I move the {0} to the {1}."),
    ),
    (
        r"pour (.+) (?:in|into) (.+)",
        "pour {0} {1}",
        ("I pour what is in the {0} into the {1}.", "The contents of the {0} go into the {1}."),
    ),
    (r"dunk (.+) (?:in|into) (.+)", "dunk {0} {1}", ("I dip the {0} into the {1}.",)),
    (
        r"mix (.+)",
        "mix {0}",
        ("What is in the {0} has to be mixed.", "I mix the contents of the {0}."),
    ),
    (
        r"activate (.+)",
        "start {0}",
        ("I switch on the {0}.", "The {0} has to be on.", "I start the {0}."),
    ),
    (
        r"deactivate (.+)",
        "stop {0}",
        ("I switch the {0} off.", "The {0} should be off."),
    ),
    (r"open (.+)", "open {0}", ("I make sure that the {0} is open.", "I open the {0}.")),
    (r"close (.+)", "close {0}", ("I close the {0}.", "The {0} should be shut.")),
    (
        r"connect (.+) to (.+)",
        "connect {0} {1}",
        ("I connect {0} with {1} for the circuit.", "The circuit needs {0} at {1}."),
    ),
    (r"disconnect (.+)", "disconnect {0}", ("I take {0} out of the circuit.",)),
    (
        r"wait(1?)",
        "wait",
        ("This takes time, so I wait.", "I let some time pass.", "Now I have to be patient."),
    ),
    (
        r"look (?:around|at (?:the )?(?:room|here))",
        "look",
        ("I look around to see what is here.", "What is in this room? I look around."),
    ),
    (
        r"(?:look (?:at|in|on)|examine) (.+)",
        "look {0}",
        ("I take a closer look at the {0}.", "I want to know more about the {0}."),
    ),
    (r"read (.+)", "read {0}", ("I read the {0}.",)),
    (r"inventory", "inventory", ("I check what I carry.",)),
    (r"eat (.+)", "eat {0}", ("I eat the {0}.",)),
    (r"flush (.+)", "flush {0}", ("I flush the {0}.",)),
    (r"(\d+)", "choose {0}", ("I was asked which one: I take number {0}.",)),
)

_COMMANDS: Final = tuple((re.compile(form), brief, full) for form, brief, full in _VERBS)


class ScienceWorldNarrator(Narrator):
    """Writes the thoughts of one ScienceWorld episode."""

    def __init__(self, style: Style, rng: random.Random) -> None:
        """Start; the task is read from the initial observation."""
        super().__init__(style, rng)
        self._task = ""
        self._is_first = True
        self._carried: list[str] = []
        self._news = ""
        self._degrees: int | None = None

    def see(self, observation: str, action: str) -> None:
        """Keep track of objects carried, temperatures and failures."""
        if not action:
            match = _TASK.search(observation)
            self._task = match[1] if match else ""
            return
        self._is_first = False
        if taken := _TAKEN.match(observation):
            self._carried.append(taken[1])
        elif (moved := _MOVED.match(observation)) and moved[1] in self._carried:
            self._carried.remove(moved[1])
        measured = _MEASURED.search(observation)
        self._degrees = int(measured[1]) if measured else None
        self._news = self._read_news(observation)

    @staticmethod
    def _read_news(observation: str) -> str:
        for pattern, news in _NEWS.items():
            if match := re.match(pattern, observation):
                return news.format(*match.groups())
        return ""

    def brief(self, action: str) -> str:
        """The purpose of the action in two or three words."""
        for pattern, wording, _ in _COMMANDS:
            if match := pattern.fullmatch(action):
                return wording.format(*(_short(name) for name in match.groups()))
        return action

    def full(self, action: str) -> str:
        """What the last observation said, and the purpose of the action."""
        before = self._news
        if self._is_first and self._task:
            before = self.pick(f"I am to {self._task}. ", f"The task: {self._task}. ")
        elif self._degrees is not None:
            before = self.pick("That was ", "The thermometer shows ") + f"{self._degrees} degrees. "
        for pattern, _, wordings in _COMMANDS:
            if match := pattern.fullmatch(action):
                carry = f" with the {self._carried[-1]}" if self._carried else ""
                names = [_short(name) for name in match.groups()]
                words = self.pick(*wordings).format(*names, carry=carry)
                return before + self._in_task(names) + capitalised(words)
        return f"{before}I try: {action}."

    def _in_task(self, names: Sequence[str]) -> str:
        """Half of the time, a reminder if the task mentions the action's object; else empty."""
        name = names[-1] if names else ""
        if self._is_first or len(name) < 3 or self._rng.random() < 0.5:
            return ""
        if re.search(rf"\b{re.escape(name)}\b", self._task) is None:
            return ""
        return self.pick(f"The task speaks of the {name}. ", f"The task names the {name}. ")


def _short(name: str) -> str:
    """The name of an object without the suffix that says that it is carried."""
    return name.removesuffix(" in inventory")


_FREE = ("look around", "inventory")


@dataclass
class ScienceWorldFlaws:
    """An expert that looks around, visits the wrong room, skips a step, or guesses.

    Attributes:
        rng: random generator of the flaws.
        look: probability per step of looking at something needlessly.
        wrong_room: probability of visiting another room before each change of rooms.
        skip: probability per step of doing the step after it first.
        wrong_choice: probability of focusing on another object, or of choosing another box as the
            answer.
    """

    rng: random.Random
    look: float = 0.1
    wrong_room: float = 0.12
    skip: float = 0.05
    wrong_choice: float = 0.06

    def choose(self, observation: str, info: Info) -> str:
        """Return the next action."""
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
