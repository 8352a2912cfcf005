from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_envs.alfworld.data.pack import Pack
from eto_envs.alfworld.data.reading import read_game
from eto_envs.alfworld.engine.admissible import admissible_commands
from eto_envs.alfworld.engine.game import Game, State
from eto_envs.alfworld.engine.rules import NOTHING_HAPPENS, step
from eto_envs.alfworld.engine.wording import introduction
from eto_envs.errors import UnknownNameError

MakeGame = Callable[..., Game]


def play(game: Game, *commands: str) -> tuple[State, str, bool]:
    """The state after commands that must all do something, the last answer, and whether won."""
    state, answer, won = game.start, "", False
    for command in commands:
        state, answer, won = step(game, state, command)
        assert answer != NOTHING_HAPPENS, command
    return state, answer, won


def test_introduction_lists_the_receptacles(make_game: MakeGame) -> None:
    assert introduction(make_game("place")) == (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly "
        "around you, you see a countertop 2, a countertop 1, a drawer 2, a drawer 1, a fridge 1, "
        "a microwave 1, and a sinkbasin 1.\n\nYour task is to: put a egg in drawer."
    )


@pytest.mark.parametrize(
    ("commands", "answer"),
    [
        (["look"], "You are in the middle of a room. Looking quickly around you, you see nothing."),
        (["inventory"], "You are not carrying anything."),
        (
            ["go to countertop 2"],
            "You arrive at loc 4. On the countertop 2, you see a apple 3, and a pan 1.",
        ),
        (["go to fridge 1"], "You arrive at loc 5. The fridge 1 is closed."),
        (
            ["go to fridge 1", "open fridge 1"],
            "You open the fridge 1. The fridge 1 is open. In it, you see a apple 2.",
        ),
        (["go to fridge 1", "open fridge 1", "close fridge 1"], "You close the fridge 1."),
        (
            ["go to sinkbasin 1", "look"],
            "You are facing the countertop 2, and sinkbasin 1. Next to it, you see nothing.",
        ),
        (["go to sinkbasin 1", "examine sinkbasin 1"], "On the sinkbasin 1, you see nothing."),
        (
            ["go to sinkbasin 1", "take pan 1 from countertop 2"],
            "You pick up the pan 1 from the countertop 2.",
        ),
        (
            ["go to countertop 1", "take bowl 1 from countertop 1", "examine bowl 1"],
            "This is a normal bowl 1. In it, you see a egg 1.",
        ),
        (["go to countertop 1", "use desklamp 1"], "You turn on the desklamp 1."),
        (
            ["go to countertop 1", "take egg 1 from countertop 1", "inventory"],
            "You are carrying: a egg 1.",
        ),
    ],
)
def test_answers(make_game: MakeGame, commands: list[str], answer: str) -> None:
    assert play(make_game("place"), *commands)[1] == answer


@pytest.mark.parametrize(
    ("treatments", "answer"),
    [
        ([], "There's nothing special about apple 3."),
        (["clean"], "This is a clean apple 3."),
        (["heat"], "This is a hot apple 3."),
        (["cool"], "This is a cold apple 3."),
        (["clean", "cool"], "This is a cool and clean apple 3."),
        (["cool", "clean", "heat"], "This is a hot and clean apple 3."),
        (["heat", "cool"], "This is a cold apple 3."),
    ],
)
def test_treated_objects(make_game: MakeGame, treatments: list[str], answer: str) -> None:
    commands = ["go to countertop 2", "take apple 3 from countertop 2"]
    places = {"clean": "sinkbasin 1", "heat": "microwave 1", "cool": "fridge 1"}
    for verb in treatments:
        if not (verb == "clean" and commands[-1] == "take apple 3 from countertop 2"):
            commands.append(f"go to {places[verb]}")
        commands.append(f"{verb} apple 3 with {places[verb]}")
    assert play(make_game("place"), *commands, "examine apple 3")[1] == answer


def test_one_cannot_go_to_a_neighbour_at_the_same_location(make_game: MakeGame) -> None:
    game = make_game("place")
    state, _, _ = play(game, "go to drawer 1")
    assert step(game, state, "go to drawer 2").observation == NOTHING_HAPPENS
    assert step(game, state, "open drawer 2").observation.startswith("You open the drawer 2.")


def test_only_the_object_in_hand_can_be_examined(make_game: MakeGame) -> None:
    game = make_game("place")
    state, _, _ = play(game, "go to countertop 1")
    assert step(game, state, "examine knife 1").observation == NOTHING_HAPPENS


def test_slicing_needs_a_knife_in_hand(make_game: MakeGame) -> None:
    game = make_game("place")
    got = play(game, "go to countertop 1", "take knife 1 from countertop 1", "go to countertop 2")
    state, answer, _ = step(game, got[0], "slice apple 3 with knife 1")
    assert answer == "You sliced the apple 3 with the knife 1."
    assert game.facts(state).count("issliced(apple 3)") == 1
    without = play(game, "go to countertop 2")[0]
    assert step(game, without, "slice apple 3 with knife 1").observation == NOTHING_HAPPENS


def test_what_is_in_two_receptacles_stays_in_the_other(make_game: MakeGame) -> None:
    game = make_game("clean")
    state, answer, won = play(game, "go to countertop 2", "take pan 1 from countertop 2")
    assert "inreceptacle(pan 1, countertop 1)" in game.facts(state)
    state, answer, won = step(game, state, "clean pan 1 with sinkbasin 1")
    assert answer == "You clean the pan 1 using the sinkbasin 1."
    assert won  # it is clean, and still on countertop 1


def test_the_floor_shows_what_was_lifted_and_put_elsewhere_here(make_game: MakeGame) -> None:
    game = make_game("place")
    state, _, _ = play(
        game,
        "go to countertop 2",
        "take apple 3 from countertop 2",
        "put apple 3 in/on sinkbasin 1",
    )
    assert step(game, state, "look").observation == (
        "You are facing the countertop 2, and sinkbasin 1. Next to it, you see a apple 3."
    )


def test_releases_differ_in_words_alone(make_game: MakeGame) -> None:
    old, new = make_game("place"), make_game("place", "2.1.2")
    walk = ["go to countertop 2", "take apple 3 from countertop 2"]
    state, _, _ = play(old, *walk)
    assert play(new, *walk)[0] == state
    assert play(new, *walk[:1])[1].startswith("You arrive at countertop 2. On the")
    put, move = "put apple 3 in/on sinkbasin 1", "move apple 3 to sinkbasin 1"
    assert step(old, state, put).observation == "You put the apple 3 in/on the sinkbasin 1."
    assert step(new, state, move).observation == "You move the apple 3 to the sinkbasin 1."
    assert step(old, state, put).state == step(new, state, move).state
    assert step(old, state, move).observation == NOTHING_HAPPENS
    assert step(new, state, put).observation == NOTHING_HAPPENS
    assert step(old, state, "help").observation == NOTHING_HAPPENS
    assert step(new, state, "help").observation.startswith("Available commands:\n  look:")


def test_unknown_grammar(make_game: MakeGame) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean '2\.1\.[12]'"):
        make_game("place", "2.1.3")


@pytest.mark.parametrize("command", [" look", "look\n", "\t go to fridge 1  "])
def test_space_around_a_command_does_not_matter(make_game: MakeGame, command: str) -> None:
    assert step(make_game("place"), make_game("place").start, command)[1] != NOTHING_HAPPENS


@pytest.mark.parametrize(
    "command",
    [
        *("", "Look", "look around", "go  to fridge 1", "go to fridge", "go to apple 1"),
        *("go to loc 1", "go fridge 1", "take", "take apple 3", "inventory 1", "examine"),
        *("open countertop 1", "use desklamp 1", "toggle desklamp 1", "slice with", "help"),
        *("clean  with ", "put apple 3", "put in/on", "fly"),
    ],
)
def test_anything_else_does_nothing(make_game: MakeGame, command: str) -> None:
    game = make_game("place")
    assert step(game, game.start, command) == (game.start, NOTHING_HAPPENS, False)


@pytest.mark.parametrize(
    ("kind", "commands"),
    [
        ("place", "go to countertop 1|take egg 1 from countertop 1|go to drawer 1|open drawer 1|"
                  "put egg 1 in/on drawer 1"),
        ("look", "go to countertop 1|use desklamp 1|go to fridge 1|open fridge 1|"
                 "take apple 2 from fridge 1|go to countertop 1"),
        ("heat", "go to countertop 1|take egg 1 from countertop 1|go to microwave 1|"
                 "heat egg 1 with microwave 1|go to fridge 1|open fridge 1|"
                 "put egg 1 in/on fridge 1"),
        ("cool", "go to fridge 1|open fridge 1|take apple 2 from fridge 1|go to microwave 1|"
                 "open microwave 1|put apple 2 in/on microwave 1"),
        ("two", "go to countertop 2|take apple 3 from countertop 2|go to drawer 1|open drawer 1|"
                "open drawer 2|put apple 3 in/on drawer 1|take apple 3 from drawer 1|"
                "put apple 3 in/on drawer 1|take apple 1 from drawer 1|put apple 1 in/on drawer 1"),
    ],
)  # fmt: skip
def test_won_at_the_last_command_alone(make_game: MakeGame, kind: str, commands: str) -> None:
    game = make_game(kind)
    *before, last = commands.split("|")
    state, _, won = play(game, *before)
    assert not won
    assert not game.is_won(state)
    assert step(game, state, last).won


def test_states_are_values(make_game: MakeGame) -> None:
    game = make_game("place")
    there = play(game, "go to fridge 1", "open fridge 1")[0]
    back = play(game, "go to fridge 1", "open fridge 1", "close fridge 1", "open fridge 1")[0]
    assert there == back
    assert hash(there) == hash(back)
    before = tuple(there)
    step(game, there, "take apple 2 from fridge 1")
    assert tuple(there) == before


def odd_commands(game: Game) -> list[str]:
    """Every command of a known form over the names of a game, right or wrong."""
    things, places = game.problem.objects, game.problem.receptacles
    commands = ["look", "inventory", "help"]
    commands += [f"{verb} {r}" for verb in ("go to", "open", "close", "examine") for r in places]
    commands += [f"{verb} {o}" for verb in ("use", "examine") for o in things]
    for form in ("take {} from {}", "put {} in/on {}", "move {} to {}", "clean {} with {}",
                 "heat {} with {}", "cool {} with {}"):  # fmt: skip
        commands += [form.format(o, r) for o in things for r in places]
    return commands + [f"slice {o} with {k}" for o in things for k in things]


def check_walk(game: Game, seed: int, n_steps: int, n_tried: int) -> None:
    """On a random walk, a command is admissible exactly if something happens."""
    rng = random.Random(seed)
    commands = odd_commands(game)
    state = game.start
    for _ in range(n_steps):
        admissible = admissible_commands(game, state)
        assert admissible == sorted(set(admissible))
        tried = set(rng.sample(commands, min(n_tried, len(commands)))) | set(admissible)
        happens = {c for c in tried if step(game, state, c).observation != NOTHING_HAPPENS}
        assert happens == set(admissible)
        useful = [c for c in admissible if not c.startswith(("look", "go", "examine", "help"))]
        choice = rng.choice(useful if useful and rng.random() < 0.6 else admissible)
        state = step(game, state, choice).state


@pytest.mark.parametrize("grammar", ["2.1.1", "2.1.2"])
@pytest.mark.parametrize("kind", ["two", "look"])
def test_admissible_means_that_something_happens(
    make_game: MakeGame, kind: str, grammar: str
) -> None:
    check_walk(make_game(kind, grammar), seed=7, n_steps=80, n_tried=10**6)


@pytest.mark.data
def test_admissible_means_that_something_happens_in_official_games(official_pack: Pack) -> None:
    ids = [*official_pack.splits["seen"], *official_pack.splits["unseen"]]
    for position, task_id in enumerate(ids):
        grammar = ("2.1.1", "2.1.2")[position % 2]
        game = Game(official_pack.problem(task_id), grammar)
        check_walk(game, seed=position, n_steps=30, n_tried=300)


@pytest.mark.data
@pytest.mark.parametrize("release", ["2.1.1", "2.1.2"])
def test_recorded_episodes_replay(
    official: Callable[[str], Path], read_episodes: Callable[[str], list[Any]], release: str
) -> None:
    folder = official(release)
    episodes = read_episodes(f"golden/alfworld-{release}.jsonl.gz")
    assert len(episodes) > 200
    for episode in episodes:
        problem, grammar = read_game(folder / episode["game"])
        game = Game(problem, grammar)
        assert grammar == release
        state, first = game.start, episode["init"]
        assert introduction(game) == first["observation"]
        assert admissible_commands(game, state) == first["admissible_commands"]
        assert game.is_won(state) == first["won"]
        for recorded in episode["steps"]:
            state, observation, won = step(game, state, recorded["action"])
            assert observation == recorded["observation"]
            assert admissible_commands(game, state) == recorded["admissible_commands"]
            assert won == recorded["won"]
