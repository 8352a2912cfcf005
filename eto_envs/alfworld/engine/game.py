"""`Game`, a problem prepared for playing, and `State`, its state at some point of an episode.

A game never changes, and a state is a small hashable value, so storing a state is enough to fork an
episode. Not here: what commands do and the texts (`rules`, `wording`).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final, NamedTuple

from eto_envs.alfworld.engine.problem import Problem, members
from eto_envs.errors import UnknownNameError

GRAMMARS: Final = ("2.1.1", "2.1.2")
"""The data releases, which differ in wording: `put … in/on …` and `move … to …`."""

_KNIVES = ("knife", "butterknife")


class Treatment(NamedTuple):
    """The requirements and the effect of `clean`, `heat` and `cool`.

    Attributes:
        appliance: the type of the receptacle that is used.
        trait: the key of `Problem.traits` with the objects that can be treated.
        effect: the field of `State` with the objects that have been treated.
    """

    appliance: str
    trait: str
    effect: str


# The domain also mentions a SinkType, but no receptacle of any game has this type.
TREATMENTS: Final = {
    "clean": Treatment("sinkbasin", "cleanable", "clean"),
    "heat": Treatment("microwave", "heatable", "hot"),
    "cool": Treatment("fridge", "coolable", "cool"),
}


class State(NamedTuple):
    """A state of a game. Sets are ints, as in `Problem`; tuples are by receptacle or location.

    Attributes:
        location: the location of the agent.
        held: the object in hand, -1 for none.
        opened: the set of open receptacles.
        contents: the set of objects in each receptacle.
        objects_at: the set of objects that the domain considers to be at each location.
        lifted: the set of objects that were taken from each receptacle and are not in it now.
        clean: the set of clean objects.
        hot: the set of hot objects.
        cool: the set of cool objects.
        sliced: the set of sliced objects.
        toggled: the set of lamps that have been switched on.
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
        problem: the underlying problem.
        grammar: one of `GRAMMARS`.
        start: the initial state.
        receptacle_number: the number of each receptacle, by name.
        object_number: the number of each object, by name.
        receptacles_at: the receptacles at each location, in ascending order.
        receptacles_of: the set of receptacles of each type.
        objects_of: the set of objects of each type.
        knives: the set of objects that can slice.
        insides: for each object that can hold others, the set of objects in it.
        goal_objects: the set of objects that can satisfy the goal.
        goal_receptacles: the set of receptacles that can satisfy it (empty for ``look``).
        goal_lamps: the set of lamps that can satisfy it (empty except for ``look``).
        goal_treatment: what must be done to the object first, or None.
    """

    def __init__(self, problem: Problem, grammar: str = "2.1.1") -> None:
        """Compile a problem.

        Raises:
            UnknownNameError: there is no such grammar.
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
        """Whether the goal holds in a state (later commands can undo it)."""
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
            # `there & (there - 1)` clears the lowest bit: it is not 0 if there are at least two.
            if there and (self.problem.goal.kind != "two" or there & (there - 1)):
                return True
        return False

    def facts(self, state: State) -> list[str]:
        """The facts of a state that can change, as sorted strings ``predicate(names)``."""
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
    """The set of entities of each type."""
    masks: defaultdict[str, int] = defaultdict(int)
    for number, kind in enumerate(types):
        masks[kind] |= 1 << number
    return dict(masks)
