"""An expert that solves tasks by the simulator's own solutions, made short.

The simulator writes a solution ("gold path") for every task, which walks through every door, looks
around a lot, waits tick by tick and says what the simulator does not understand. Here it is
shortened, and every shortening is tried in a world of its own and kept only if the task is still
solved. Not here: the gold paths themselves, which come from the simulator, and the rules, which are
the simulator's.
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
"""With open containers the bee hive is open from the start, and fruit needs bees in the greenhouse:
shut them in before anything else."""

Actions = tuple[str, ...]


class Attempt(NamedTuple):
    """What some actions came to.

    Attributes:
        actions: those that were done until the task ended.
        score: the highest raw score, 0 if that is negative.
        solved: the task is completed with the full score.
        accepted: those of them that the simulator knew.
    """

    actions: Actions
    score: float
    solved: bool
    accepted: Actions = ()


def plan(java: str, setup: Setup) -> Actions:
    """The actions of an expert, from the start of a task.

    Args:
        java: the Java to run.
        setup: the task.

    Returns:
        Actions that solve the task if any were found, else those with the highest score.

    Raises:
        BackendError: the simulator failed.
    """
    return _plan(java, setup).actions


def remaining_plan(java: str, world: World) -> Actions:
    """What the expert does from here in a world, whatever was done in it before.

    Raises:
        BackendError: the simulator failed.
    """
    done = tuple(world.actions)
    return _plan_after(java, world.setup, done)[len(done) :]


@functools.lru_cache(maxsize=4096)
def _plan(java: str, setup: Setup) -> Attempt:
    # The generator's own solutions of easy worlds are better than those of open ones.
    gold = gold_actions(java, setup._replace(simplification="easy"))
    scratch = World(java)
    try:
        try_actions = functools.partial(_attempt, scratch, setup)
        best = _best(try_actions(actions) for actions in _variants(gold))
        if not best.solved:
            return best
        # The generator names some things in words that the simulator does not know.
        if len(best.accepted) < len(best.actions):
            known = try_actions(best.accepted)
            best = known if known.solved else best
        return _shorten(try_actions, best, TASK_TYPES[setup.task].max_steps)
    finally:
        scratch.close()


@functools.lru_cache(maxsize=2048)
def _plan_after(java: str, setup: Setup, done: Actions) -> Actions:
    """Actions that begin with `done` and lead as far as they can."""
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
    """Ways to go on with a plan after what was done, the short ones first."""
    n_kept = _n_in_order(whole, done)
    if done and done[-1] in whole[n_kept:]:
        yield whole[whole.index(done[-1], n_kept) + 1 :]  # what was left out may not be needed
    yield whole[n_kept:]
    yield whole
    yield ("0", *whole[n_kept:])


def _n_in_order(whole: Actions, done: Actions) -> int:
    """How many actions of `whole`, from its start, are in `done` in this order."""
    n_found = 0
    for action in done:
        if n_found < len(whole) and action == whole[n_found]:
            n_found += 1
    return n_found


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
    """The first that solves the task, or the one with the highest score."""
    tried = []
    for attempt in attempts:
        if attempt.solved:
            return attempt
        tried.append(attempt)
    return max(tried, key=lambda attempt: attempt.score)


def _variants(gold: Sequence[str]) -> Iterator[Actions]:
    """Solutions to try, the short ones first."""
    brisk = _with_teleports(gold)
    short = _with_long_waits(brisk)
    for actions in (_without_looks(short), short):
        yield actions
        if any("bee hive" in action for action in actions):
            yield _KEEP_BEES + actions
        yield actions + ("wait",) * _N_EXTRA_WAITS
    yield _without_looks(brisk)
    yield brisk
    yield tuple(gold)


def _without_looks(actions: Actions) -> Actions:
    return tuple(action for action in actions if not action.startswith(_LOOKS))


def _with_teleports(actions: Sequence[str]) -> Actions:
    """One teleport in place of each walk."""
    kept: list[str] = []
    for action in actions:
        if action.startswith("open door to "):
            continue
        if action.startswith("go to "):
            if kept and kept[-1].startswith("teleport to "):
                kept.pop()
            action = "teleport to " + action.removeprefix("go to ")
        kept.append(action)
    return tuple(kept)


def _with_long_waits(actions: Sequence[str]) -> Actions:
    """One `wait` (eleven ticks) in place of up to five `wait1` (two ticks each)."""
    kept: list[str] = []
    for action, run in itertools.groupby(actions):
        n_times = len(list(run))
        if action == "wait1":
            kept += ["wait"] * (n_times // 5) + ["wait1"] * (n_times % 5)
        else:
            kept += [action] * n_times
    return tuple(kept)


def _shorten(try_actions: Callable[[Actions], Attempt], best: Attempt, max_steps: int) -> Attempt:
    """Leave out what the task does not need, until its limit is kept.

    Not further: the score alone would let an expert guess instead of measuring.
    """
    for n_short, start in itertools.product((5, 6), reversed(range(len(best.actions)))):
        # Where a moment must be met, not every run of short waits can become a long one.
        short = ("wait1",) * n_short
        if len(best.actions) > max_steps and best.actions[start : start + n_short] == short:
            rest = best.actions[start + n_short :]
            attempt = try_actions((*best.actions[:start], "wait", *rest))
            best = attempt if attempt.solved else best
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
