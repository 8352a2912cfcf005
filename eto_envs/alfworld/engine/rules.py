"""The rules of ALFWorld: the effect of a command on the state, and the game's response.

Follows TextWorld 1.7.0's `PddlEnv` with the ALFRED domain and grammar of data releases 2.1.1 and
2.1.2, including its quirks: recorded episodes can be replayed without a difference. Everything is a
pure function of game, state and command. Not here: the list of admissible commands (`admissible`)
and the descriptions (`wording`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from eto_envs.alfworld.engine.game import TREATMENTS, Game, State
from eto_envs.alfworld.engine.wording import (
    HELP,
    describe_object,
    describe_receptacle,
    inventory,
    is_closed,
    surroundings,
)

NOTHING_HAPPENS: Final = "Nothing happens."
"""The response to every command that is not admissible."""


class Outcome(NamedTuple):
    """The result of a command.

    Attributes:
        state: the state after it.
        observation: the response, identical to the original's.
        won: whether the goal holds now.
    """

    state: State
    observation: str
    won: bool


Effect: TypeAlias = "tuple[State, str] | None"
"""The next state and the response, or None if the command is not admissible."""


def step(game: Game, state: State, command: str) -> Outcome:
    """Carry out a command; only white space around it is ignored."""
    verb, _, rest = command.strip().partition(" ")
    action = _ACTIONS.get(verb)
    effect = None if action is None else action(game, state, rest)
    if effect is None:
        return Outcome(state, NOTHING_HAPPENS, game.is_won(state))
    return Outcome(*effect, game.is_won(effect[0]))


def _with(values: tuple[int, ...], position: int, value: int) -> tuple[int, ...]:
    """A copy of `values` with another value at `position`."""
    return (*values[:position], value, *values[position + 1 :])


def _is_here(game: Game, state: State, receptacle: int) -> bool:
    return game.problem.receptacle_locations[receptacle] == state.location


def _receptacle_here(game: Game, state: State, name: str) -> int | None:
    """The receptacle of that name, if it is at the agent's location."""
    receptacle = game.receptacle_number.get(name)
    if receptacle is None or not _is_here(game, state, receptacle):
        return None
    return receptacle


def _object_and_receptacle(
    game: Game, state: State, text: str, separator: str
) -> tuple[int, int] | None:
    """An object and a receptacle at the agent's location, from ``object separator receptacle``."""
    first, _, second = text.partition(separator)
    thing = game.object_number.get(first)
    receptacle = _receptacle_here(game, state, second)
    if thing is None or receptacle is None:
        return None
    return thing, receptacle


def _look(game: Game, state: State, rest: str) -> Effect:
    return None if rest else (state, surroundings(game, state))


def _inventory(game: Game, state: State, rest: str) -> Effect:
    return None if rest else (state, inventory(game, state))


def _help(game: Game, state: State, rest: str) -> Effect:
    return None if rest or game.grammar == "2.1.1" else (state, HELP)


def _go(game: Game, state: State, rest: str) -> Effect:
    to, _, name = rest.partition(" ")
    receptacle = game.receptacle_number.get(name)
    if to != "to" or receptacle is None:
        return None
    location = game.problem.receptacle_locations[receptacle]
    if location < 0 or location == state.location:
        # The original also does nothing for another receptacle at the agent's location.
        return None
    after = state._replace(location=location)
    names = game.problem.locations if game.grammar == "2.1.1" else game.problem.receptacles
    place = names[location if game.grammar == "2.1.1" else receptacle]
    return after, f"You arrive at {place}. {describe_receptacle(game, after, receptacle)}"


def _examine(game: Game, state: State, rest: str) -> Effect:
    receptacle = _receptacle_here(game, state, rest)
    if receptacle is not None:
        return state, describe_receptacle(game, state, receptacle)
    # Only the object in hand: in the domain, the branch for visible objects has a misspelt type.
    if state.held < 0 or game.problem.objects[state.held] != rest:
        return None
    return state, describe_object(game, state, state.held)


def _open(game: Game, state: State, rest: str) -> Effect:
    receptacle = _receptacle_here(game, state, rest)
    if receptacle is None or not is_closed(game, state, receptacle):
        return None
    after = state._replace(opened=state.opened | 1 << receptacle)
    return after, f"You open the {rest}. {describe_receptacle(game, after, receptacle)}"


def _close(game: Game, state: State, rest: str) -> Effect:
    receptacle = _receptacle_here(game, state, rest)
    if receptacle is None or not game.problem.openable & state.opened & 1 << receptacle:
        return None
    return state._replace(opened=state.opened & ~(1 << receptacle)), f"You close the {rest}."


def _take(game: Game, state: State, rest: str) -> Effect:
    pair = _object_and_receptacle(game, state, rest, " from ")
    if pair is None or state.held >= 0:
        return None
    thing, receptacle = pair
    bit = 1 << thing
    takeable = state.contents[receptacle] & game.problem.traits["pickupable"]
    if not takeable & bit or is_closed(game, state, receptacle):
        return None
    place = state.location
    # An object can be in several receptacles at once; it stays in the others.
    after = state._replace(
        held=thing,
        contents=_with(state.contents, receptacle, state.contents[receptacle] & ~bit),
        objects_at=_with(state.objects_at, place, state.objects_at[place] & ~bit),
        lifted=_with(state.lifted, receptacle, state.lifted[receptacle] | bit),
    )
    problem = game.problem
    return after, (
        f"You pick up the {problem.objects[thing]} from the {problem.receptacles[receptacle]}."
    )


def _put(game: Game, state: State, rest: str) -> Effect:
    pair = _object_and_receptacle(game, state, rest, " in/on ")
    return None if game.grammar != "2.1.1" else _place(game, state, pair)


def _move(game: Game, state: State, rest: str) -> Effect:
    pair = _object_and_receptacle(game, state, rest, " to ")
    return None if game.grammar == "2.1.1" else _place(game, state, pair)


def _place(game: Game, state: State, pair: tuple[int, int] | None) -> Effect:
    if pair is None or state.held != pair[0]:
        return None
    thing, receptacle = pair
    bit = 1 << thing
    if not game.problem.accepts[receptacle] & bit or is_closed(game, state, receptacle):
        return None
    place = state.location
    after = state._replace(
        held=-1,
        contents=_with(state.contents, receptacle, state.contents[receptacle] | bit),
        objects_at=_with(state.objects_at, place, state.objects_at[place] | bit),
        lifted=_with(state.lifted, receptacle, state.lifted[receptacle] & ~bit),
    )
    thing_name, name = game.problem.objects[thing], game.problem.receptacles[receptacle]
    if game.grammar == "2.1.1":
        return after, f"You put the {thing_name} in/on the {name}."
    return after, f"You move the {thing_name} to the {name}."


def _use(game: Game, state: State, rest: str) -> Effect:
    thing = game.object_number.get(rest)
    if thing is None or not game.problem.traits["toggleable"] >> thing & 1:
        return None
    if not any(state.contents[r] >> thing & 1 for r in game.receptacles_at[state.location]):
        return None
    # This also works in closed receptacles; a lamp cannot be switched off again.
    return state._replace(toggled=state.toggled | 1 << thing), f"You turn on the {rest}."


def _treat(verb: str) -> Callable[[Game, State, str], Effect]:
    appliance, trait, _ = TREATMENTS[verb]

    def treat(game: Game, state: State, rest: str) -> Effect:
        pair = _object_and_receptacle(game, state, rest, " with ")
        if pair is None or state.held != pair[0]:
            return None
        thing, receptacle = pair
        problem = game.problem
        if problem.receptacle_types[receptacle] != appliance:
            return None
        if not problem.traits[trait] >> thing & 1:
            return None
        bit = 1 << thing
        if verb == "clean":
            after = state._replace(clean=state.clean | bit)
        elif verb == "heat":
            after = state._replace(hot=state.hot | bit, cool=state.cool & ~bit)
        else:
            after = state._replace(cool=state.cool | bit, hot=state.hot & ~bit)
        name = problem.receptacles[receptacle]
        return after, f"You {verb} the {problem.objects[thing]} using the {name}."

    return treat


def _slice(game: Game, state: State, rest: str) -> Effect:
    first, _, second = rest.partition(" with ")
    thing, knife = game.object_number.get(first), game.object_number.get(second)
    if thing is None or knife is None or state.held != knife or not game.knives >> knife & 1:
        return None
    if not game.problem.traits["sliceable"] & state.objects_at[state.location] & 1 << thing:
        return None
    after = state._replace(sliced=state.sliced | 1 << thing)
    return after, f"You sliced the {first} with the {second}."


_ACTIONS: dict[str, Callable[[Game, State, str], Effect]] = {
    "look": _look,
    "inventory": _inventory,
    "help": _help,
    "go": _go,
    "open": _open,
    "close": _close,
    "examine": _examine,
    "take": _take,
    "put": _put,
    "move": _move,
    "use": _use,
    "clean": _treat("clean"),
    "heat": _treat("heat"),
    "cool": _treat("cool"),
    "slice": _slice,
}
