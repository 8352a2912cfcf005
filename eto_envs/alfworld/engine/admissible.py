"""The admissible commands of a state, in the original's order.

A command is in the list if and only if the response of `rules.step` is not "Nothing happens.".
"""

from __future__ import annotations

from eto_envs.alfworld.engine.game import TREATMENTS, Game, State
from eto_envs.alfworld.engine.problem import members
from eto_envs.alfworld.engine.wording import is_closed


def admissible_commands(game: Game, state: State) -> list[str]:
    """The admissible commands, sorted as in the original."""
    problem = game.problem
    here = game.receptacles_at[state.location]
    commands = ["inventory", "look"]
    if game.grammar != "2.1.1":
        commands.append("help")
    for receptacle, location in enumerate(problem.receptacle_locations):
        if location >= 0 and location != state.location:
            commands.append(f"go to {problem.receptacles[receptacle]}")
    in_reach = 0
    for receptacle in here:
        commands += _commands_with(game, state, receptacle)
        in_reach |= state.contents[receptacle]
    for lamp in members(in_reach & problem.traits["toggleable"]):
        commands.append(f"use {problem.objects[lamp]}")
    if state.held >= 0:
        held = problem.objects[state.held]
        commands.append(f"examine {held}")
        if game.knives >> state.held & 1:
            for food in members(problem.traits["sliceable"] & state.objects_at[state.location]):
                commands.append(f"slice {problem.objects[food]} with {held}")
    return sorted(commands)


def _commands_with(game: Game, state: State, receptacle: int) -> list[str]:
    """The commands that involve one receptacle at the agent's location."""
    problem = game.problem
    name = problem.receptacles[receptacle]
    commands = [f"examine {name}"]
    if problem.openable >> receptacle & 1:
        is_open = state.opened >> receptacle & 1
        commands.append(f"close {name}" if is_open else f"open {name}")
    reachable = not is_closed(game, state, receptacle)
    if state.held < 0:
        if reachable:
            takeable = state.contents[receptacle] & problem.traits["pickupable"]
            commands += [f"take {problem.objects[o]} from {name}" for o in members(takeable)]
        return commands
    held = problem.objects[state.held]
    if reachable and problem.accepts[receptacle] >> state.held & 1:
        form = "put {} in/on {}" if game.grammar == "2.1.1" else "move {} to {}"
        commands.append(form.format(held, name))
    for verb, treatment in TREATMENTS.items():
        treats = problem.receptacle_types[receptacle] == treatment.appliance
        if treats and problem.traits[treatment.trait] >> state.held & 1:
            commands.append(f"{verb} {held} with {name}")
    return commands
