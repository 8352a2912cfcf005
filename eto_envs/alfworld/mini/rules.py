"""The rules that the mini games' rooms follow, read from `rules.json`, and seeded draws.

The table says which receptacles a room may have, which objects are found in it and where they may
lie. Type names and what can be done with objects are ALFWorld's, because texts and rules of the
game go by them. What may stand and lie where is close to the official games, which were looked at
for it; numbers and weights were chosen by hand. Rooms are drawn in `rooms`.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Draw:
    """Seeded draws whose results do not depend on the Python version."""

    def __init__(self, *seed: object) -> None:
        """Seed it with anything that has a fixed text."""
        self.share = random.Random(" ".join(map(str, seed))).random

    def pick(self, values: Sequence[T]) -> T:
        """One of some values."""
        return values[int(self.share() * len(values))]

    def number(self, least: int, most: int) -> int:
        """A whole number from `least` to `most`, both included."""
        return least + int(self.share() * (most - least + 1))

    def weighted(self, weights: Mapping[T, int]) -> T:
        """One of the keys, as often as its weight says; one weight at least is above 0."""
        rest = self.share() * sum(weights.values())
        for value, weight in weights.items():
            rest -= weight
            if rest < 0:
                return value
        return next(value for value in reversed([*weights]) if weights[value])

    def shuffled(self, values: Sequence[T]) -> list[T]:
        """All values in random order."""
        rest = list(values)
        return [rest.pop(int(self.share() * len(rest))) for _ in values]


class Room(NamedTuple):
    """A kind of room.

    Attributes:
        first_scene: the number below its first scene's.
        receptacles: least and greatest number of each type.
        objects: the types found in it.
    """

    first_scene: int
    receptacles: Mapping[str, tuple[int, int]]
    objects: tuple[str, ...]


class Rules(NamedTuple):
    """The whole table; types are spelt as in task ids (``"SinkBasin"``).

    Attributes:
        rooms: the rooms by name.
        doors: the receptacles that open and close.
        for_one: the receptacles that hold one object at the beginning.
        lamps: lamp to the receptacles it stands on, with weights.
        places: object to the receptacles it may be put into, with weights by which it is found
            there (0 for never).
        uses: object to what can be done with it: ``clean``, ``heat``, ``cool``, ``slice``, and
            ``hold`` for those that hold others.
    """

    rooms: Mapping[str, Room]
    doors: frozenset[str]
    for_one: frozenset[str]
    lamps: Mapping[str, Mapping[str, int]]
    places: Mapping[str, Mapping[str, int]]
    uses: Mapping[str, frozenset[str]]


@functools.cache
def read_rules() -> Rules:
    """The table that comes with the package."""
    folder = importlib.resources.files("eto_envs.alfworld.mini")
    table = json.loads(folder.joinpath("rules.json").read_text(encoding="utf-8"))
    rooms = {
        name: Room(
            room["first_scene"],
            {kind: (least, most) for kind, (least, most) in room["receptacles"].items()},
            tuple(room["objects"]),
        )
        for name, room in table["rooms"].items()
    }
    return Rules(
        rooms,
        frozenset(table["doors"]),
        frozenset(table["for_one"]),
        table["lamps"],
        {kind: thing["places"] for kind, thing in table["objects"].items()},
        {kind: frozenset(thing["can"].split()) for kind, thing in table["objects"].items()},
    )
