"""The expert: solves tasks within ETO's limits, and comes back from detours."""

from __future__ import annotations

from typing import Any

import pytest

from eto_envs.scienceworld import expert
from eto_envs.scienceworld.bridge import SOLVER_HEAP_MB, Host
from eto_envs.scienceworld.env import ScienceWorldEnv
from eto_envs.scienceworld.expert import Attempt, plan
from eto_envs.scienceworld.tasks import TASK_TYPES, simplifications_of
from eto_envs.scienceworld.world import Setup, gold_actions

QUICK = ("find-plant", "lifespan-longest-lived-then-shortest-lived", "use-thermometer")


def make(**kwargs: Any) -> ScienceWorldEnv:
    return ScienceWorldEnv("all", dataset="1.2.3", reveal=("expert_action",), **kwargs)


def follow(env: ScienceWorldEnv, info: Any) -> Any:
    ended = False
    while not ended:
        _, _, terminated, truncated, info = env.step(info["expert_action"])
        ended = terminated or truncated
    return info


@pytest.mark.java
@pytest.mark.parametrize("task", QUICK)
@pytest.mark.parametrize("simplification", ["eto", "easy"])
def test_it_solves_tasks(task: str, simplification: str) -> None:
    env = make(simplification=simplification)
    _, info = env.reset(options={"task": f"{task}/7"})
    assert follow(env, info)["success"]


@pytest.mark.java
@pytest.mark.slow
@pytest.mark.parametrize("task", [name for name, kind in TASK_TYPES.items() if kind.is_in_eto])
def test_it_solves_every_kind_within_etos_limit(java: str, task: str) -> None:
    kind = TASK_TYPES[task]
    for variation in range(2, kind.n_variations, max(kind.n_variations // 3, 1)):
        setup = Setup(task, variation, simplifications_of(task, "eto"))
        attempt = expert._plan(java, setup)
        assert (attempt.score, attempt.solved) == (1.0, True)
        assert len(attempt.actions) <= kind.max_steps
        assert plan(java, setup) == attempt.actions


@pytest.mark.java
def test_solutions_do_not_depend_on_what_was_solved_before(java: str) -> None:
    # It needs a route through all rooms, which the simulator draws at random.
    setup = Setup("test-conductivity", 577, "easy")
    host = Host(java, heap_mb=SOLVER_HEAP_MB)
    try:
        assert gold_actions(java, setup, host) == gold_actions(java, setup, host)
    finally:
        host.close()


@pytest.mark.java
def test_it_comes_back_from_a_detour() -> None:
    env = make()
    _, info = env.reset(options={"task": "find-animal/4"})
    for action in ("teleport to bathroom", info["expert_action"], "jump", "teleport to workshop"):
        info = env.step(action)[4]
    assert follow(env, info)["success"]


@pytest.mark.java
def test_it_says_nothing_that_is_not_understood(java: str) -> None:
    env = make(max_steps=200)
    env.reset(options={"task": "boil/2"})
    for action in plan(java, Setup("boil", 2, simplifications_of("boil", "eto"))):
        info = env.step(action)[4]
        assert info["is_valid_action"], action
    assert info["success"]


@pytest.mark.java
def test_it_goes_on_where_the_next_step_came_first() -> None:
    env = ScienceWorldEnv("all", dataset="1.2.3", reveal=("expert_plan",))
    _, info = env.reset(options={"task": "use-thermometer/7"})
    whole = info["expert_plan"]
    info = env.step(whole[1])[4]
    ended = False
    while not ended:
        _, _, terminated, truncated, info = env.step(info["expert_plan"][0])
        ended = terminated or truncated
    assert info["success"]
    assert info["expert_plan"] == []


def test_what_was_left_out_may_not_be_needed() -> None:
    whole = ("a", "b", "c", "d")
    assert next(expert._rests(whole, ("b",))) == ("c", "d")
    assert list(expert._rests(whole, ("a", "x"))) == [("b", "c", "d"), whole, ("0", "b", "c", "d")]


def test_walks_become_teleports() -> None:
    walk = [
        "open door to hallway",
        "go to hallway",
        "open door to kitchen",
        "go to kitchen",
        "wait",
    ]
    assert expert._with_teleports([*walk, "open cupboard", "go to hallway"]) == (
        "teleport to kitchen",
        "wait",
        "open cupboard",
        "teleport to hallway",
    )


def test_waits_become_long() -> None:
    assert expert._with_long_waits(["wait1"] * 7 + ["look around", "wait1"]) == (
        "wait",
        "wait1",
        "wait1",
        "look around",
        "wait1",
    )


@pytest.mark.parametrize("max_steps", [1, 4, 7, 20])
def test_it_leaves_out_no_more_than_it_must(max_steps: int) -> None:
    whole = tuple("abcdefghijkl")

    def try_actions(actions: tuple[str, ...]) -> Attempt:
        return Attempt(actions, 1.0, {"b", "f", "k"} <= set(actions))

    short = expert._shorten(try_actions, Attempt(whole, 1.0, True), max_steps)
    assert {"b", "f", "k"} <= set(short.actions)
    assert len(short.actions) <= max(max_steps, 3)
    assert short.solved
    assert short.actions == whole or len(whole) > max_steps


def test_long_waits_replace_runs_one_by_one() -> None:
    whole = ("wait1",) * 6 + ("look",) + ("wait1",) * 5

    def try_actions(actions: tuple[str, ...]) -> Attempt:
        return Attempt(actions, 1.0, actions[-6:] == whole[-6:])

    short = expert._shorten(try_actions, Attempt(whole, 1.0, True), 9)
    assert short.actions == ("wait1", "wait", *whole[-6:])
