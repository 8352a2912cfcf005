"""Draws rooms for the mini games and furnishes them with objects, which gives a `Problem`.

The receptacles of a room and their locations are drawn once; the objects are drawn for each game.
Names follow the original's rule (see `data.reading`): entities are in the order of their ids, and
the last of a type has number 1. Not here: the goals (`games`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from eto_envs.alfworld.engine.problem import TRAITS, Goal, Problem
from eto_envs.alfworld.mini.rules import Draw, Room, Rules

_N_RECEPTACLES = (6, 25)  # of a room
_N_OBJECTS = (15, 50)
_STACKS = ("Cabinet", "Drawer", "Shelf")
_ON_COUNTER = ("Microwave", "SinkBasin", "Toaster")
_P_STACKED = 0.35  # that a stackable receptacle shares the location of the previous one
_P_ON_COUNTER = 0.3  # that an appliance shares the location of a countertop
_P_LOST = 0.6  # that an object of the goal is not where one would look first
_N_COPIES = 3  # maximum number of objects of a type in a room
_TRAITS = {
    "sliceable": "slice",
    "cleanable": "clean",
    "heatable": "heat",
    "coolable": "cool",
}


class Scene(NamedTuple):
    """A room with its receptacles, in the order of their ids.

    Attributes:
        number: the number in task ids.
        room: the name of the kind of room.
        kinds: the type of each receptacle.
        locations: the location of each receptacle.
        n_locations: the number of locations, including the initial one, where nothing stands.
        start: the initial location.
    """

    number: int
    room: str
    kinds: tuple[str, ...]
    locations: tuple[int, ...]
    n_locations: int
    start: int

    @property
    def has_lamp(self) -> bool:
        """Whether there is a lamp to look at things under."""
        return self.room in ("bedroom", "livingroom")


class Wanted(NamedTuple):
    """The goal of a game, with types as in task ids.

    Attributes:
        kind: as `Goal.kind`.
        thing: the type of the object.
        target: the type of the receptacle or lamp.
    """

    kind: str
    thing: str
    target: str


def _id_prefix(kind: str) -> str:
    """How ids of a type begin: that of a sink basin is ``Sink_bar_…_bar_SinkBasin``."""
    return f"{kind.lower().removesuffix('basin')}_bar_"


def _names(kinds: Sequence[str]) -> tuple[str, ...]:
    """The name of each entity: the last one of a type has number 1."""
    n_left = Counter(kinds)
    names = []
    for kind in kinds:
        names.append(f"{kind.lower()} {n_left[kind]}")
        n_left[kind] -= 1
    return tuple(names)


def draw_scene(draw: Draw, room_name: str, room: Room, number: int) -> Scene:
    """Draw a room with 6 to 25 receptacles."""
    kinds: list[str] = []
    while not _N_RECEPTACLES[0] <= len(kinds) <= _N_RECEPTACLES[1]:
        kinds = [k for k, (n, m) in room.receptacles.items() for _ in range(draw.number(n, m))]
    kinds.sort(key=_id_prefix)
    places: list[int] = []
    for kind in kinds:
        shared = _shared_place(draw, kinds[: len(places)], places, kind)
        places.append(max(places, default=-1) + 1 if shared is None else shared)
    n_locations = max(places) + 2
    numbers = draw.shuffled(range(n_locations))
    locations = tuple(numbers[place] for place in places)
    return Scene(number, room_name, tuple(kinds), locations, n_locations, numbers[-1])


def _shared_place(draw: Draw, kinds: Sequence[str], places: Sequence[int], kind: str) -> int | None:
    """The place of an earlier receptacle that the next one shares, or None for a new place."""
    if kind in _STACKS and kinds and kinds[-1] == kind:
        return places[-1] if draw.uniform() < _P_STACKED else None
    counters = [place for k, place in zip(kinds, places, strict=True) if k == "CounterTop"]
    if kind in _ON_COUNTER and counters and draw.uniform() < _P_ON_COUNTER:
        return draw.pick(counters)
    return None


class _Furnishing:
    """The objects placed in a room so far."""

    def __init__(self, draw: Draw, rules: Rules, scene: Scene) -> None:
        self.draw = draw
        self.rules = rules
        self.scene = scene
        self.placed: list[tuple[str, int]] = []  # type and receptacle

    def place(self, thing: str, *, but_not: str = "", is_lost: bool = False) -> None:
        """Place an object in a suitable receptacle, if there is a free one.

        Args:
            thing: the type of the object.
            but_not: a type of receptacle to avoid.
            is_lost: all suitable receptacles are equally likely; by default their types are drawn
                by their weights.
        """
        weights = self.rules.lamps.get(thing) or self.rules.places[thing]
        free = self._free()
        found = {k: w for k, w in weights.items() if w and k in free and k != but_not}
        if found:
            by_kind = {kind: len(free[kind]) for kind in found} if is_lost else found
            self.placed.append((thing, self.draw.pick(free[self.draw.weighted(by_kind)])))

    def _free(self) -> Mapping[str, list[int]]:
        taken = {receptacle for _, receptacle in self.placed}
        free = defaultdict(list)
        for receptacle, kind in enumerate(self.scene.kinds):
            if kind not in self.rules.for_one or receptacle not in taken:
                free[kind].append(receptacle)
        return free

    def place_wanted(self, wanted: Wanted) -> None:
        """Place the objects of the goal, and the lamps."""
        if self.scene.has_lamp:
            for lamp in self.rules.lamps:
                self.place(lamp)
        n_needed = 2 if wanted.kind == "two" else 1
        # One of two objects can be in place already; so can one that has yet to be treated.
        may_be_there = wanted.kind not in ("place", "look")
        for n in range(n_needed + self.draw.pick((0, 0, 0, 1))):
            is_free = may_be_there and n == 1 and self.draw.uniform() < 0.5
            is_lost = self.draw.uniform() < _P_LOST
            self.place(wanted.thing, but_not="" if is_free else wanted.target, is_lost=is_lost)

    def place_others(self, things: Sequence[str], n_objects: int) -> None:
        """Place other objects, until there are `n_objects` or no more fit."""
        rest = self.draw.shuffled([thing for thing in things for _ in range(_N_COPIES)])
        while rest and len(self.placed) < n_objects:
            self.place(rest.pop())


def furnish(draw: Draw, rules: Rules, scene: Scene, wanted: Wanted, task: str) -> Problem:
    """Draw the objects of a scene and place them.

    The resulting game may be impossible to win, or won already.
    """
    furnishing = _Furnishing(draw, rules, scene)
    furnishing.place_wanted(wanted)
    others = [thing for thing in rules.rooms[scene.room].objects if thing != wanted.thing]
    n_receptacles = len(scene.kinds)
    least, most = _N_OBJECTS
    n_objects = min(most, max(least, draw.number(3 * n_receptacles // 2, 5 * n_receptacles // 2)))
    furnishing.place_others(others, n_objects)
    placed = sorted(furnishing.placed, key=lambda pair: _id_prefix(pair[0]))
    return _problem(rules, scene, placed, wanted, task)


def _problem(
    rules: Rules, scene: Scene, placed: Sequence[tuple[str, int]], wanted: Wanted, task: str
) -> Problem:
    things = [thing for thing, _ in placed]
    contents = [0] * len(scene.kinds)
    objects_at = [0] * scene.n_locations
    for number, (_, receptacle) in enumerate(placed):
        contents[receptacle] |= 1 << number
        objects_at[scene.locations[receptacle]] |= 1 << number
    accepts = [_mask(kind in rules.places.get(t, ()) for t in things) for kind in scene.kinds]
    insides = [(n, 0) for n, t in enumerate(things) if "hold" in rules.uses.get(t, ())]
    traits = dict.fromkeys(TRAITS, 0)
    traits["pickupable"] = _mask(t not in rules.lamps for t in things)
    traits["toggleable"] = _mask(t in rules.lamps for t in things)
    for trait, use in _TRAITS.items():
        traits[trait] = _mask(use in rules.uses.get(t, ()) for t in things)
    return Problem(
        task=task,
        goal=Goal(wanted.kind, wanted.thing.lower(), wanted.target.lower()),
        locations=tuple(f"loc {scene.n_locations - n}" for n in range(scene.n_locations)),
        start=scene.start,
        held=-1,
        receptacles=_names(scene.kinds),
        receptacle_types=tuple(kind.lower() for kind in scene.kinds),
        receptacle_locations=scene.locations,
        openable=_mask(kind in rules.doors for kind in scene.kinds),
        opened=0,
        contents=tuple(contents),
        accepts=tuple(accepts),
        objects=_names(things),
        object_types=tuple(thing.lower() for thing in things),
        objects_at=tuple(objects_at),
        traits=traits,
        insides=tuple(insides),
    )


def _mask(is_member: Iterable[bool]) -> int:
    """The set, as an int, of the positions at which `is_member` is true."""
    return sum(1 << number for number, member in enumerate(is_member) if member)
