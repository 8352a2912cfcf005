"""Writes a `Problem` as the PDDL text of an official game file; `reading` is the inverse.

Ids are chosen so that the original's naming rule gives the problem's names (see `_ids`). Goals are
formulated so that they hold exactly when the original's would. The domain and the grammar of a
complete game file are added by `export`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from eto_envs.alfworld.engine.problem import Problem, members

AGENT: Final = "agent1"

# Types that the domain uses as constants without declaring them; no receptacle is a SinkType.
_RECEPTACLE_TYPES = ("fridge", "microwave", "sink", "sinkbasin")
_OBJECT_TYPES = ("butterknife", "knife")
_TRAITS = {
    "isclean": "isClean",
    "ishot": "isHot",
    "iscool": "isCool",
    "issliced": "isSliced",
    "istoggled": "isToggled",
}
_TREATMENTS = {
    "clean": ("cleanable", "isClean"),
    "heat": ("heatable", "isHot"),
    "cool": ("coolable", "isCool"),
}

_PLACE_GOAL = """
  (exists (?r - receptacle)
    (exists (?o - object)
      (and {treated}(inReceptacle ?o ?r)
           (objectType ?o {thing}Type)
           (receptacleType ?r {target}Type))))"""
_TWO_GOAL = """
  (exists (?r - receptacle)
    (exists (?o1 - object)
      (and (objectType ?o1 {thing}Type)
           (receptacleType ?r {target}Type)
           (inReceptacle ?o1 ?r)
           (exists (?o2 - object)
             (and (not (= ?o1 ?o2))
                  (objectType ?o2 {thing}Type)
                  (receptacleType ?r {target}Type)
                  (inReceptacle ?o2 ?r))))))"""
_LOOK_GOAL = """
  (exists (?ot - object ?r - receptacle ?a - agent ?l - location)
    (and (objectType ?ot {target}Type)
         (toggleable ?ot)
         (isToggled ?ot)
         (receptacleAtLocation ?r ?l)
         (atLocation ?a ?l)
         (inReceptacle ?ot ?r)))
  (exists (?o - object ?a - agent)
    (and (objectType ?o {thing}Type)
         (holds ?a ?o)))"""


def problem_text(problem: Problem) -> str:
    """The problem in PDDL: objects, initial facts and goal."""
    return _Text(problem).text()


class _Text:
    """The parts of the PDDL text of one problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.locations = _ids(problem.locations)
        self.receptacles = _ids(problem.receptacles)
        self.objects = _ids(problem.objects)
        self.absent = _ids(_gaps(problem.objects))

    def text(self) -> str:
        declared = "\n".join(f"  {line}" for line in self.declarations())
        facts = "\n".join(f"  ({fact})" for fact in self.facts())
        return (
            f"(define (problem game)\n(:domain alfred)\n(:objects\n{declared}\n)\n"
            f"(:init\n{facts}\n)\n(:goal (and {self.goal()}\n)))\n"
        )

    def goal(self) -> str:
        kind, thing, target = self.problem.goal
        form = {"two": _TWO_GOAL, "look": _LOOK_GOAL}.get(kind, _PLACE_GOAL)
        predicates = _TREATMENTS.get(kind, ())
        treated = "".join(f"({predicate} ?o)\n           " for predicate in predicates)
        return form.format(thing=thing, target=target, treated=treated)

    def declarations(self) -> Iterator[str]:
        problem = self.problem
        kind, thing, target = problem.goal
        lamp, receptacle = ([target], []) if kind == "look" else ([], [target])
        object_types = {*_OBJECT_TYPES, *problem.object_types, thing, *lamp} - {""}
        receptacle_types = {*_RECEPTACLE_TYPES, *problem.receptacle_types, *receptacle} - {""}
        yield f"{AGENT} - agent"
        yield from (f"{entity} - location" for entity in self.locations)
        yield from (f"{entity} - receptacle" for entity in self.receptacles)
        yield from (f"{entity} - object" for entity in (*self.objects, *self.absent))
        yield from (f"{kind}Type - rtype" for kind in sorted(receptacle_types))
        yield from (f"{kind}Type - otype" for kind in sorted(object_types))

    def facts(self) -> Iterator[str]:
        problem = self.problem
        yield f"atLocation {AGENT} {self.locations[problem.start]}"
        if problem.held >= 0:
            yield f"holds {AGENT} {self.objects[problem.held]}"
            yield f"holdsAny {AGENT}"
        yield from self._facts_of_receptacles()
        yield from self._facts_of_objects()

    def _facts_of_receptacles(self) -> Iterator[str]:
        problem = self.problem
        for receptacle, entity in enumerate(self.receptacles):
            kind = problem.receptacle_types[receptacle]
            location = problem.receptacle_locations[receptacle]
            if kind:
                yield f"receptacleType {entity} {kind}Type"
            if location >= 0:
                yield f"receptacleAtLocation {entity} {self.locations[location]}"
            if problem.openable >> receptacle & 1:
                yield f"openable {entity}"
            if problem.opened >> receptacle & 1:
                yield f"opened {entity}"
            for thing in members(problem.contents[receptacle]):
                yield f"inReceptacle {self.objects[thing]} {entity}"
        fits = {
            (kind, problem.object_types[thing])
            for kind, accepted in zip(problem.receptacle_types, problem.accepts, strict=True)
            for thing in members(accepted)
        }
        yield from (f"canContain {holder}Type {kind}Type" for holder, kind in sorted(fits))

    def _facts_of_objects(self) -> Iterator[str]:
        problem = self.problem
        yield from (f"pickupable {entity}" for entity in self.absent)
        for thing, entity in enumerate(self.objects):
            if problem.object_types[thing]:
                yield f"objectType {entity} {problem.object_types[thing]}Type"
        for trait, mask in problem.traits.items():
            yield from (f"{_TRAITS.get(trait, trait)} {self.objects[o]}" for o in members(mask))
        for location, mask in enumerate(problem.objects_at):
            for thing in members(mask):
                yield f"objectAtLocation {self.objects[thing]} {self.locations[location]}"
        for outer, inside in problem.insides:
            yield f"isReceptacleObject {self.objects[outer]}"
            for inner in members(inside):
                yield f"inReceptacleObject {self.objects[inner]} {self.objects[outer]}"


def _gaps(names: Sequence[str]) -> list[str]:
    """The names missing from the numbering; in official games, these objects are nowhere."""
    greatest: dict[str, int] = {}
    for name in names:
        kind, _, number = name.rpartition(" ")
        greatest[kind] = max(greatest.get(kind, 0), int(number))
    known = set(names)
    complete = (f"{kind} {n}" for kind, most in greatest.items() for n in range(1, most))
    return [name for name in complete if name not in known]


def _ids(names: Sequence[str]) -> list[str]:
    """The id of each name: ``drawer_bar_997`` for ``drawer 3``.

    The original assigns number 1 to the last id of a type, so ids must ascend as numbers descend.
    """
    ids = []
    for name in names:
        kind, _, number = name.rpartition(" ")
        # 1000 is greater than any number; three digits keep the alphabetical order numerical.
        position = f"bar_{1000 - int(number):03d}"
        base = kind.removesuffix("basin")
        ids.append(f"{base}_{position}" + (f"_bar_{kind}" if base != kind else ""))
    return ids
