from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_envs.alfworld import stock
from eto_envs.alfworld.env import ALFWorldEnv
from eto_envs.alfworld.stock import names_of, open_stock
from eto_envs.errors import (
    BackendError,
    DataNotFoundError,
    MissingExtraError,
    SnapshotError,
    UnknownNameError,
)
from eto_envs.testing import check_text_env
from tests.envs.alfworld import fake_textworld
from tests.envs.alfworld.house import task_id

ALL = ("admissible_actions", "expert_action", "hidden_state", "subgoals")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[fake_textworld.PddlEnv]:
    return fake_textworld.install(monkeypatch)


@pytest.fixture
def make(
    tmp_path: Path, write_games: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ALFWorldEnv]:
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path / "cache"))
    folder = write_games(tmp_path / "house")

    def make(engine: str = "textworld", **kwargs: Any) -> ALFWorldEnv:
        return ALFWorldEnv(dataset=str(folder), engine=engine, **kwargs)

    return make


Make = Callable[..., ALFWorldEnv]
Fake = type[fake_textworld.PddlEnv]


def walk_alike(envs: list[ALFWorldEnv], task: str | int, actions: Any) -> None:
    """The environments show the same along an episode; `actions(info)` chooses."""
    *_, (observation, info) = shown = [env.reset(options={"task": task}) for env in envs]
    assert shown[0] == (observation, info)
    ended = False
    while not ended:
        action = actions(info)
        first, *others = (env.step(action) for env in envs)
        assert all(other == first for other in others), (task, action)
        ended, info = first[2] or first[3], first[4]


def test_contract(make: Make, fake: Fake) -> None:
    check_text_env(lambda: make(reveal=ALL))


def test_same_as_native(make: Make, fake: Fake) -> None:
    envs = [make("native", reveal=ALL), make(reveal=ALL)]
    walk_alike(envs, task_id("heat"), lambda info: info["expert_action"])
    rng = random.Random(0)
    walk_alike(envs, task_id("two"), lambda info: rng.choice(info["admissible_actions"]))


def test_a_game_is_loaded_once_and_the_last_ones_propositions_are_forgotten(
    make: Make, fake: Fake
) -> None:
    env = make()
    for kind in ("place", "place", "cool"):
        env.reset(options={"task": task_id(kind)})
    (textworld,) = fake.made
    assert (textworld.n_loads, textworld.n_resets) == (2, 3)
    assert sys.modules["mementos.core"]._memento_cache == {}
    names = {i: info.name for i, info in textworld._entity_infos.items()}
    assert names == {"drawer_bar_01": "drawer 2", "drawer_bar_02": "drawer 1", "agent1": "agent1 "}


def test_snapshot_gives_the_commands_again(make: Make, fake: Fake) -> None:
    env, other = make(reveal=ALL), make(reveal=ALL)
    env.reset(options={"task": task_id("heat")})
    env.step("go to countertop 1")
    snapshot = env.snapshot()
    env.step("take egg 1 from countertop 1")
    later = env.snapshot()
    theirs = fake.made[1]
    assert other.restore(pickle.loads(pickle.dumps(snapshot))) == env.restore(snapshot)
    assert (theirs.n_resets, theirs.n_steps) == (1, 1)
    assert other.restore(later) == env.restore(later)  # it only has to go on
    assert (theirs.n_resets, theirs.n_steps) == (1, 2)
    other.restore(snapshot)
    assert (theirs.n_resets, theirs.n_steps) == (2, 3)
    env.restore(snapshot)
    for command in ("take egg 1 from countertop 1", "inventory"):
        assert other.step(command) == env.step(command)


def test_snapshots_between_the_engines(make: Make, fake: Fake) -> None:
    native, env = make("native", reveal=ALL), make(reveal=ALL)
    env.reset(options={"task": task_id("clean")})
    env.step("go to countertop 2")
    observation, info = native.restore(env.snapshot())
    assert observation == "On the countertop 2, you see a apple 3, and a pan 1."
    command = "take pan 1 from countertop 2"
    assert info["admissible_actions"].count(command) == 1
    assert native.step(command) == env.step(command)
    native.reset(options={"task": task_id("cool")})
    with pytest.raises(SnapshotError, match="take it with engine='textworld'"):
        env.restore(native.snapshot())
    assert env.step("inventory")[0] == "You are carrying: a pan 1."  # and goes on as it was


def test_names_count_down_within_a_type() -> None:
    ids = [
        "sink_bar_9_bar_sinkbasin",
        "mug_bar_1",
        "mug_bar_3",
        "mug_bar_2",
        "agent1",
        "sink_bar_9",
    ]
    assert names_of(ids) == {
        "agent1": "agent1 ",
        "mug_bar_1": "mug 3",
        "mug_bar_2": "mug 2",
        "mug_bar_3": "mug 1",
        "sink_bar_9": "sink 1",
        "sink_bar_9_bar_sinkbasin": "sinkbasin 1",
    }


def test_only_folders_of_official_files(house_pack: Path, fake: Fake) -> None:
    for dataset in (str(house_pack), "2.1.1", "mini", "auto"):
        with pytest.raises(
            DataNotFoundError, match=r"the folder into which json_2\.1\.1 was unpacked"
        ):
            ALFWorldEnv(dataset=dataset, engine="textworld")


def test_unknown_game(make: Make, fake: Fake, tmp_path: Path) -> None:
    engine = open_stock(str(tmp_path / "house"))
    with pytest.raises(UnknownNameError, match="did you mean 'look_at"):
        engine.start(task_id("look").replace("Apple", "Aple"))


@pytest.mark.parametrize("missing", ["textworld", "fast_downward"])
def test_textworld_is_optional(
    make: Make, fake: Fake, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "textworld":
        monkeypatch.delitem(sys.modules, "textworld.core")
    with pytest.raises(MissingExtraError, match=r"pip install 'eto-gym\[alfworld\]'"):
        make()


def test_textworld_breaks_on_newer_pythons(
    make: Make, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock, "_PYTHON", (3, 13))
    with pytest.raises(BackendError, match=r"Python 3\.12"):
        make()


@pytest.mark.slow
@pytest.mark.textworld
@pytest.mark.data
@pytest.mark.parametrize("release", ["2.1.1", "2.1.2"])
def test_native_and_original_show_the_same(
    official: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    release: str,
) -> None:
    """Ten games a release: a random walk with wrong commands, then the planner's way to win."""
    pytest.importorskip("fast_downward", reason="TextWorld (the extra alfworld) is not installed")
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path))
    dataset, reveal = str(official(release)), ("admissible_actions", "expert_action")
    envs = [
        ALFWorldEnv("all", dataset=dataset, engine=engine, reveal=reveal, max_steps=60)
        for engine in ("native", "textworld")
    ]
    rng = random.Random(f"walks of {release}")

    def action(info: Any) -> str:
        if info["n_steps"] >= 15:
            return str(info["expert_action"])
        known = [*info["admissible_actions"], "help", "put it in/on shelf 1", "Look", ""]
        return rng.choice(known)

    for task in rng.sample(range(len(envs[0].tasks)), 10):
        walk_alike(envs, task, action)
        assert envs[0].snapshot().info["success"]
