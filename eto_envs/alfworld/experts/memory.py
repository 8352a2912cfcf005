"""What a player has seen of a game, as parsed from its texts, in the wording of either release.

The explorer's decisions are based on it. Nothing here has access to the state of the game.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from eto_envs.alfworld.engine.rules import NOTHING_HAPPENS

_ROOM = re.compile(r"Looking quickly around you, you see (.*)\.")
_CONTENTS = re.compile(r"(?:On the (.+?), you see|The (.+?) is open\. In it, you see) (.*)\.")
_CLOSED = re.compile(r"The (.+?) is closed\.")
_NAME = re.compile(r"a ([^,]+ \d+)")


def kind_of(name: str) -> str:
    """``"desk"`` for ``"desk 1"``."""
    return name.rpartition(" ")[0]


@dataclass
class Memory:
    """What is known so far.

    Attributes:
        receptacles: the receptacles in the room, in the order in which they were listed.
        contents: the objects last seen in each receptacle that has been inspected.
        closed: the receptacles known to be closed.
        here: the receptacles known to be in reach.
        held: the object in hand, or empty.
        treated: the objects that have been cleaned, heated or cooled.
        doorless: the receptacles that could not be opened.
        blocked: pairs of an object and a receptacle with which a command failed.
    """

    receptacles: list[str]
    contents: dict[str, set[str]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    here: set[str] = field(default_factory=set)
    held: str = ""
    treated: set[str] = field(default_factory=set)
    doorless: set[str] = field(default_factory=set)
    blocked: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def of_room(cls, observation: str) -> Memory:
        """Begin with the first text of a game."""
        match = _ROOM.search(observation)
        return cls(_NAME.findall(match.group(1)) if match else [])

    def find(self, kind: str) -> list[tuple[str, str]]:
        """The objects of a type that have been seen, each with its receptacle."""
        return [
            (thing, place)
            for place, things in self.contents.items()
            for thing in sorted(things)
            if kind_of(thing) == kind and (thing, place) not in self.blocked
        ]

    def learn(self, command: str, answer: str) -> None:
        """Update the memory with the response to a command."""
        verb, *names = split_command(command)
        if answer == NOTHING_HAPPENS:
            self._learn_failure(verb, names)
            return
        if verb == "go to":
            self.here = {names[0]}
        for open_top, opened, listing in _CONTENTS.findall(answer):
            place = open_top or opened
            self.contents[place] = set(_NAME.findall(listing))
            self.closed.discard(place)
        self.closed |= set(_CLOSED.findall(answer))
        if verb == "take":
            self.held = names[0]
            for things in self.contents.values():
                things.discard(self.held)
        elif verb in ("put", "move"):
            self.contents.setdefault(names[1], set()).add(names[0])
            self.held = ""
        elif verb in ("clean", "heat", "cool"):
            self.treated.add(names[0])

    def _learn_failure(self, verb: str, names: list[str]) -> None:
        if verb == "go to":
            self.here.add(names[0])  # `go to` fails only if the receptacle is already in reach
        elif verb == "open":
            self.doorless.add(names[0])
        elif verb == "examine":
            self.contents.setdefault(names[0], set())
        elif len(names) == 2:
            self.blocked.add((names[0], names[1]))


_COMMANDS = re.compile(
    r"(go to|open|close|examine|use) (.+)|(take|put|move|clean|heat|cool) (.+?)"
    r" (?:from|in/on|to|with) (.+)"
)


def split_command(command: str) -> list[str]:
    """The verb of a command and the names in it."""
    match = _COMMANDS.fullmatch(command)
    return [part for part in match.groups() if part] if match else [command]
