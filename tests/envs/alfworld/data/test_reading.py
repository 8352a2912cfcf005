from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_envs.alfworld.data.reading import UnsolvableGameError, read_game, read_problem
from eto_envs.alfworld.engine.problem import Goal, Problem, members
from eto_envs.errors import CorruptDataError, DataNotFoundError
from tests.envs.alfworld.house import GOALS, game_file, pddl_problem, task_text


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    def write(content: Any) -> Path:
        path = tmp_path / "game.tw-pddl"
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def named(problem: Problem, mask: int) -> list[str]:
    return [problem.objects[thing] for thing in members(mask)]


def test_of_one_type_the_last_id_is_number_1() -> None:
    problem = read_problem(pddl_problem("place"), task_text("place"))
    assert problem.objects[:4] == ("apple 3", "apple 2", "apple 1", "bowl 1")
    assert problem.receptacles[-1] == "sinkbasin 1"
    assert problem.locations[0] == "loc 6"
    assert problem.start == 0


def test_facts_become_sets() -> None:
    problem = read_problem(pddl_problem("place"), task_text("place"))
    fridge = problem.receptacles.index("fridge 1")
    assert named(problem, problem.contents[fridge]) == ["apple 2"]
    assert problem.openable >> fridge & 1
    assert named(problem, problem.traits["toggleable"]) == ["desklamp 1"]
    assert named(problem, problem.traits["iscool"]) == ["apple 2"]
    bowl = problem.objects.index("bowl 1")
    assert problem.insides == ((bowl, 1 << problem.objects.index("egg 1")),)
    assert named(problem, problem.accepts[fridge]) == list(problem.objects)
    assert problem.receptacle_locations[fridge] == problem.locations.index("loc 5")


@pytest.mark.parametrize("kind", GOALS)
def test_goal_of_each_kind(kind: str) -> None:
    thing, place = GOALS[kind]
    problem = read_problem(pddl_problem(kind), task_text(kind))
    assert problem.goal == Goal(kind, thing.lower(), place.lower())


@pytest.mark.parametrize("grammar", ["2.1.1", "2.1.2"])
def test_reads_a_file(write: Callable[[Any], Path], grammar: str) -> None:
    game = read_game(write(game_file("heat", grammar)))
    assert game.grammar == grammar
    assert game.problem == read_problem(pddl_problem("heat"), task_text("heat"))


def test_json_brings_a_problem_back(write: Callable[[Any], Path]) -> None:
    problem = read_game(write(game_file("two"))).problem
    assert Problem.from_json(problem.to_json()) == problem


@pytest.mark.parametrize("key", ["pddl_domain", "grammar", "pddl_problem", "solvable"])
def test_missing_key_is_named(write: Callable[[Any], Path], key: str) -> None:
    content = game_file("place")
    del content[key]
    with pytest.raises(CorruptDataError, match=rf"game\.tw-pddl: key '{key}' is missing"):
        read_game(write(content))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("solvable", "yes", "key 'solvable' is not a bool"),
        ("grammar", 3, "key 'grammar' is not a str"),
        ("grammar", "no task", "key 'grammar' has no task"),
        ("grammar", '"task": [{"rhs": "x"}]', "key 'grammar' has neither"),
        ("pddl_problem", "(define)", r"key 'pddl_problem': there is no \(:init"),
        ("pddl_problem", "(:init (flies a)) (:goal )", "'pddl_problem': unknown predicate 'flies'"),
        ("pddl_problem", "(:init (opened a b)) (:goal )", "'opened' with 2 arguments"),
        ("pddl_problem", "(:init (opened a)) (:goal )", "0 atLocation facts"),
        ("pddl_problem", "(:init (atLocation a b)) (:goal (full b))", "unknown kind of goal"),
    ],
)
def test_what_is_wrong_is_said(
    write: Callable[[Any], Path], key: str, value: Any, message: str
) -> None:
    with pytest.raises(CorruptDataError, match=rf"game\.tw-pddl: .*{message}"):
        read_game(write(game_file("place") | {key: value}))


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\x00"])
def test_not_a_json_object(write: Callable[[Any], Path], text: str) -> None:
    with pytest.raises(CorruptDataError, match=r"not (a )?JSON"):
        read_game(write(text))


def test_unsolvable_game(write: Callable[[Any], Path]) -> None:
    with pytest.raises(UnsolvableGameError, match="'solvable' is false"):
        read_game(write(game_file("place") | {"solvable": False}))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="there is no file"):
        read_game(tmp_path / "game.tw-pddl")


def test_two_types_of_one_thing() -> None:
    text = pddl_problem("place").replace("(:init", "(:init (objectType Pan_bar_01 PotType)")
    with pytest.raises(CorruptDataError, match="'pan_bar_01' has two types"):
        read_problem(text, "")


@pytest.mark.parametrize(
    "grammar",
    [
        '"task": [{"rhs": "x"}] "intro" "move {o} to {r}"',
        '"task": [{"rhs": "x"}] "intro" "put {o} in/on {r}"',
        '"task": [{"rhs": "x"}] "put {o} in/on {r}" "move {o} to {r}"',
        '"task": [{"rhs": "x"}] "put {o} in/on {r}" "You move the {o.name} to the {r.name}."',
    ],
)
def test_a_grammar_of_another_release_is_refused(
    write: Callable[[Any], Path], grammar: str
) -> None:
    with pytest.raises(CorruptDataError, match=r"of none of the releases 2\.1\.1, 2\.1\.2"):
        read_game(write(game_file("heat") | {"grammar": grammar}))


@pytest.mark.data
@pytest.mark.parametrize("release", ["2.1.1", "2.1.2"])
def test_a_changed_word_of_the_official_grammar_is_noticed(
    shared_data: Path, write: Callable[[Any], Path], release: str
) -> None:
    with tarfile.open(shared_data / "alfworld" / f"alfworld-{release}.tar.xz") as archive:
        for member in archive:
            if member.name.endswith("game.tw-pddl"):
                game = json.load(archive.extractfile(member))  # type: ignore[arg-type]
                if game.get("solvable"):
                    break
    assert read_game(write(game)).grammar == release
    # Another task and other white space are the same release.
    spaced = re.sub(r"\bYour task is to: ", "Your task is to: please ", game["grammar"]) + "\n\n"
    assert read_game(write(game | {"grammar": spaced})).grammar == release
    for old, new in (
        ("You open the", "You pull open the"),
        ('"cool {o} with {r}"', '"chill {o} with {r}"'),
        ("look.feedback", "gaze.feedback"),
    ):
        assert old in game["grammar"]
        changed = game | {"grammar": game["grammar"].replace(old, new)}
        with pytest.raises(CorruptDataError, match="of none of the releases"):
            read_game(write(changed))
