"""`Problem`: what one ALFWorld game is, apart from its wording, as numbers and names.

Entities are numbered in the order of their lower-cased ids, which is the order the original lists
them in; a set of them is an `int` whose bit `i` is entity `i`. How problems are read from the
original's files is in `pddl`, the rules of the game are in `engine`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


def members(mask: int) -> Iterator[int]:
    """The numbers in a set, ascending."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


TRAITS = (
    "pickupable",
    "toggleable",
    "sliceable",
    "cleanable",
    "heatable",
    "coolable",
    "isclean",
    "ishot",
    "iscool",
    "issliced",
    "istoggled",
)
"""The sets of objects under `Problem.traits`."""


class Goal(NamedTuple):
    """What has to hold for a game to be won.

    Attributes:
        kind: ``place``, ``two``, ``clean``, ``heat``, ``cool`` (an object, or two, of a type in or
            on a receptacle of a type, treated) or ``look`` (holding it at a lamp that is on).
        object_type: such as ``"apple"``.
        target_type: the type of the receptacle, or of the lamp.
    """

    kind: str
    object_type: str
    target_type: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One household problem.

    Attributes:
        task: the instruction, such as ``"Your task is to: put a mug in desk."``.
        goal: what it means.
        locations: names (``"loc 3"``) of the places to stand at.
        start: the location at the beginning.
        held: the object held at the beginning, -1 for none.
        receptacles: their names.
        receptacle_types: their types, such as ``"drawer"``.
        receptacle_locations: the location of each, -1 if it has none.
        openable: the receptacles that open and close.
        opened: those that are open at the beginning.
        contents: the objects in each receptacle at the beginning.
        accepts: the objects that may be put into each receptacle.
        objects: their names.
        object_types: their types, empty where the file gives none.
        objects_at: the objects at each location at the beginning.
        traits: sets of objects: what can be done with them (``pickupable``, ``toggleable``,
            ``sliceable``, ``cleanable``, ``heatable``, ``coolable``) and how they are at the
            beginning (``isclean``, ``ishot``, ``iscool``, ``issliced``, ``istoggled``).
        insides: pairs of an object that can hold others and what it holds.
    """

    task: str
    goal: Goal
    locations: tuple[str, ...]
    start: int
    held: int
    receptacles: tuple[str, ...]
    receptacle_types: tuple[str, ...]
    receptacle_locations: tuple[int, ...]
    openable: int
    opened: int
    contents: tuple[int, ...]
    accepts: tuple[int, ...]
    objects: tuple[str, ...]
    object_types: tuple[str, ...]
    objects_at: tuple[int, ...]
    traits: Mapping[str, int]
    insides: tuple[tuple[int, int], ...]

    def to_json(self) -> bytes:
        """The problem as canonical JSON: equal problems give equal bytes."""
        record = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Problem:
        """The problem that `to_json` wrote.

        Raises:
            ValueError, TypeError: it is not such a record.
        """
        record: dict[str, Any] = json.loads(text)
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in record.items()
        }
        values["goal"] = Goal(*record["goal"])
        values["insides"] = tuple((outer, inner) for outer, inner in record["insides"])
        return cls(**values)
