from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from eto_envs.alfworld.data.pack import Pack
from eto_envs.alfworld.engine.admissible import admissible_commands
from eto_envs.alfworld.engine.game import Game, State
from eto_envs.alfworld.engine.rules import step
from eto_envs.alfworld.experts.planner import shortest_plan
from tests.envs.alfworld.house import GOALS

MakeGame = Callable[..., Game]


def is_won_after(game: Game, state: State, commands: list[str]) -> bool:
    for command in commands:
        assert not game.is_won(state)
        assert command in admissible_commands(game, state)
        state = step(game, state, command).state
    return game.is_won(state)


def least_steps(game: Game, state: State, most: int) -> int:
    """The length of a shortest plan by trying everything, as far as `most` steps."""
    frontier, seen = {state}, {state}
    for n_steps in range(most):
        if any(game.is_won(one) for one in frontier):
            return n_steps
        after = {
            step(game, one, command).state
            for one in frontier
            for command in admissible_commands(game, one)
        }
        frontier = after - seen
        seen |= frontier
    return most


def walk(game: Game, seed: int, n_steps: int) -> State:
    rng = random.Random(seed)
    state = game.start
    for _ in range(n_steps):
        commands = admissible_commands(game, state)
        doings = [c for c in commands if not c.startswith(("go", "look", "examine", "inventory"))]
        state = step(
            game, state, rng.choice(doings or commands if rng.random() < 0.5 else commands)
        ).state
    return state


@pytest.mark.parametrize("grammar", ["2.1.1", "2.1.2"])
@pytest.mark.parametrize("kind", GOALS)
def test_plans_win(make_game: MakeGame, kind: str, grammar: str) -> None:
    game = make_game(kind, grammar)
    plan = shortest_plan(game, game.start)
    assert plan
    assert is_won_after(game, game.start, plan)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", GOALS)
def test_no_shorter_plan_exists(make_game: MakeGame, kind: str, seed: int) -> None:
    game = make_game(kind)
    state = walk(game, seed, n_steps=5 * seed)
    plan = shortest_plan(game, state)
    assert plan is not None
    assert is_won_after(game, state, plan)
    most = min(len(plan), 6)  # to try everything for longer takes too long
    assert least_steps(game, state, most) == most


def test_nothing_to_do(make_game: MakeGame) -> None:
    game = make_game("look")
    state = game.start
    plan = shortest_plan(game, state)
    for command in plan or []:
        state = step(game, state, command).state
    assert shortest_plan(game, state) == []


def test_impossible(make_game: MakeGame) -> None:
    game = make_game("heat")
    game.goal_objects = 0
    assert shortest_plan(game, game.start) is None


@pytest.mark.data
def test_official_games_are_planned_in_time(official_pack: Pack) -> None:
    lengths = []
    for split in ("seen", "unseen", "train"):
        for task_id in official_pack.splits[split][:: 20 if split == "train" else 1]:
            game = Game(official_pack.problem(task_id))
            begin_s = time.process_time()
            plan = shortest_plan(game, game.start)
            assert time.process_time() - begin_s < 0.2  # 25 ms were the most on an idle machine
            assert plan
            assert is_won_after(game, game.start, plan)
            lengths.append(len(plan))
    assert max(lengths) <= 10


@pytest.mark.data
def test_the_oracle_keeps_its_promise(official_pack: Pack) -> None:
    """Planning anew after each step never makes the way longer."""
    for task_id in official_pack.splits["seen"][::5]:
        game = Game(official_pack.problem(task_id))
        state, left = game.start, None
        while not game.is_won(state):
            plan = shortest_plan(game, state)
            assert plan
            assert left is None or len(plan) == left - 1
            left = len(plan)
            state = step(game, state, plan[0]).state
