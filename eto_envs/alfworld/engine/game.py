"""`Game`, a problem made ready to play, and `State`, a moment of it.

A game never changes; a state is a small hashable value, so forking a game is keeping a state.
What commands do and say is in `engine`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final, NamedTuple

from eto_envs.alfworld.engine.problem import Problem, members
from eto_envs.errors import UnknownNameError

GRAMMARS: Final = ("2.1.1", "2.1.2")
"""The data releases whose wording is spoken: `put … in/on …` and `move … to …`."""

_KNIVES = ("knife", "butterknife")


class Treatment(NamedTuple):
    """What `clean`, `heat` and `cool` need and do.

    Attributes:
        appliance: the type of the receptacle it is done with.
        trait: the set of `Problem.traits` it can be done to.
        effect: the set of `State` it adds to.
    """

    appliance: str
    trait: str
    effect: str


# The domain also knows a SinkType; no receptacle of any game has it.
TREATMENTS: Final = {
    "clean": Treatment("sinkbasin", "cleanable", "clean"),
    "heat": Treatment("microwave", "heatable", "hot"),
    "cool": Treatment("fridge", "coolable", "cool"),
}


class State(NamedTuple):
    """A moment of a game: sets are ints as in `Problem`, tuples go by receptacle or location.

    Attributes:
        location: where the agent is.
        held: the object in hand, -1 for none.
        opened: the receptacles that are open.
        contents: the objects in each receptacle.
        objects_at: the objects that count as being at each location.
        lifted: the objects once taken from each receptacle and not in it now.
        clean: the clean objects.
        hot: the hot ones.
        cool: the cool ones.
        sliced: the sliced ones.
        toggled: the lamps that were used.
    """

    location: int
    held: int
    opened: int
    contents: tuple[int, ...]
    objects_at: tuple[int, ...]
    lifted: tuple[int, ...]
    clean: int
    hot: int
    cool: int
    sliced: int
    toggled: int


class Game:
    """One game in the wording of one release; immutable by convention.

    Attributes:
        problem: what it was made from.
        grammar: one of `GRAMMARS`.
        start: its first state.
        receptacle_number: receptacle name to number.
        object_number: object name to number.
        receptacles_at: the receptacles at each location, ascending.
        receptacles_of: receptacle type to the set of receptacles.
        objects_of: object type to the set of objects.
        knives: the objects that slice.
        insides: what an object that can hold others holds, by object.
        goal_objects: the objects that the goal may be about.
        goal_receptacles: the receptacles it may be about (none for ``look``).
        goal_lamps: the lamps it may be about (none but for ``look``).
        goal_treatment: what must be done to the object first, or None.
    """

    def __init__(self, problem: Problem, grammar: str = "2.1.1") -> None:
        """Compile a problem.

        Raises:
            UnknownNameError: no such grammar.
        """
        if grammar not in GRAMMARS:
            raise UnknownNameError("grammar", grammar, GRAMMARS)
        self.problem = problem
        self.grammar = grammar
        self.receptacle_number = {name: i for i, name in enumerate(problem.receptacles)}
        self.object_number = {name: i for i, name in enumerate(problem.objects)}
        self.receptacles_at: list[list[int]] = [[] for _ in problem.locations]
        for receptacle, location in enumerate(problem.receptacle_locations):
            if location >= 0:
                self.receptacles_at[location].append(receptacle)
        self.receptacles_of = _by_type(problem.receptacle_types)
        self.objects_of = _by_type(problem.object_types)
        self.knives = sum(self.objects_of.get(kind, 0) for kind in _KNIVES)
        self.insides = dict(problem.insides)
        self._set_goal()
        traits = problem.traits
        self.start = State(
            location=problem.start,
            held=problem.held,
            opened=problem.opened,
            contents=problem.contents,
            objects_at=problem.objects_at,
            lifted=(0,) * len(problem.receptacles),
            clean=traits["isclean"],
            hot=traits["ishot"],
            cool=traits["iscool"],
            sliced=traits["issliced"],
            toggled=traits["istoggled"],
        )

    def _set_goal(self) -> None:
        kind, object_type, target_type = self.problem.goal
        self.goal_objects = self.objects_of.get(object_type, 0)
        self.goal_receptacles = self.goal_lamps = 0
        self.goal_treatment: Treatment | None = None
        if kind == "look":
            toggleable = self.problem.traits["toggleable"]
            self.goal_lamps = self.objects_of.get(target_type, 0) & toggleable
            return
        self.goal_receptacles = self.receptacles_of.get(target_type, 0)
        if kind in TREATMENTS:
            self.goal_treatment = TREATMENTS[kind]
            self.goal_objects &= self.problem.traits[self.goal_treatment.trait]

    def is_won(self, state: State) -> bool:
        """Whether the goal holds now (going on may undo it)."""
        wanted = self.goal_objects
        if self.problem.goal.kind == "look":
            if state.held < 0 or not wanted >> state.held & 1:
                return False
            lit = self.goal_lamps & state.toggled
            return any(state.contents[r] & lit for r in self.receptacles_at[state.location])
        if self.goal_treatment:
            wanted &= getattr(state, self.goal_treatment.effect)
        if not wanted:
            return False
        for receptacle in members(self.goal_receptacles):
            there = state.contents[receptacle] & wanted
            if there and (self.problem.goal.kind != "two" or there & (there - 1)):
                return True
        return False

    def facts(self, state: State) -> list[str]:
        """What is true in a state and may change, as sorted texts ``predicate(names)``."""
        problem = self.problem
        things, places = problem.objects, problem.receptacles
        facts = [f"atlocation({problem.locations[state.location]})"]
        facts += [f"opened({places[r]})" for r in members(state.opened)]
        if state.held >= 0:
            facts.append(f"holds({things[state.held]})")
        for receptacle, inside in enumerate(state.contents):
            facts += [f"inreceptacle({things[o]}, {places[receptacle]})" for o in members(inside)]
        sets = {
            "isclean": state.clean,
            "ishot": state.hot,
            "iscool": state.cool,
            "issliced": state.sliced,
            "istoggled": state.toggled,
        }
        for predicate, mask in sets.items():
            facts += [f"{predicate}({things[o]})" for o in members(mask)]
        return sorted(facts)


def _by_type(types: tuple[str, ...]) -> dict[str, int]:
    masks: defaultdict[str, int] = defaultdict(int)
    for number, kind in enumerate(types):
        masks[kind] |= 1 << number
    return dict(masks)
