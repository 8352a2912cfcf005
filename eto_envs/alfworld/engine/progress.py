"""The progress of a game: its sub-goals, as a pure function of game and state.

With ``reveal=("subgoals",)``, an environment has them in ``info["subgoals"]``, where
`eto_envs.shaping` finds them: ``shaping=("subgoal=0.1",)`` rewards each the first time it holds,
and ``shaping=("potential=0.99",)`` uses the fraction that holds as the potential. The original has
no sub-goals.
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
"""The names of the sub-goals for each kind of goal, in the order in which they are reached."""


def subgoals(game: Game, state: State) -> dict[str, bool]:
    """Which sub-goals hold in a state.

    - ``found``: an object that can satisfy the goal is visible or in hand.
    - ``taken``: it is in hand.
    - ``treated``: it is clean, hot or cool as the goal requires, and was treated or is in hand; for
      ``look``, the lamp is on.
    - ``placed``: the goal holds (for ``look``: the object is in hand where the lamp is).

    An object that is placed counts as taken and treated, and one that is taken or treated counts as
    found. If the goal requires two objects, the second counts only once the first is placed. All
    sub-goals hold at the end; before that they can be lost again, for example when the agent walks
    away from an object.

    Returns:
        Whether each sub-goal holds, by name, in the order of `SUBGOALS`.
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
    """The sub-goals for two objects: how many are placed (in one receptacle), taken and found."""
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
    """The set of objects in hand (at most one)."""
    return 1 << state.held if state.held >= 0 else 0


def _in_sight(game: Game, state: State) -> int:
    """The set of objects in hand or in a receptacle here that is not closed."""
    seen = _held(state)
    for receptacle in game.receptacles_at[state.location]:
        if not is_closed(game, state, receptacle):
            seen |= state.contents[receptacle]
    return seen


def _treated(game: Game, state: State) -> int:
    """The set of treated objects, except those that were so initially and are not in hand."""
    if game.goal_treatment is None:
        return 0
    effect = game.goal_treatment.effect
    made: int = getattr(state, effect) & ~getattr(game.start, effect)
    already: int = getattr(state, effect) & _held(state)
    return game.goal_objects & (made | already)
