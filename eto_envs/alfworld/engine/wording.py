"""The descriptions of rooms, receptacles, objects and the inventory.

The texts follow the grammar in the game files of data releases 2.1.1 and 2.1.2; of the texts here,
only the help differs between the two. Not here: the effects of commands (`rules`).
"""

from __future__ import annotations

from collections.abc import Iterable

from eto_envs.alfworld.engine.game import Game, State
from eto_envs.alfworld.engine.problem import members

HELP = """Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""


def listing(names: Iterable[str]) -> str:
    """``a``, ``a, and b``, ``a, b, and c``; ``nothing`` for none."""
    *rest, last = [*names] or ["nothing"]
    return ", ".join([*rest, f"and {last}"]) if rest else last


def _objects(game: Game, mask: int) -> str:
    return listing(f"a {game.problem.objects[o]}" for o in members(mask))


def is_closed(game: Game, state: State, receptacle: int) -> bool:
    """Whether a receptacle is closed; one without a door never is."""
    return bool(game.problem.openable & ~state.opened & 1 << receptacle)


def introduction(game: Game) -> str:
    """The original's first text: welcome, room and task."""
    problem = game.problem
    placed = [r for r, location in enumerate(problem.receptacle_locations) if location >= 0]
    room = listing(f"a {problem.receptacles[r]}" for r in placed)
    return (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. "
        f"Looking quickly around you, you see {room}.\n\n{problem.task}"
    )


def surroundings(game: Game, state: State) -> str:
    """The response to `look`."""
    here = game.receptacles_at[state.location]
    if not here:
        # The original's template omits the receptacles here: from the middle, one sees nothing.
        return "You are in the middle of a room. Looking quickly around you, you see nothing."
    # An object is listed once for every receptacle here from which it was taken.
    floor = [
        f"a {game.problem.objects[o]}"
        for o in members(state.objects_at[state.location])
        for r in here
        if state.lifted[r] >> o & 1
    ]
    around = listing(game.problem.receptacles[r] for r in here)
    return f"You are facing the {around}. Next to it, you see {listing(floor)}."


def inventory(game: Game, state: State) -> str:
    """The response to `inventory`."""
    if state.held < 0:
        return "You are not carrying anything."
    return f"You are carrying: a {game.problem.objects[state.held]}."


def describe_receptacle(game: Game, state: State, receptacle: int) -> str:
    """The response to `examine` for a receptacle."""
    name = game.problem.receptacles[receptacle]
    if is_closed(game, state, receptacle):
        return f"The {name} is closed."
    contents = _objects(game, state.contents[receptacle])
    if game.problem.openable >> receptacle & 1:
        return f"The {name} is open. In it, you see {contents}."
    return f"On the {name}, you see {contents}."


def describe_object(game: Game, state: State, thing: int) -> str:
    """The response to `examine` for the object in hand."""
    name = game.problem.objects[thing]
    if thing in game.insides:
        return f"This is a normal {name}. In it, you see {_objects(game, game.insides[thing])}."
    clean, hot, cool = (mask >> thing & 1 for mask in (state.clean, state.hot, state.cool))
    sliced = state.sliced >> thing & 1
    adjective = "hot" if hot else "cool" if cool else ""
    if clean:
        adjective = f"{adjective} and clean" if adjective else "clean"
    if adjective:
        if adjective == "cool" and not sliced:
            adjective = "cold"
        return f"This is a {adjective} {'sliced ' if sliced else ''}{name}."
    if state.toggled >> thing & 1:
        return f"This {name} is on."
    if sliced:
        return f"This is a sliced {name}."
    return f"There's nothing special about {name}."
