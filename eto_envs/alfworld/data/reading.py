"""Reads an official ALFWorld game file, `game.tw-pddl` of data releases 2.1.1 and 2.1.2.

A game file is JSON with a PDDL domain, a PDDL problem and a grammar. Of the problem, only the facts
in `(:init …)` and the `(:goal …)` are read; of the grammar, only the task and the release. The rest
is the same in all games and is implemented by `engine.rules` and `engine.wording`. Names follow
`AlfredDemangler` of alfworld 0.4.2 (`alfworld/agents/environment/alfred_tw_env.py`).
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eto_envs.alfworld.engine.problem import TRAITS, Goal, Problem
from eto_envs.errors import CorruptDataError
from eto_envs.files import parse_json, read_json_object

_KEYS = ("pddl_domain", "grammar", "pddl_problem", "solvable")
_TASK = re.compile(r'"task"\s*:\s*\[\s*\{\s*"rhs"\s*:\s*("(?:[^"\\]|\\.)*")')
WORDINGS = {
    "2.1.1": {
        "go": "You arrive at {lend.name}. #examineReceptacle.feedback#",
        "put": "put {o} in/on {r}",
        "done": "You put the {o.name} in/on the {r.name}.",
    },
    "2.1.2": {
        "go": "You arrive at {r.name}. #examineReceptacle.feedback#",
        "put": "move {o} to {r}",
        "done": "You move the {o.name} to the {r.name}.",
    },
}
"""The phrases in which the grammars of the releases differ, apart from the help."""

# SHA-256 of the whole grammar without its task, which is the same in all games of a release. The
# last one is that of the package alfworld 0.4.2: the words of 2.1.2, with the help elsewhere.
_GRAMMARS = {
    "49b373425005f369ee3270fef508ca289db8f6b63772d074727d2f126749c4b0": "2.1.1",
    "0799a5c6345455136e2194804471d9e4a277985bb1817c9817917e4c39959816": "2.1.2",
    "9f506a0ed041c9d68f73bd1ad082d034680f6b6ff0f513f1ce42afdace16035e": "2.1.2",
}
_TREATMENTS = {"clean": "isclean", "heat": "ishot", "cool": "iscool"}
_UNARY = """
    openable opened isreceptacleobject isreceptacleobjectfull checked examined holdsany
    holdsanyreceptacleobject full isclean cleanable ishot heatable iscool coolable pickupable
    moveable toggleable ison istoggled sliceable issliced
"""
_BINARY = """
    atlocation receptacleatlocation objectatlocation inreceptacle inreceptacleobject
    wasinreceptacle receptacletype cancontain objecttype holds
"""
# Predicates of the ALFRED domain and their numbers of arguments; any other one is an error.
_N_ARGUMENTS = dict.fromkeys(_UNARY.split(), 1) | dict.fromkeys(_BINARY.split(), 2)
_NUMERIC = ("distance", "total-cost", "=")  # numeric fluents, which have no effect on the game
_FACT = re.compile(r"\(\s*([\w@=-]+)((?:\s+[^\s()]+)*)\s*\)")  # innermost parentheses: (name args…)
_COMMENT = re.compile(r";[^\n]*")

Facts = Mapping[str, Sequence[tuple[str, ...]]]


class UnsolvableGameError(CorruptDataError):
    """A game file that declares the game to be unsolvable."""


class OfficialGame(NamedTuple):
    """The content of a game file.

    Attributes:
        problem: the problem.
        grammar: the release whose wording it uses, ``"2.1.1"`` or ``"2.1.2"``.
    """

    problem: Problem
    grammar: str


def read_game(path: Path) -> OfficialGame:
    """Read a game file.

    Raises:
        DataNotFoundError: there is no such file.
        UnsolvableGameError: its key ``solvable`` is false.
        CorruptDataError: it is not JSON, lacks a key or cannot be parsed; the message names the
            file and the key.
    """
    content = _read_content(path)
    if not content["solvable"]:
        raise UnsolvableGameError(f"{path}: key 'solvable' is false, the game cannot be won")
    grammar, task = _read_grammar(path, content["grammar"])
    try:
        problem = read_problem(content["pddl_problem"], task)
    except CorruptDataError as error:
        raise CorruptDataError(f"{path}: key 'pddl_problem': {error}") from None
    return OfficialGame(problem, grammar)


def _read_content(path: Path) -> dict[str, Any]:
    content = read_json_object(path)
    for key in _KEYS:
        kind = bool if key == "solvable" else str
        if not isinstance(content.get(key), kind):
            what = f"is not a {kind.__name__}" if key in content else "is missing"
            raise CorruptDataError(f"{path}: key {key!r} {what}")
    return content


def _read_grammar(path: Path, text: str) -> tuple[str, str]:
    """The release and the task of a grammar."""
    match = _TASK.search(text)
    if match is None:
        raise CorruptDataError(f"{path}: key 'grammar' has no task")
    releases = [release for release, words in WORDINGS.items() if f'"{words["put"]}"' in text]
    if not releases:
        forms = " nor ".join(f'"{words["put"]}"' for words in WORDINGS.values())
        raise CorruptDataError(f"{path}: key 'grammar' has neither {forms}")
    others = [
        phrase
        for release, words in WORDINGS.items()
        for phrase in words.values()
        if release != releases[0] and f'"{phrase}"' in text
    ]
    # A grammar that TextWorld can play says how a game begins. Other words than those that are
    # known could only be played wrongly.
    is_whole = '"intro"' in text
    if others or (is_whole and _GRAMMARS.get(_digest(text, match)) != releases[0]):
        raise CorruptDataError(
            f"{path}: key 'grammar' is of none of the releases {', '.join(WORDINGS)}, and its "
            "words would not be those of its games; use the files of one of these releases"
        )
    return releases[0], parse_json(match.group(1), f"{path}: key 'grammar'")


def _digest(grammar: str, task: re.Match[str]) -> str:
    """SHA-256 of a grammar without its task and regardless of white space."""
    text = f'{grammar[: task.start(1)]}""{grammar[task.end(1) :]}'
    return hashlib.sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).hexdigest()


def read_problem(pddl: str, task: str) -> Problem:
    """Parse a problem in PDDL.

    Args:
        pddl: the text under the key ``pddl_problem`` of a game file.
        task: the instruction.

    Raises:
        CorruptDataError: the text is not an ALFRED problem; the message gives the reason.
    """
    text = _COMMENT.sub("", pddl.lower())
    start, end = text.find("(:init"), text.find("(:goal")
    if not 0 <= start < end:
        raise CorruptDataError("there is no (:init …) before a (:goal …)")
    facts = _read_facts(text[start + len("(:init") : end])
    goal = _read_goal(re.sub(r"\s+", " ", text[end:]))
    return _number(facts, goal, task)


def _read_facts(text: str) -> Facts:
    """The rows of arguments of each predicate: ``(openable a)`` is ``("a",)`` under "openable"."""
    facts: defaultdict[str, list[tuple[str, ...]]] = defaultdict(list)
    for name, arguments in _FACT.findall(text):
        if name in _NUMERIC:
            continue
        row = tuple(arguments.split())
        if name not in _N_ARGUMENTS:
            raise CorruptDataError(f"unknown predicate {name!r}")
        if len(row) != _N_ARGUMENTS[name]:
            raise CorruptDataError(f"{name!r} with {len(row)} arguments")
        facts[name].append(row)
    if len(facts["atlocation"]) != 1:
        raise CorruptDataError(f"{len(facts['atlocation'])} atLocation facts, expected one")
    return facts


def _read_goal(text: str) -> Goal:
    """Classify a goal by the literals in it; its exact structure differs from game to game.

    Object variables are ``?o``, or ``?o1`` and ``?o2`` for two objects, and ``?ot`` for a lamp.
    Only ``look`` goals contain ``(holds …)``, and only goals for two objects ``(not (= ?o1 ?o2))``.
    """
    objects = re.findall(r"\(objecttype \?(o\w?) (\w+)type\)", text)
    targets = re.findall(r"\(receptacletype \?r (\w+)type\)", text)
    lamps = [kind for variable, kind in objects if variable == "ot"]
    things = {kind for variable, kind in objects if variable != "ot"}
    places = set(lamps if "(holds " in text else targets)
    if len(things) != 1 or len(places) != 1:
        raise CorruptDataError(f"unknown kind of goal: {text:.200}")
    if "(holds " in text:
        kind = "look"
    elif "(not (= ?o1 ?o2))" in text:
        kind = "two"
    else:
        treated = [name for name, predicate in _TREATMENTS.items() if f"({predicate} " in text]
        kind = treated[0] if treated else "place"
    return Goal(kind, things.pop(), places.pop())


def _names(facts: Facts) -> dict[str, str]:
    """The name of every entity: its type and a number; the last id of a type has number 1.

    An id such as ``sink_bar_…_bar_sinkbasin`` begins with its type; basins get the suffix "basin".
    """
    ids = sorted({one for rows in facts.values() for row in rows for one in row})
    names: dict[str, str] = {}
    numbers: defaultdict[str, int] = defaultdict(int)
    for entity in reversed(ids):
        base, bar, _ = entity.partition("_bar_")
        if not bar:
            names[entity] = f"{entity} "  # as in the original; such ids never appear in texts
            continue
        base += "basin" if "basin" in entity else ""
        numbers[base] += 1
        names[entity] = f"{base} {numbers[base]}"
    return names


def _column(facts: Facts, predicate: str, position: int) -> set[str]:
    """The entities that occur at one position of a predicate's arguments."""
    return {row[position] for row in facts.get(predicate, ())}


class _Index:
    """Entities of one kind, numbered in the order of their ids."""

    def __init__(self, *ids: set[str]) -> None:
        self.ids = sorted(set().union(*ids))
        self.number = {entity: number for number, entity in enumerate(self.ids)}

    def mask(self, entities: Iterable[str]) -> int:
        """The set (bit mask) of those entities that are of this kind."""
        return sum(1 << self.number[e] for e in set(entities) if e in self.number)

    def masks(self, pairs: Iterable[tuple[str, ...]], things: _Index) -> tuple[int, ...]:
        """For each entity, the set of `things` in (thing, entity) pairs with it."""
        found = [0] * len(self.ids)
        for thing, entity in pairs:
            found[self.number[entity]] |= 1 << things.number[thing]
        return tuple(found)

    def types(self, pairs: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
        """The type of each entity, empty if it has none; `pairs` are (entity, type)."""
        found: dict[str, str] = {}
        for entity, kind in pairs:
            if found.setdefault(entity, kind.removesuffix("type")) != kind.removesuffix("type"):
                raise CorruptDataError(f"{entity!r} has two types")
        return tuple(found.get(entity, "") for entity in self.ids)


def _number(facts: Facts, goal: Goal, task: str) -> Problem:
    """Number the entities and make the problem.

    The objects of a PDDL problem are declared, too, but what an entity is follows from its facts:
    whatever occurs where a predicate has a receptacle is a receptacle, and so on.
    """
    receptacles = _Index(
        _column(facts, "receptacleatlocation", 0),
        _column(facts, "inreceptacle", 1),
        _column(facts, "receptacletype", 0),
    )
    objects = _Index(
        _column(facts, "inreceptacle", 0),
        _column(facts, "objectatlocation", 0),
        _column(facts, "objecttype", 0),
        _column(facts, "inreceptacleobject", 0),
        _column(facts, "inreceptacleobject", 1),
        _column(facts, "holds", 1),
    )
    locations = _Index(
        _column(facts, "receptacleatlocation", 1),
        _column(facts, "objectatlocation", 1),
        _column(facts, "atlocation", 1),
    )
    names = _names(facts)
    places = {receptacle: where for receptacle, where in facts.get("receptacleatlocation", ())}
    receptacle_types = receptacles.types(facts.get("receptacletype", ()))
    object_types = objects.types(facts.get("objecttype", ()))
    held = [objects.number[thing] for _, thing in facts.get("holds", ())]
    return Problem(
        task=task,
        goal=goal,
        locations=tuple(names[entity] for entity in locations.ids),
        start=locations.number[facts["atlocation"][0][1]],
        held=held[0] if held else -1,
        receptacles=tuple(names[entity] for entity in receptacles.ids),
        receptacle_types=receptacle_types,
        receptacle_locations=tuple(
            locations.number[places[r]] if r in places else -1 for r in receptacles.ids
        ),
        openable=receptacles.mask(_column(facts, "openable", 0)),
        opened=receptacles.mask(_column(facts, "opened", 0)),
        contents=receptacles.masks(facts.get("inreceptacle", ()), objects),
        accepts=_accepts(facts, receptacle_types, object_types),
        objects=tuple(names[entity] for entity in objects.ids),
        object_types=object_types,
        objects_at=locations.masks(facts.get("objectatlocation", ()), objects),
        traits={trait: objects.mask(_column(facts, trait, 0)) for trait in TRAITS},
        insides=_insides(facts, objects),
    )


def _accepts(
    facts: Facts, receptacle_types: Sequence[str], object_types: Sequence[str]
) -> tuple[int, ...]:
    """The set of objects that can be put into each receptacle; `canContain` relates their types."""
    of_type: defaultdict[str, int] = defaultdict(int)
    for number, kind in enumerate(object_types):
        of_type[kind] |= 1 << number
    fits: defaultdict[str, int] = defaultdict(int)
    for holder, thing in set(facts.get("cancontain", ())):
        fits[holder.removesuffix("type")] |= of_type.get(thing.removesuffix("type"), 0)
    return tuple(fits[kind] for kind in receptacle_types)


def _insides(facts: Facts, objects: _Index) -> tuple[tuple[int, int], ...]:
    """For each object that can hold others, the set of objects in it, which never changes."""
    pairs = facts.get("inreceptacleobject", ())
    holders = _column(facts, "isreceptacleobject", 0) & objects.number.keys()
    held = {outer: {i for i, o in pairs if o == outer} for outer in holders}
    return tuple(sorted((objects.number[o], objects.mask(inner)) for o, inner in held.items()))
