from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from eto_envs.alfworld.data.datasets import open_mini
from eto_envs.alfworld.data.pack import Pack
from eto_envs.alfworld.data.reading import read_problem
from eto_envs.alfworld.data.writing import problem_text
from eto_envs.alfworld.engine.game import Game
from eto_envs.alfworld.engine.problem import Problem
from tests.envs.alfworld.house import GOALS


def copy_of(problem: Problem) -> Problem:
    """The problem, written and read again."""
    return read_problem(problem_text(problem), problem.task)


@pytest.mark.parametrize("kind", GOALS)
def test_what_is_written_is_read_back(make_game: Callable[..., Game], kind: str) -> None:
    problem = make_game(kind).problem
    assert copy_of(problem) == problem


def test_states_that_no_official_game_begins_in(make_game: Callable[..., Game]) -> None:
    problem = make_game("cool").problem
    egg = problem.objects.index("egg 1")
    changed = dataclasses.replace(
        problem,
        held=egg,
        contents=tuple(mask & ~(1 << egg) for mask in problem.contents),
        opened=problem.openable,
        traits={**problem.traits, "isclean": 1, "ishot": 2, "issliced": 4, "istoggled": 1 << egg},
    )
    assert copy_of(changed) == changed != problem


def test_numbers_that_are_left_out_stay_so(make_game: Callable[..., Game]) -> None:
    problem = make_game("place").problem
    names = tuple(name.replace("egg 1", "egg 3") for name in problem.objects)
    changed = dataclasses.replace(problem, objects=names)
    assert copy_of(changed).objects == names


def test_parentheses_match(make_game: Callable[..., Game]) -> None:
    for kind in GOALS:
        depth = 0
        for character in problem_text(make_game(kind).problem).rstrip():
            assert depth > 0 or character == "("
            depth += {"(": 1, ")": -1}.get(character, 0)
            if depth == 0:
                break
        assert depth == 0


def test_every_mini_game_is_read_back() -> None:
    pack = open_mini().pack
    for ids in pack.splits.values():
        for task_id in ids:
            assert copy_of(pack.problem(task_id)) == pack.problem(task_id)


@pytest.mark.data
def test_every_official_game_is_read_back(official_pack: Pack) -> None:
    for ids in official_pack.splits.values():
        for task_id in ids:
            problem = official_pack.problem(task_id)
            assert copy_of(problem) == problem
