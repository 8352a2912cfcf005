"""An expert that follows shortened versions of the simulator's own solutions.

The simulator generates a solution ("gold path") for every task, which walks through every door,
looks around a lot, waits tick by tick and contains actions that the simulator does not understand.
This module shortens it. Every change is tried in a separate world and kept only if the task is
still solved. Not here: the gold paths and the rules, which come from the simulator.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from eto_envs.scienceworld.tasks import TASK_TYPES
from eto_envs.scienceworld.world import NO_SUCH_ACTION, Setup, World, gold_actions

SOLVED = 1.0
_LOOKS = ("look ", "examine ", "inventory")
_N_EXTRA_WAITS = 12
_KEEP_BEES = ("teleport to greenhouse", "close door to hallway", "close door to outside")
"""With open containers, the bee hive is open from the start, but fruit only grows if there are bees
in the greenhouse: so the doors must be closed before anything else."""

Actions = tuple[str, ...]


class Attempt(NamedTuple):
    """The result of trying a sequence of actions.

    Attributes:
        actions: the actions carried out until the task ended.
        score: the highest raw score, 0 if that is negative.
        solved: whether the task is completed with the full score.
        accepted: the actions among them that the simulator knows.
    """

    actions: Actions
    score: float
    solved: bool
    accepted: Actions = ()


def plan(java: str, setup: Setup) -> Actions:
    """The expert's actions, from the start of a task.

    Args:
        java: the Java executable.
        setup: the task.

    Returns:
        Actions that solve the task, or those with the highest score if none do.

    Raises:
        BackendError: the simulator failed.
    """
    return _plan(java, setup).actions


def remaining_plan(java: str, world: World) -> Actions:
    """The expert's remaining actions in a world, whatever actions have been carried out in it.

    Raises:
        BackendError: the simulator failed.
    """
    done = tuple(world.actions)
    return _plan_after(java, world.setup, done)[len(done) :]


@functools.lru_cache(maxsize=4096)
def _plan(java: str, setup: Setup) -> Attempt:
    # The simulator generates better solutions for worlds without open containers.
    gold = gold_actions(java, setup._replace(simplification="easy"))
    scratch = World(java)
    try:
        try_actions = functools.partial(_attempt, scratch, setup)
        best = _best(try_actions(actions) for actions in _variants(gold))
        if not best.solved:
            return best
        # Some generated actions name things in words that the simulator does not understand.
        if len(best.accepted) < len(best.actions):
            known = try_actions(best.accepted)
            best = known if known.solved else best
        return _shorten(try_actions, best, TASK_TYPES[setup.task].max_steps)
    finally:
        scratch.close()


@functools.lru_cache(maxsize=2048)
def _plan_after(java: str, setup: Setup, done: Actions) -> Actions:
    """The best plan found that begins with the actions `done`."""
    whole = _plan(java, setup).actions
    if whole[: len(done)] == done:
        return whole
    if done:
        before = _plan_after(java, setup, done[:-1])
        if before[: len(done)] == done:
            return before
    scratch = World(java)
    try:
        return _best(
            _attempt(scratch, setup, (*done, *rest)) for rest in _rests(whole, done)
        ).actions
    finally:
        scratch.close()


def _rests(whole: Actions, done: Actions) -> Iterator[Actions]:
    """Ways to continue a plan after the actions `done`, short ones first."""
    n_matched = _n_in_order(whole, done)
    if done and done[-1] in whole[n_matched:]:
        yield whole[whole.index(done[-1], n_matched) + 1 :]  # skipped actions may be unnecessary
    yield whole[n_matched:]
    yield whole
    yield ("0", *whole[n_matched:])  # resolves an ambiguous action first


def _n_in_order(whole: Actions, done: Actions) -> int:
    """The length of the longest prefix of `whole` that is a subsequence of `done`."""
    n_matched = 0
    for action in done:
        if n_matched < len(whole) and action == whole[n_matched]:
            n_matched += 1
    return n_matched


def _attempt(world: World, setup: Setup, actions: Sequence[str]) -> Attempt:
    world.load(setup)
    score = 0.0
    accepted: list[str] = []
    for n_done, action in enumerate(actions, start=1):
        outcome = world.step(action)
        score = max(score, outcome.score)
        if not outcome.observation.startswith(NO_SUCH_ACTION):
            accepted.append(action)
        if outcome.completed or outcome.score < 0:
            solved = outcome.completed and outcome.score >= SOLVED
            return Attempt(tuple(actions[:n_done]), score, solved, tuple(accepted))
    return Attempt(tuple(actions), score, False, tuple(accepted))


def _best(attempts: Iterator[Attempt]) -> Attempt:
    """The first attempt that solves the task, or else the one with the highest score."""
    tried = []
    for attempt in attempts:
        if attempt.solved:
            return attempt
        tried.append(attempt)
    return max(tried, key=lambda attempt: attempt.score)


def _variants(gold: Sequence[str]) -> Iterator[Actions]:
    """Solutions to try, short ones first."""
    teleporting = _with_teleports(gold)
    short = _with_long_waits(teleporting)
    for actions in (_without_looks(short), short):
        yield actions
        if any("bee hive" in action for action in actions):
            yield _KEEP_BEES + actions
        yield actions + ("wait",) * _N_EXTRA_WAITS
    yield _without_looks(teleporting)
    yield teleporting
    yield tuple(gold)


def _without_looks(actions: Actions) -> Actions:
    return tuple(action for action in actions if not action.startswith(_LOOKS))


def _with_teleports(actions: Sequence[str]) -> Actions:
    """Replace each walk by one teleport."""
    result: list[str] = []
    for action in actions:
        if action.startswith("open door to "):
            continue
        if action.startswith("go to "):
            if result and result[-1].startswith("teleport to "):
                result.pop()  # only the end of the walk counts
            action = "teleport to " + action.removeprefix("go to ")
        result.append(action)
    return tuple(result)


def _with_long_waits(actions: Sequence[str]) -> Actions:
    """Replace every five `wait1` (two ticks each) by one `wait` (eleven ticks)."""
    result: list[str] = []
    for action, run in itertools.groupby(actions):
        n_times = len(list(run))
        if action == "wait1":
            result += ["wait"] * (n_times // 5) + ["wait1"] * (n_times % 5)
        else:
            result += [action] * n_times
    return tuple(result)


def _shorten(try_actions: Callable[[Actions], Attempt], best: Attempt, max_steps: int) -> Attempt:
    """Remove actions that the task does not require, until the plan fits into the step limit.

    It is not shortened any further: judged by the score alone, the expert could guess instead of
    measuring.
    """
    for n_short, start in itertools.product((5, 6), reversed(range(len(best.actions)))):
        # Where timing matters, not every run of short waits can be replaced by a long one.
        short = ("wait1",) * n_short
        if len(best.actions) > max_steps and best.actions[start : start + n_short] == short:
            rest = best.actions[start + n_short :]
            attempt = try_actions((*best.actions[:start], "wait", *rest))
            best = attempt if attempt.solved else best
    # Remove blocks of actions, from the end to the start, with ever smaller blocks (ddmin).
    size = max(len(best.actions) // 2, 1)
    while size >= 1:
        start = len(best.actions) - size
        while start >= 0 and len(best.actions) > max_steps:
            attempt = try_actions(best.actions[:start] + best.actions[start + size :])
            if attempt.solved:
                best = attempt
            start = min(start, len(best.actions)) - size
        size //= 2
    return best
