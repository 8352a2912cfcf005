"""`Problem`: the content of an ALFWorld game, apart from its wording, as numbers and names.

Entities (objects, receptacles, locations) are numbered in the order of their lower-case ids, which
is the order in which the original lists them. A set of entities is an `int` whose bit `i` stands
for entity `i`, so that union, intersection and membership are single operations and states are
small and hashable. Not here: reading problems from the original's files (`data.reading`) and the
rules of the game (`rules`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


def members(mask: int) -> Iterator[int]:
    """The numbers in a set, in ascending order."""
    while mask:
        lowest = mask & -mask  # the lowest bit that is set
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
"""The keys of `Problem.traits`."""


GOAL_KINDS = ("place", "two", "clean", "heat", "cool", "look")
"""The values of `Goal.kind`."""


class Goal(NamedTuple):
    """The condition for winning a game.

    Attributes:
        kind: ``place``, ``two``, ``clean``, ``heat`` or ``cool`` (one or two objects of a type, if
            necessary treated, are in or on a receptacle of a type), or ``look`` (the agent holds an
            object where a lamp is on).
        object_type: the type of the object, such as ``"apple"``.
        target_type: the type of the receptacle or lamp.
    """

    kind: str
    object_type: str
    target_type: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One household problem.

    Attributes:
        task: the instruction, such as ``"Your task is to: put a mug in desk."``.
        goal: the condition for winning.
        locations: the names (``"loc 3"``) of the places where the agent can stand.
        start: the initial location.
        held: the object held initially, -1 for none.
        receptacles: the names of the receptacles.
        receptacle_types: the type of each receptacle, such as ``"drawer"``.
        receptacle_locations: the location of each receptacle, -1 if it has none.
        openable: the set of receptacles that can be opened and closed.
        opened: the set of receptacles that are initially open.
        contents: the set of objects initially in each receptacle.
        accepts: the set of objects that can be put into each receptacle.
        objects: the names of the objects.
        object_types: the type of each object, empty if the file states none.
        objects_at: the set of objects initially at each location.
        traits: sets of objects by what can be done with them (``pickupable``, ``toggleable``,
            ``sliceable``, ``cleanable``, ``heatable``, ``coolable``) and by their initial state
            (``isclean``, ``ishot``, ``iscool``, ``issliced``, ``istoggled``).
        insides: for each object that can hold others, the object and the set of what it holds.
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
            ValueError, TypeError, LookupError, AttributeError, RecursionError: the text is not such
                a record.
        """
        record: dict[str, Any] = json.loads(text)
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in record.items()
        }
        values["goal"] = Goal(*record["goal"])
        values["insides"] = tuple((outer, inner) for outer, inner in record["insides"])
        problem = cls(**values)
        problem._check()
        return problem

    def _check(self) -> None:
        """Check that all values have the right type and refer to something.

        Raises:
            TypeError, ValueError: a value does not.
        """
        names = (self.locations, self.receptacles, self.receptacle_types, self.objects)
        texts = [
            self.task,
            *self.goal,
            *self.object_types,
            *(text for row in names for text in row),
        ]
        n_places, n_holders, n_objects = map(len, (self.locations, self.receptacles, self.objects))
        rows = (self.receptacle_types, self.receptacle_locations, self.contents, self.accepts)
        fits = {*map(len, rows)} == {n_holders} and len(self.objects_at) == n_places
        fits = fits and len(self.object_types) == n_objects and {*self.traits} == {*TRAITS}
        # Every number with the first number that is too large for it.
        numbers = [(self.start, n_places), (self.held + 1, n_objects + 1)]
        numbers += [(place + 1, n_places + 1) for place in self.receptacle_locations]
        numbers += [(outer, n_objects) for outer, _ in self.insides]
        numbers += [(holders, 1 << n_holders) for holders in (self.openable, self.opened)]
        sets = (*self.contents, *self.accepts, *self.objects_at, *self.traits.values())
        numbers += [(mask, 1 << n_objects) for mask in (*sets, *(i for _, i in self.insides))]
        if {*map(type, texts)} != {str} or {type(number) for number, _ in numbers} != {int}:
            raise TypeError("a value has the wrong type")
        if not fits or not all(0 <= number < end for number, end in numbers):
            raise ValueError("a value refers to nothing")
        if self.goal.kind not in GOAL_KINDS:
            raise ValueError(f"unknown kind of goal {self.goal.kind!r}")
