from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from eto_envs.alfworld.data.datasets import Dataset, task_set
from eto_envs.alfworld.data.pack import Pack
from eto_envs.alfworld.engine.game import Game
from eto_envs.alfworld.engine.problem import Goal
from eto_envs.alfworld.engine.rules import NOTHING_HAPPENS, step
from eto_envs.alfworld.engine.wording import introduction
from eto_envs.alfworld.experts.explorer import Explorer, Order, read_task
from eto_envs.errors import UnknownNameError
from eto_envs.tasks import Task
from tests.envs.alfworld.house import GOALS, task_text

TASK = Task(id="house", goal="", max_steps=40)


class Episode(NamedTuple):
    commands: list[str]
    answers: list[str]
    won: bool


def play(
    game: Game,
    seed: int = 0,
    most: int = 150,
    **habits: Any,
) -> Episode:
    """The explorer's episode; it gets the texts and the grammar, nothing else."""
    explorer = Explorer(**habits)
    explorer.reset(TASK, seed)
    state, answer, won = game.start, introduction(game).partition("\n\n")[2], False
    commands: list[str] = []
    answers: list[str] = []
    while not won and len(commands) < most:
        commands.append(explorer.act(answer, {"grammar": game.grammar}))
        state, answer, won = step(game, state, commands[-1])
        answers.append(answer)
    return Episode(commands, answers, won)


@pytest.mark.parametrize("grammar", ["2.1.1", "2.1.2"])
@pytest.mark.parametrize("kind", GOALS)
def test_wins_in_the_house(make_game: Callable[..., Game], kind: str, grammar: str) -> None:
    for seed in range(5):
        episode = play(make_game(kind, grammar), seed)
        assert episode.won
        assert len(episode.commands) <= 25


def test_the_seed_decides(make_game: Callable[..., Game]) -> None:
    game = make_game("two")
    assert play(game, 3) == play(game, 3)
    assert len({tuple(play(game, seed).commands) for seed in range(10)}) > 1


@pytest.mark.parametrize("order", ["likely-then-listed", "listed"])
def test_other_orders_leave_nothing_to_chance(make_game: Callable[..., Game], order: Order) -> None:
    for kind in GOALS:
        episode = play(make_game(kind), 0, order=order)
        assert episode.won
        assert episode == play(make_game(kind), 1, order=order)


def test_the_order_in_which_the_room_is_listed(make_game: Callable[..., Game]) -> None:
    game = make_game("place")
    listed = re.findall(r"a (\w+ \d+)", introduction(game))
    commands = play(game, order="listed").commands
    visited = [c.removeprefix("go to ") for c in commands if "go to" in c]
    searched = visited[: visited.index(visited[-1])] or visited
    assert searched == [name for name in listed if name in searched]


def test_some_episodes_do_without_the_treatment(make_game: Callable[..., Game]) -> None:
    for kind in ("place", "two", "look"):
        careful = play(make_game(kind), order="listed")
        assert play(make_game(kind), order="listed", skip_treatment=1.0) == careful
    game = make_game("heat")
    hasty = play(game, most=40, skip_treatment=1.0)
    assert not hasty.won
    end = hasty.commands.index("put egg 1 in/on fridge 1")
    assert not any(command.startswith("heat ") for command in hasty.commands[:end])
    assert set(hasty.commands[end + 1 :]) == {"look"}
    mixed = [play(game, seed, most=40, skip_treatment=0.6).won for seed in range(200)]
    assert 90 < mixed.count(False) < 150


def test_unknown_order_and_bad_fraction() -> None:
    with pytest.raises(UnknownNameError, match=r"order 'liekly'.*likely"):
        Explorer(order="liekly")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"skip_treatment must be in \[0, 1\], got -1"):
        Explorer(skip_treatment=-1)


def test_takes_only_what_it_has_read_about(make_game: Callable[..., Game]) -> None:
    episode = play(make_game("cool"))
    text = ""
    for command, answer in zip(*episode[:2], strict=True):
        verb, *rest = command.split(" ", 1)
        if verb in ("take", "use"):
            assert rest[0].partition(" from ")[0] in text
        text += answer


def test_is_not_stuck_at_what_does_not_work(make_game: Callable[..., Game]) -> None:
    """With everything refused it goes on trying other things."""
    explorer = Explorer()
    explorer.reset(TASK, 0)
    answer = introduction(make_game("two")).partition("\n\n")[2]
    commands = []
    for _ in range(60):
        commands.append(explorer.act(answer, {"grammar": "2.1.1"}))
        answer = NOTHING_HAPPENS
    assert len(set(commands)) > 10


def test_a_text_that_is_no_game() -> None:
    explorer = Explorer()
    explorer.reset(TASK, 0)
    assert explorer.act("Hello.", {}) == "look"
    assert explorer.act("Nothing happens.", {}) == "look"


@pytest.mark.parametrize("kind", GOALS)
def test_reads_tasks(kind: str) -> None:
    thing, place = GOALS[kind]
    assert read_task(task_text(kind)) == Goal(kind, thing.lower(), place.lower())


@pytest.mark.data
def test_reads_every_official_task(official_pack: Pack) -> None:
    for task in task_set(Dataset("2.1.1", official_pack, "2.1.1"), "all"):
        assert read_task(task.goal) == official_pack.problem(task.id).goal


@pytest.mark.data
@pytest.mark.parametrize(("split", "every"), [("train", 10), ("seen", 1), ("unseen", 1)])
def test_wins_official_games(official_pack: Pack, split: str, every: int) -> None:
    lengths = []
    for position, task_id in enumerate(official_pack.splits[split][::every]):
        game = Game(official_pack.problem(task_id), ("2.1.1", "2.1.2")[position % 2])
        episode = play(game, seed=position)
        lengths.append(len(episode.commands) if episode.won else 1000)
    assert sum(n <= 150 for n in lengths) >= 0.99 * len(lengths)
    assert sum(n <= 40 for n in lengths) >= 0.95 * len(lengths)
