"""The rules for the rooms of the mini games, read from `rules.json`, and seeded draws.

The table specifies which receptacles a room can have, which objects occur in it, and where. Type
names and what can be done with objects are ALFWorld's, because the texts and rules of the game
depend on them. The placement of receptacles and objects is modelled on the official games; numbers
and weights were chosen by hand. `rooms` draws rooms from the table.
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
        """Seed the generator with any values whose string representation is stable."""
        self.uniform = random.Random(" ".join(map(str, seed))).random

    def pick(self, values: Sequence[T]) -> T:
        """One of the values."""
        return values[int(self.uniform() * len(values))]

    def number(self, least: int, most: int) -> int:
        """An integer from `least` to `most`, both inclusive."""
        return least + int(self.uniform() * (most - least + 1))

    def weighted(self, weights: Mapping[T, int]) -> T:
        """One of the keys, with probability proportional to its weight; not all weights are 0."""
        rest = self.uniform() * sum(weights.values())
        for value, weight in weights.items():
            rest -= weight
            if rest < 0:
                return value
        return next(value for value in reversed([*weights]) if weights[value])

    def shuffled(self, values: Sequence[T]) -> list[T]:
        """All values in random order."""
        rest = list(values)
        return [rest.pop(int(self.uniform() * len(rest))) for _ in values]


class Room(NamedTuple):
    """A kind of room.

    Attributes:
        first_scene: one less than the number of its first scene.
        receptacles: the minimum and maximum number of receptacles of each type.
        objects: the types of objects that occur in it.
    """

    first_scene: int
    receptacles: Mapping[str, tuple[int, int]]
    objects: tuple[str, ...]


class Rules(NamedTuple):
    """The whole table; types are spelt as in task ids (``"SinkBasin"``).

    Attributes:
        rooms: the kinds of rooms, by name.
        doors: the receptacles that can be opened and closed.
        for_one: the receptacles that initially contain at most one object.
        lamps: for each lamp, the receptacles it stands on, with weights.
        places: for each object, the receptacles it can be put into, with the weights for finding
            it there initially (0 for never).
        uses: for each object, what can be done with it: ``clean``, ``heat``, ``cool``, ``slice``,
            and ``hold`` if it can hold other objects.
    """

    rooms: Mapping[str, Room]
    doors: frozenset[str]
    for_one: frozenset[str]
    lamps: Mapping[str, Mapping[str, int]]
    places: Mapping[str, Mapping[str, int]]
    uses: Mapping[str, frozenset[str]]


@functools.cache
def read_rules() -> Rules:
    """The table that is part of the package."""
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
