"""Draws rooms for the mini games and furnishes them with objects: a room becomes a `Problem`.

A room's receptacles and where they stand are drawn once, what lies where anew for each game. Names
follow the rule of the original, as `reading` has it: entities are in the order of their ids, the
last of a type is number 1. What is asked for is chosen in `mini`.
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
_STACK_SHARE = 0.35  # of the stacked receptacles share a place with the one before
_COUNTER_SHARE = 0.3  # of the appliances share a place with a countertop
_LOST_SHARE = 0.6  # of the objects asked for are not where one looks first
_N_COPIES = 3  # of a type in a room, at most
_TRAITS = {
    "sliceable": "slice",
    "cleanable": "clean",
    "heatable": "heat",
    "coolable": "cool",
}


class Scene(NamedTuple):
    """A room with its receptacles, in the order of their ids.

    Attributes:
        number: as in task ids.
        room: the name of its kind.
        kinds: the type of each receptacle.
        locations: the location of each.
        n_locations: how many there are, with the one to begin at, where nothing stands.
        start: that one.
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
    """What a game is to ask for, types as in task ids.

    Attributes:
        kind: as `Goal.kind`.
        thing: the type of the object.
        target: the type of the receptacle or lamp.
    """

    kind: str
    thing: str
    target: str


def _id_prefix(kind: str) -> str:
    """How ids of a type begin: a sink's basin is ``Sink_bar_…_bar_SinkBasin``."""
    return f"{kind.lower().removesuffix('basin')}_bar_"


def _names(kinds: Sequence[str]) -> tuple[str, ...]:
    n_left = Counter(kinds)
    names = []
    for kind in kinds:
        names.append(f"{kind.lower()} {n_left[kind]}")
        n_left[kind] -= 1
    return tuple(names)


def draw_scene(draw: Draw, room_name: str, room: Room, number: int) -> Scene:
    """A room of 6 to 25 receptacles."""
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
    """The place of an earlier receptacle that the next one, of a type, stands at, too."""
    if kind in _STACKS and kinds and kinds[-1] == kind:
        return places[-1] if draw.share() < _STACK_SHARE else None
    counters = [place for k, place in zip(kinds, places, strict=True) if k == "CounterTop"]
    if kind in _ON_COUNTER and counters and draw.share() < _COUNTER_SHARE:
        return draw.pick(counters)
    return None


class _Furnishing:
    """Objects on their way into a room."""

    def __init__(self, draw: Draw, rules: Rules, scene: Scene) -> None:
        self.draw = draw
        self.rules = rules
        self.scene = scene
        self.placed: list[tuple[str, int]] = []  # type and receptacle

    def place(self, thing: str, *, but_not: str = "", is_lost: bool = False) -> None:
        """Put an object where it is found, if there is room, but not into receptacles of a type.

        Types go by their weights; for a lost object, all receptacles are as likely as each other.
        """
        weights = self.rules.lamps.get(thing) or self.rules.places[thing]
        free = self._free()
        found = {k: w for k, w in weights.items() if w and k in free and k != but_not}
        if found:
            shares = {kind: len(free[kind]) for kind in found} if is_lost else found
            self.placed.append((thing, self.draw.pick(free[self.draw.weighted(shares)])))

    def _free(self) -> Mapping[str, list[int]]:
        taken = {receptacle for _, receptacle in self.placed}
        free = defaultdict(list)
        for receptacle, kind in enumerate(self.scene.kinds):
            if kind not in self.rules.for_one or receptacle not in taken:
                free[kind].append(receptacle)
        return free

    def place_wanted(self, wanted: Wanted) -> None:
        """The objects that the game is about, and the lamp."""
        if self.scene.has_lamp:
            for lamp in self.rules.lamps:
                self.place(lamp)
        n_needed = 2 if wanted.kind == "two" else 1
        # One of two may be in its place already; so may one that has yet to be treated.
        may_be_there = wanted.kind not in ("place", "look")
        for n in range(n_needed + self.draw.pick((0, 0, 0, 1))):
            is_free = may_be_there and n == 1 and self.draw.share() < 0.5
            is_lost = self.draw.share() < _LOST_SHARE
            self.place(wanted.thing, but_not="" if is_free else wanted.target, is_lost=is_lost)

    def place_others(self, things: Sequence[str], n_objects: int) -> None:
        """Other objects, until there are `n_objects` or no more fit."""
        rest = self.draw.shuffled([thing for thing in things for _ in range(_N_COPIES)])
        while rest and len(self.placed) < n_objects:
            self.place(rest.pop())


def furnish(draw: Draw, rules: Rules, scene: Scene, wanted: Wanted, task: str) -> Problem:
    """A game of a scene: its objects are drawn and put where they belong.

    Nothing makes sure that it can be won or is not won already.
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


def _mask(chosen: Iterable[bool]) -> int:
    return sum(1 << number for number, one in enumerate(chosen) if one)
