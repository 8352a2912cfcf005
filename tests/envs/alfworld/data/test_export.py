from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_envs.alfworld.data.datasets import open_dataset, open_mini, task_set
from eto_envs.alfworld.data.export import (
    Texts,
    export_games,
    find_texts,
    in_wording,
    trajectory_data,
)
from eto_envs.alfworld.data.games import find_games
from eto_envs.alfworld.data.reading import read_game
from eto_envs.alfworld.engine.admissible import admissible_commands
from eto_envs.alfworld.engine.game import Game
from eto_envs.alfworld.engine.rules import step
from eto_envs.alfworld.engine.wording import introduction
from eto_envs.alfworld.experts.planner import shortest_plan
from eto_envs.errors import (
    CorruptDataError,
    DataNotFoundError,
    MissingExtraError,
    UnknownNameError,
)
from eto_envs.tasks import Task

DOMAIN = """(define (domain small)
(:action look :parameters ())
(:action help
    :effect
        (and (checked))
)
)
"""
GRAMMAR = """grammar :: {
    "task": [ { "rhs": "Your task is to: UNKNOWN GOAL." } ],
    "go": [ { "rhs": "You arrive at {r.name}. #examineReceptacle.feedback#" } ],
    "done": [ { "rhs": "You move the {o.name} to the {r.name}." } ]
}
action PutObject {
    template :: "move {o} to {r}";
}
action help {
    template :: "help";
    feedback :: "{o} or {r}";
}
"""


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A file with a small domain and grammar of our own, of release 2.1.2."""
    path = tmp_path / "template.tw-pddl"
    path.write_text(json.dumps({"pddl_domain": DOMAIN, "grammar": GRAMMAR}), encoding="utf-8")
    return path


def some_tasks(split: str, every: int) -> list[Task]:
    tasks = task_set(open_mini(), split)
    return [tasks[position] for position in range(0, len(tasks), every)]


@pytest.mark.parametrize("grammar", ["2.1.1", "2.1.2"])
def test_games_are_read_back_as_they_were(tmp_path: Path, template: Path, grammar: str) -> None:
    tasks = some_tasks("train", 60) + some_tasks("unseen", 20)
    paths = export_games(tasks, tmp_path / "games", grammar, template=template)
    pack = open_mini().pack
    for task, path in zip(tasks, paths, strict=True):
        assert path.parts[-3:] == (*task.id.split("/"), "game.tw-pddl")
        assert read_game(path) == (pack.problem(task.id), grammar)
    found = find_games(tmp_path / "games")
    assert {game.task_id: game.path for game in found} == {
        task.id: path for task, path in zip(tasks, paths, strict=True)
    }
    assert {game.split for game in found} == {"train", "unseen"}


def test_exported_games_are_a_dataset(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path / "cache"))
    tasks = some_tasks("seen", 10)
    export_games(tasks, tmp_path / "games", template=template)
    dataset = open_dataset(str(tmp_path / "games"))
    assert [task.goal for task in task_set(dataset, "seen")] == [task.goal for task in tasks]


def test_trajectory_data(tmp_path: Path, template: Path) -> None:
    (task,) = [task for task in some_tasks("seen", 1) if "Pan-None-Cabinet-1005" in task.id]
    (path,) = export_games([task], tmp_path, template=template)
    assert json.loads(path.with_name("traj_data.json").read_text(encoding="utf-8")) == {
        "task_type": "pick_cool_then_place_in_recep",
        "task_id": "trial_1",
        "pddl_params": {
            "object_target": "Pan",
            "object_sliced": False,
            "mrecep_target": "",
            "parent_target": "Cabinet",
            "toggle_target": "",
        },
    }
    params: Any = trajectory_data("look_at_obj_in_light-CD-None-DeskLamp-1/trial")["pddl_params"]
    assert (params["parent_target"], params["toggle_target"]) == ("", "DeskLamp")
    with pytest.raises(UnknownNameError, match="unexpected format"):
        trajectory_data("look/trial")


def test_wordings() -> None:
    texts = Texts(DOMAIN, GRAMMAR)
    assert in_wording(texts, "2.1.2") == texts
    older = in_wording(texts, "2.1.1")
    assert in_wording(older, "2.1.1") == older
    assert "help" not in older.domain + older.grammar
    assert older.domain.count("(") == older.domain.count(")")
    assert 'template :: "put {o} in/on {r}"' in older.grammar
    assert "You arrive at {lend.name}." in older.grammar
    with pytest.raises(CorruptDataError, match=r"lacks the help of 2\.1\.2"):
        in_wording(older, "2.1.2")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (Texts(DOMAIN, GRAMMAR.replace("move", "shift")), "none of the releases"),
        (Texts(DOMAIN, GRAMMAR.replace("action help", "action aid")), "there is no help"),
        (Texts("(define)", GRAMMAR), "there is no help"),
        (Texts("(:action help (", GRAMMAR), "unclosed parenthesis"),
    ],
)
def test_texts_of_another_kind(texts: Texts, message: str) -> None:
    with pytest.raises(CorruptDataError, match=message):
        in_wording(texts, "2.1.1")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install alfworld"):
        export_games([], tmp_path)


def test_what_is_not_there(tmp_path: Path, template: Path) -> None:
    with pytest.raises(DataNotFoundError):
        find_texts(tmp_path / "no.tw-pddl")
    template.write_text("[]", encoding="utf-8")
    with pytest.raises(CorruptDataError, match="not a JSON object"):
        find_texts(template)
    with pytest.raises(UnknownNameError, match="did you mean"):
        export_games([], tmp_path, "2.1.0")


@pytest.mark.data
def test_wordings_of_the_official_releases(official: Callable[[str], Path]) -> None:
    """What is made of a game of 2.1.2 is that of 2.1.1, blank lines aside."""
    newer, older = (
        find_texts(find_games(official(release))[0].path) for release in ("2.1.2", "2.1.1")
    )
    made = in_wording(newer, "2.1.1")
    assert made.domain.split() == older.domain.split()
    assert made.grammar.split() == older.grammar.split()
    assert in_wording(older, "2.1.1") == older


def plays(game: Game) -> list[str]:
    """A plan, with commands between that ask for all sorts of texts."""
    commands = ["look", "inventory", "help"]
    for command in shortest_plan(game, game.start) or []:
        commands.append(command)
        if command.startswith("take "):
            commands += [f"examine {command[5:].partition(' from ')[0]}", "inventory", "look"]
    return commands


@pytest.mark.slow
@pytest.mark.textworld
@pytest.mark.filterwarnings("ignore")  # of what others wrote
@pytest.mark.parametrize("grammar", ["2.1.1", "2.1.2"])
def test_the_stock_engine_plays_exported_games(tmp_path: Path, grammar: str) -> None:
    textworld = pytest.importorskip("textworld", reason="needs `pip install textworld[pddl]`")
    stock = pytest.importorskip(
        "alfworld.agents.environment.alfred_tw_env", reason="needs `pip install alfworld pyyaml`"
    )
    infos = textworld.EnvInfos(won=True, admissible_commands=True)
    tasks = some_tasks("seen", 17)
    for task, path in zip(tasks, export_games(tasks, tmp_path, grammar), strict=True):
        game = Game(open_mini().pack.problem(task.id), grammar)
        env = textworld.start(str(path), infos, wrappers=[stock.AlfredDemangler])
        told, state = env.reset(), game.start
        assert told.feedback == introduction(game)
        assert list(told.admissible_commands) == admissible_commands(game, state)
        for command in plays(game):
            told, _, _ = env.step(command)
            state, answer, won = step(game, state, command)
            assert (told.feedback, told.won) == (answer, won)
            assert list(told.admissible_commands) == admissible_commands(game, state)
        assert won
        env.close()
