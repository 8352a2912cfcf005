from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eto_envs.alfworld.data.pack import Pack
from eto_envs.alfworld.engine.admissible import admissible_commands
from eto_envs.alfworld.engine.game import Game, State
from eto_envs.alfworld.engine.progress import SUBGOALS, subgoals
from eto_envs.alfworld.engine.rules import step
from eto_envs.alfworld.env import ALFWorldEnv
from eto_envs.alfworld.experts.planner import shortest_plan
from eto_envs.shaping import PotentialShaping, SubgoalBonus, progress
from eto_envs.wrappers import ShapeReward
from tests.envs.alfworld.house import GOALS, task_id

MakeGame = Callable[..., Game]


def held_after(game: Game, *commands: str) -> list[list[str]]:
    """The sub-goals that hold at the start and after each command."""
    states = [game.start]
    for command in commands:
        states.append(step(game, states[-1], command).state)
        assert states[-1] != states[-2], command
    return [[name for name, holds in subgoals(game, s).items() if holds] for s in states]


def check_along_the_plan(game: Game) -> None:
    """Along the oracle's way no sub-goal is lost, and all hold exactly at its end."""
    state, before = game.start, set[str]()
    plan = shortest_plan(game, state)
    assert plan
    for command in plan:
        state, _, won = step(game, state, command)
        now = subgoals(game, state)
        holding = {name for name, holds in now.items() if holds}
        assert tuple(now) == SUBGOALS[game.problem.goal.kind]
        assert before <= holding
        assert all(now.values()) == won
        before = holding


@pytest.mark.parametrize("kind", GOALS)
def test_rises_along_the_oracles_way(make_game: MakeGame, kind: str) -> None:
    check_along_the_plan(make_game(kind))


@pytest.mark.data
def test_rises_along_the_oracles_way_in_official_games(official_pack: Pack) -> None:
    for split in ("seen", "unseen", "valid_train"):
        for task in official_pack.splits[split]:
            check_along_the_plan(Game(official_pack.problem(task)))


def test_each_sub_goal_of_a_treated_object(make_game: MakeGame) -> None:
    assert held_after(
        make_game("heat"),
        "go to countertop 1",
        "go to microwave 1",
        "go to countertop 1",
        "take egg 1 from countertop 1",
        "go to microwave 1",
        "heat egg 1 with microwave 1",
        "open microwave 1",
        "put egg 1 in/on microwave 1",
        "close microwave 1",
        "open microwave 1",
        "take egg 1 from microwave 1",
        "go to fridge 1",
        "open fridge 1",
        "put egg 1 in/on fridge 1",
    ) == [
        [],
        ["found"],
        [],  # out of sight
        ["found"],
        ["found", "taken"],
        ["found", "taken"],
        ["found", "taken", "treated"],
        ["found", "taken", "treated"],
        ["found", "treated"],  # put down
        ["found", "treated"],
        ["found", "treated"],
        ["found", "taken", "treated"],
        ["found", "taken", "treated"],
        ["found", "taken", "treated"],
        ["found", "taken", "treated", "placed"],
    ]


def test_what_was_cool_at_the_start_counts_once_it_is_taken(make_game: MakeGame) -> None:
    assert held_after(
        make_game("cool"), "go to fridge 1", "open fridge 1", "take apple 2 from fridge 1"
    ) == [[], [], ["found"], ["found", "taken", "treated"]]


def test_two_objects_one_after_the_other(make_game: MakeGame) -> None:
    first = ["found", "taken", "placed"]
    assert held_after(
        make_game("two"),
        "go to drawer 1",
        "open drawer 1",
        "take apple 1 from drawer 1",
        "go to countertop 2",
        "put apple 1 in/on countertop 2",
        "take apple 3 from countertop 2",
        "go to drawer 2",
        "put apple 3 in/on drawer 1",
        "go to countertop 2",
        "take apple 1 from countertop 2",
        "go to drawer 1",
        "put apple 1 in/on drawer 1",
    ) == [
        first,  # the house has an apple in a drawer
        first,
        first,
        ["found", "taken"],
        ["found", "taken"],
        ["found"],
        ["found", "taken"],
        ["found", "taken"],
        first,
        [*first, "found second"],
        [*first, "found second", "taken second"],
        [*first, "found second", "taken second"],
        [*first, "found second", "taken second", "placed second"],
    ]


def test_the_lamp_may_be_lit_first(make_game: MakeGame) -> None:
    assert held_after(
        make_game("look"),
        "go to countertop 1",
        "use desklamp 1",
        "go to countertop 2",
        "take apple 3 from countertop 2",
        "go to countertop 1",
    ) == [
        [],
        [],
        ["treated"],
        ["found", "treated"],
        ["found", "taken", "treated"],
        ["found", "taken", "treated", "placed"],
    ]


@given(kind=st.sampled_from(sorted(GOALS)), choices=st.lists(st.integers(0, 10**6), max_size=40))
def test_what_is_further_implies_what_comes_before(
    make_game: MakeGame, kind: str, choices: list[int]
) -> None:
    game = make_game(kind)
    state: State = game.start
    for choice in choices:
        admissible = admissible_commands(game, state)
        state, _, won = step(game, state, admissible[choice % len(admissible)])
        holds = subgoals(game, state)
        assert all(holds.values()) == won
        for suffix in ("", " second") if kind == "two" else ("",):
            assert holds[f"placed{suffix}"] <= holds[f"taken{suffix}"] <= holds[f"found{suffix}"]
        if kind == "two":
            assert holds["found second"] <= holds["placed"]


def returns(env: Any, info: Any, choices: list[int], gamma: float) -> tuple[float, float]:
    """Discounted returns of an episode from its first info: shaped, unshaped."""
    shaped = unshaped = 0.0
    for t, choice in enumerate(choices):
        actions = ["no such command", *info["admissible_actions"]]
        # Half of the time the way of the oracle, so that some episodes are won.
        action = info["expert_action"] if choice % 2 else actions[choice // 2 % len(actions)]
        _, reward, terminated, truncated, info = env.step(action)
        shaped += gamma**t * reward
        unshaped += gamma**t * info["task_reward"]
        if terminated or truncated:
            break
    return shaped, unshaped


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(GOALS)),
    gamma=st.floats(0.0, 1.0),
    choices=st.lists(st.integers(0, 10**6), min_size=12, max_size=12),
)
def test_as_a_potential_it_shifts_every_return_by_the_same(
    house_pack: Path, kind: str, gamma: float, choices: list[int]
) -> None:
    reveal = ("subgoals", "admissible_actions", "expert_action")
    env = ShapeReward(
        ALFWorldEnv(dataset=str(house_pack), reveal=reveal, max_steps=12),
        [PotentialShaping(gamma, progress)],
    )
    observation, info = env.reset(options={"task": task_id(kind)})
    shaped, unshaped = returns(env, info, choices, gamma)
    assert shaped - unshaped == pytest.approx(-progress(observation, info), abs=1e-9)
    assert progress(observation, info) == (0.5 if kind == "two" else 0.0)


def test_as_a_process_reward_each_pays_once(house_pack: Path) -> None:
    env = ShapeReward(
        ALFWorldEnv(dataset=str(house_pack), reveal=("subgoals", "expert_action")),
        [SubgoalBonus(bonus=0.25)],
    )
    for _ in range(2):
        _, info = env.reset(options={"task": task_id("heat")})
        assert info["reward_terms"] == {"subgoal": 0.0}
        assert info["subgoals"] == dict.fromkeys(SUBGOALS["heat"], False)
        actions = ["go to countertop 1", "go to drawer 1", "go to countertop 1"]
        paid = [env.step(action)[1] for action in actions]
        assert paid == [0.25, 0.0, 0.0]
        ended, total = False, 0.0
        _, _, _, _, info = env.step("look")
        while not ended:
            _, reward, ended, _, info = env.step(info["expert_action"])
            total += reward
        assert total == pytest.approx(1.0 + 3 * 0.25)
        assert info["score"] == 1.0


def test_snapshots_keep_what_was_paid(house_pack: Path) -> None:
    env = ShapeReward(ALFWorldEnv(dataset=str(house_pack), reveal=("subgoals",)), [SubgoalBonus()])
    env.reset(options={"task": task_id("heat")})
    env.step("go to countertop 1")
    state = env.snapshot()
    env.reset(seed=3)
    env.restore(state)
    env.step("go to drawer 1")
    assert env.step("go to countertop 1")[1] == 0.0
    assert env.step("take egg 1 from countertop 1")[1] == pytest.approx(0.1)
