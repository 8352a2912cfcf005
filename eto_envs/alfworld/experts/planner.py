"""The oracle: a shortest solution, from full information.

A* search over the states of the engine. Only what is relevant is considered: the objects of the
goal, the receptacles they are in, the ones they belong in, and the appliances that treat them. Of
equivalent locations, one is enough (two if the goal requires two objects). The remaining search
space is small, so a plan takes milliseconds.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Hashable, Iterator

from eto_envs.alfworld.engine.game import Game, State
from eto_envs.alfworld.engine.problem import members
from eto_envs.alfworld.engine.rules import NOTHING_HAPPENS, step


def shortest_plan(game: Game, state: State) -> list[str] | None:
    """The commands of a shortest solution from `state`; None if there is none.

    Ties are broken deterministically: the same state gives the same plan.
    """
    scene = _Scene(game, state)
    came_from: dict[State, tuple[State, str] | None] = {state: None}
    n_steps = {state: 0}
    queue = [(scene.lower_bound(state), 0, state)]
    n_queued = 0
    while queue:
        _, _, here = heapq.heappop(queue)
        if game.is_won(here):
            return _commands_to(here, came_from)
        for command in scene.commands(here):
            after, answer, _ = step(game, here, command)
            if answer == NOTHING_HAPPENS or n_steps[here] + 1 >= n_steps.get(after, 10**9):
                continue
            n_steps[after] = n_steps[here] + 1
            came_from[after] = (here, command)
            n_queued += 1
            bound = n_steps[after] + scene.lower_bound(after)
            # Ties go to the state found last, which tends to be closer to the goal.
            heapq.heappush(queue, (bound, -n_queued, after))
    return None


def _commands_to(state: State, came_from: dict[State, tuple[State, str] | None]) -> list[str]:
    commands: list[str] = []
    step_before = came_from[state]
    while step_before is not None:
        state, command = step_before
        commands.append(command)
        step_before = came_from[state]
    return commands[::-1]


class _Scene:
    """What is relevant for winning from a given state.

    Attributes:
        wanted: the set of objects that may have to be moved.
        appliances: the set of receptacles that can treat them.
        burden: an object in hand that is not wanted and must be put down first, or -1.
        copies: how often each wanted object occurs, in receptacles and in hand.
        locations: the locations to consider, each with its relevant receptacles.
        goals: the relevant receptacles that satisfy the goal.
        has_shared_location: whether one location can serve more than one purpose.
    """

    def __init__(self, game: Game, state: State) -> None:
        self.game = game
        self.start = state
        self.n_wanted = 2 if game.problem.goal.kind == "two" else 1
        self.wanted = game.goal_objects & game.problem.traits["pickupable"]
        if state.held >= 0:
            self.wanted |= game.goal_objects & 1 << state.held
        treatment = game.goal_treatment
        self.effect = treatment.effect if treatment else ""
        self.appliances = game.receptacles_of.get(treatment.appliance, 0) if treatment else 0
        self.burden = state.held if state.held >= 0 and not self._is_wanted(state.held) else -1
        self.copies = Counter(o for mask in state.contents for o in members(mask & self.wanted))
        self.copies[state.held] += 1
        self.is_copied = any(n > 1 for n in self.copies.values())
        self.locations = self._locations()
        relevant = [r for places in self.locations.values() for r in places]
        self.goals = [r for r in relevant if game.goal_receptacles >> r & 1]
        self.has_shared_location = self._has_shared_location()

    def _is_wanted(self, thing: int) -> bool:
        return bool(self.wanted >> thing & 1)

    def _locations(self) -> dict[int, list[int]]:
        """The locations to consider, each with its relevant receptacles."""
        relevant: dict[int, list[int]] = {}
        n_equivalent: Counter[Hashable] = Counter()
        for location, receptacles in enumerate(self.game.receptacles_at):
            roles = {r: self._role(r) for r in receptacles}
            useful = [r for r in receptacles if any(roles[r][1:])]
            if not useful:
                continue
            if location != self.start.location:
                signature = tuple(sorted(repr(roles[r]) for r in useful))
                n_equivalent[signature] += 1
                if n_equivalent[signature] > self.n_wanted:
                    continue
            relevant[location] = useful
        return relevant

    def _role(self, receptacle: int) -> tuple[Hashable, ...]:
        """Whether it is closed, and its uses; equal for receptacles that are interchangeable."""
        game, state = self.game, self.start
        inside = state.contents[receptacle]
        return (
            self._is_closed(state, receptacle),
            bool(game.goal_receptacles >> receptacle & 1),
            bool(self.appliances >> receptacle & 1),
            inside & game.goal_lamps,
            tuple(sorted(self._signature(o) for o in members(inside & self.wanted))),
            self.burden >= 0 and bool(game.problem.accepts[receptacle] >> self.burden & 1),
        )

    def _signature(self, thing: int) -> tuple[int, int, int]:
        """Equal for objects that are interchangeable."""
        treated = getattr(self.start, self.effect) >> thing & 1 if self.effect else 0
        takeable = self.game.problem.traits["pickupable"] >> thing & 1
        return (treated, takeable, thing if self.copies[thing] > 1 else -1)

    def _is_closed(self, state: State, receptacle: int) -> bool:
        return bool(self.game.problem.openable & ~state.opened & 1 << receptacle)

    def _has_shared_location(self) -> bool:
        """Whether objects, goals or appliances are together at one location."""
        for receptacles in self.locations.values():
            # For each receptacle, count its roles: goal, appliance, holder of a wanted object (0).
            n_roles = sum(
                bool(mask >> r & 1) or bool(mask == 0 and self.start.contents[r] & self.wanted)
                for r in receptacles
                for mask in (self.game.goal_receptacles, self.appliances, 0)
            )
            if n_roles > 1:
                return True
        return False

    def commands(self, state: State) -> Iterator[str]:
        """The commands that can be part of a shortest solution."""
        names = self.game.problem.receptacles
        for receptacle in self.locations.get(state.location, ()):
            yield from self._commands_with(state, receptacle)
        for location, receptacles in self.locations.items():
            if location != state.location:
                yield f"go to {names[receptacles[0]]}"

    def _commands_with(self, state: State, receptacle: int) -> Iterator[str]:
        problem = self.game.problem
        name = problem.receptacles[receptacle]
        inside = state.contents[receptacle]
        for lamp in members(inside & self.game.goal_lamps & ~state.toggled):
            yield f"use {problem.objects[lamp]}"
        if self._is_closed(state, receptacle):
            yield f"open {name}"
        if state.held < 0:
            for thing in members(inside & self.wanted):
                yield f"take {problem.objects[thing]} from {name}"
            return
        held = problem.objects[state.held]
        if self.appliances >> receptacle & 1 and self._is_wanted(state.held):
            yield f"{problem.goal.kind} {held} with {name}"
        if self.game.goal_receptacles >> receptacle & 1 or not self._is_wanted(state.held):
            form = "put {} in/on {}" if self.game.grammar == "2.1.1" else "move {} to {}"
            yield form.format(held, name)

    def lower_bound(self, state: State) -> int:
        """A lower bound of the number of commands to the goal: the heuristic of A*."""
        if self.game.is_won(state):
            return 0
        holds = state.held >= 0 and self._is_wanted(state.held)
        n_puts_down = int(state.held >= 0 and not holds)  # of the burden
        if self.game.goal_lamps:
            unlit = not self.game.goal_lamps & state.toggled
            return max(1, n_puts_down + (not holds) + unlit)
        if self.is_copied:
            # An object that is in its place and also in hand may not have to be put there.
            return 1 + n_puts_down + (not holds and self.n_wanted == 2)
        return n_puts_down + self._n_left(state, holds)

    def _n_left(self, state: State, holds: bool) -> int:
        """The part of `lower_bound` for taking, treating and putting, and the walks in between."""
        game = self.game
        there = (state.contents[r] & self.wanted for r in self.goals)
        n_there = max((mask.bit_count() for mask in there), default=0)
        n_puts = self.n_wanted - n_there if self.n_wanted == 2 else 1
        n_takes = n_puts - holds
        here = self.locations.get(state.location, ())
        if holds:
            is_ready = any(game.goal_receptacles >> r & 1 for r in here)
        else:
            is_ready = any(state.contents[r] & self.wanted for r in here)
        n_actions = n_takes + n_puts  # and the treatment, below
        candidates = 1 << state.held if holds else self.wanted
        if self.effect and not getattr(state, self.effect) & candidates:
            n_actions += 1
            is_ready = any(self.appliances >> r & 1 for r in here) if holds else is_ready
        # Each action needs a walk, except the first if the agent is already in the right place. If
        # a location can serve several purposes, all that is certain is a single walk.
        n_walks = (1 if self.has_shared_location else n_actions) - is_ready
        all_closed = all(self._is_closed(state, r) for r in self.goals)
        return n_actions + n_walks + all_closed
