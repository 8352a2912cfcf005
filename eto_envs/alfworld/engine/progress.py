"""How far along a game is: its sub-goals, a pure function of game and state.

An environment made with ``reveal=("subgoals",)`` has them in ``info["subgoals"]``, where
`eto_envs.shaping` looks: ``shaping=("subgoal=0.1",)`` pays each the first time it holds,
``shaping=("potential=0.99",)`` takes their share as the potential. Nothing here is of the original.
"""

from __future__ import annotations

from typing import Final

from eto_envs.alfworld.engine.game import Game, State
from eto_envs.alfworld.engine.problem import members
from eto_envs.alfworld.engine.wording import is_closed

SUBGOALS: Final = {
    "place": ("found", "taken", "placed"),
    "two": ("found", "taken", "placed", "found second", "taken second", "placed second"),
    **dict.fromkeys(("clean", "heat", "cool", "look"), ("found", "taken", "treated", "placed")),
}
"""The names of the sub-goals of each kind of goal, in the order a player meets them."""


def subgoals(game: Game, state: State) -> dict[str, bool]:
    """Which sub-goals hold in a state.

    - ``found``: an object that the goal may be about is in sight or in hand.
    - ``taken``: it is in hand.
    - ``treated``: it is clean, hot or cool as the goal wants, and was made so or is in hand; under
      ``look``, the lamp is on.
    - ``placed``: the goal holds (under ``look``: it is in hand where the lamp is).

    What is placed counts as taken and treated, and all of these as found. Two objects go one after
    the other: the second is looked for once the first is placed. At the end all of them hold;
    before it they may be lost again, as when a player walks away from what was found.

    Returns:
        The names in the order of `SUBGOALS`, each with whether it holds.
    """
    kind = game.problem.goal.kind
    if kind == "two":
        return _two(game, state)
    placed = game.is_won(state)
    taken = placed or bool(_held(state) & game.goal_objects)
    holds = {"taken": taken, "placed": placed}
    if kind == "look":
        holds["treated"] = bool(game.goal_lamps & state.toggled)
        holds["found"] = taken or bool(_in_sight(game, state) & game.goal_objects)
    else:
        holds["treated"] = placed or bool(_treated(game, state))
        seen = _in_sight(game, state) & game.goal_objects
        holds["found"] = taken or holds["treated"] or bool(seen)
    return {name: holds[name] for name in SUBGOALS[kind]}


def _two(game: Game, state: State) -> dict[str, bool]:
    """How many of the two are placed (in one receptacle), taken and found."""
    inside = [state.contents[r] & game.goal_objects for r in members(game.goal_receptacles)]
    together = max(inside, key=lambda objects: min(objects.bit_count(), 2), default=0)
    others = game.goal_objects & ~together
    n_placed = min(together.bit_count(), 2)
    n_taken = n_placed + bool(_held(state) & others)
    n_found = n_placed + bool(_in_sight(game, state) & others)
    counts = {"found": n_found, "taken": n_taken, "placed": n_placed}
    return {
        name: counts[name.removesuffix(" second")] > name.endswith(" second")
        for name in SUBGOALS["two"]
    }


def _held(state: State) -> int:
    """The set of what is in hand."""
    return 1 << state.held if state.held >= 0 else 0


def _in_sight(game: Game, state: State) -> int:
    """The objects in hand or in a receptacle here that is not closed."""
    seen = _held(state)
    for receptacle in game.receptacles_at[state.location]:
        if not is_closed(game, state, receptacle):
            seen |= state.contents[receptacle]
    return seen


def _treated(game: Game, state: State) -> int:
    """The objects as the goal wants them, but for those that were so and were not taken yet."""
    if game.goal_treatment is None:
        return 0
    effect = game.goal_treatment.effect
    made: int = getattr(state, effect) & ~getattr(game.start, effect)
    already: int = getattr(state, effect) & _held(state)
    return game.goal_objects & (made | already)
