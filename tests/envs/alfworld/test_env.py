from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

from eto_envs.alfworld.data.pack import Pack
from eto_envs.alfworld.env import ALFWorldEnv, make_vector_env
from eto_envs.errors import SnapshotError, UnknownNameError
from eto_envs.testing import check_text_env
from tests.envs.alfworld.house import GOALS, task_id

ALL = ("admissible_actions", "expert_action", "hidden_state")


@pytest.fixture
def make(house_pack: Path) -> Callable[..., ALFWorldEnv]:
    def make(split: str = "train", **kwargs: Any) -> ALFWorldEnv:
        return ALFWorldEnv(split, dataset=str(house_pack), **kwargs)

    return make


Make = Callable[..., ALFWorldEnv]


def test_contract(make: Make) -> None:
    check_text_env(lambda: make(reveal=ALL))
    check_text_env(lambda: make("unseen", reveal=ALL), choose=lambda o, i, r: i["expert_action"])


def test_gymnasium_check(make: Make) -> None:
    check_env(make(render_mode="ansi"), skip_render_check=True)


def test_first_observation_is_room_and_task(make: Make) -> None:
    observation, info = make().reset(options={"task": task_id("place")})
    assert observation == (
        "You are in the middle of a room. Looking quickly around you, you see a countertop 2, a "
        "countertop 1, a drawer 2, a drawer 1, a fridge 1, a microwave 1, and a sinkbasin 1.\n"
        "Your task is to: put a egg in drawer."
    )
    assert info["goal"] == "put a egg in drawer."
    assert info["grammar"] == "2.1.1"


def test_arrivals_are_cut_as_in_eto(make: Make) -> None:
    env = make()
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step("go to fridge 1")
    assert observation == "The fridge 1 is closed."
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["grammar"] == "2.1.1"
    assert info["is_valid_action"]


def test_nothing_happens(make: Make) -> None:
    env = make()
    env.reset(seed=0)
    observation, _, _, _, info = env.step("go to the fridge")
    assert observation == "Nothing happens."
    assert not info["is_valid_action"]
    assert info["n_steps"] == 1


@pytest.mark.parametrize("kind", GOALS)
def test_the_expert_action_leads_to_reward_1(make: Make, kind: str) -> None:
    env = make(reveal=("expert_action",))
    _, info = env.reset(options={"task": task_id(kind)})
    rewards, terminated = [], False
    while not terminated:
        _, reward, terminated, truncated, info = env.step(info["expert_action"])
        assert not truncated
        rewards.append(reward)
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
    assert info["score"] == 1.0
    assert info["success"]
    assert info["expert_action"] == ""


def test_truncates_after_40_steps(make: Make) -> None:
    env = make()
    env.reset(seed=0)
    ends = [env.step("look")[2:4] for _ in range(40)]
    assert ends == [(False, False)] * 39 + [(False, True)]


def test_reveals_on_request(make: Make) -> None:
    env = make(reveal=("admissible_actions", "hidden_state"))
    _, info = env.reset(options={"task": task_id("place")})
    assert info["admissible_actions"][0] == "go to countertop 1"
    assert info["admissible_actions"] == sorted(info["admissible_actions"])
    assert info["hidden_state"][0] == "atlocation(loc 6)"
    assert "expert_action" not in info
    assert "admissible_actions" not in make().reset(seed=0)[1]


def test_snapshot_in_another_split(make: Make) -> None:
    env, other = make("train"), make("seen", reveal=("hidden_state",))
    env.reset(options={"task": task_id("heat")})
    env.step("go to fridge 1")
    env.step("open fridge 1")
    observation, info = other.restore(pickle.loads(pickle.dumps(env.snapshot())))
    assert observation == "You open the fridge 1. The fridge 1 is open. In it, you see a apple 2."
    assert "opened(fridge 1)" in info["hidden_state"]
    assert info["grammar"] == "2.1.1"
    command = "take apple 2 from fridge 1"
    assert env.step(command)[0] == other.step(command)[0]


def test_snapshot_of_other_games(
    make: Make, tmp_path: Path, write_games: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path / "cache"))
    other = ALFWorldEnv(dataset=str(write_games(tmp_path / "other", "2.1.2")))
    assert other.reset(seed=0)[1]["grammar"] == "2.1.2"
    with pytest.raises(SnapshotError):
        make().restore(other.snapshot())


def test_unknown_names(make: Make) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'unseen'"):
        make("unsen")
    with pytest.raises(UnknownNameError, match="did you mean 'native'"):
        make(engine="nativ")
    with pytest.raises(UnknownNameError, match="did you mean 'look_at"):
        make().reset(options={"task": task_id("look").replace("Apple", "Aple")})


@pytest.mark.parametrize("name", ["mini", "mini-2.1.2"])
def test_contract_with_the_mini_games(name: str) -> None:
    check_text_env(lambda: ALFWorldEnv("seen", dataset=name, reveal=ALL))


def test_vector(house_pack: Path) -> None:
    envs = make_vector_env(num_envs=4, dataset=str(house_pack), reveal=("expert_action",))
    _, infos = envs.reset(seed=1)
    for _ in range(30):
        _, rewards, terminated, _, infos = envs.step(list(infos["expert_action"]))
        assert ((rewards == 1.0) == terminated).all()
    assert envs.call("tasks")[0] is envs.call("tasks")[3]
    envs.close()


@pytest.mark.data
def test_recorded_expert_episodes_replay(
    official_pack: Pack, read_episodes: Callable[[str], list[Any]]
) -> None:
    """The original's own experts, as ETO showed the texts: every observation, won at the end."""
    env = ALFWorldEnv(dataset=str(official_pack.path), max_steps=200)
    episodes = read_episodes("gt_traj.jsonl.gz")
    assert len(episodes) == 889
    for episode in episodes:
        task = "/".join(episode["game"].split("/")[-3:-1])
        first, *turns = [turn["value"] for turn in episode["conversation"]]
        observation, _ = env.reset(options={"task": task})
        assert observation.split("\n") == first.split("\n\n")[1:]
        done = False
        for action, answer in zip(turns[::2], turns[1::2], strict=True):
            assert not done
            observation, _, done, _, info = env.step(action)
            assert observation == answer
        assert info["success"]


@pytest.mark.data
def test_canonical_games_take_their_release_name(official_pack: Pack) -> None:
    env = ALFWorldEnv("unseen", dataset=str(official_pack.path))
    _, info = env.reset(seed=0)
    assert (info["dataset"], info["grammar"], len(env.tasks)) == ("2.1.1", "2.1.1", 134)


def test_task_sets_of_task_types() -> None:
    kinds = ("pick_heat_then_place_in_recep", "look_at_obj_in_light")
    env = gym.make("ETO-ALFWorld-v0", dataset="mini", split="seen", kinds=kinds)
    tasks = env.unwrapped.tasks
    assert {task.kind for task in tasks} == set(kinds)
    every = gym.make("ETO-ALFWorld-v0", dataset="mini", split="seen").unwrapped.tasks
    assert [i for i in every.ids if i.startswith(kinds)] == list(tasks.ids)
    assert tasks.sha256 != every.sha256
    with pytest.raises(UnknownNameError, match="pick_heat_then_place_in_recep"):
        gym.make("ETO-ALFWorld-v0", dataset="mini", kinds=("pick_heat",))


def test_registered_id_keeps_the_contract() -> None:
    check_text_env(
        lambda: gym.make("ETO-ALFWorld-v0", dataset="mini", reveal=("admissible_actions",))
    )
    env = gym.make_vec("ETO-ALFWorld-v0", num_envs=4, dataset="mini", group_size=2)
    _, infos = env.reset(seed=0)
    assert infos["task_id"][0] == infos["task_id"][1] != infos["task_id"][2]
    assert set(infos["grammar"]) == {"2.1.1"}


def test_sub_goals_reward_by_name() -> None:
    env = gym.make(
        "ETO-ALFWorld-v0",
        dataset="mini",
        reveal=("subgoals", "expert_action"),
        shaping=("subgoal=0.1", "potential=1.0"),
    )
    _, info = env.reset(seed=0)
    total, ended = 0.0, False
    held_at_start = sum(info["subgoals"].values())
    start = held_at_start / len(info["subgoals"])
    while not ended:
        _, reward, terminated, truncated, info = env.step(info["expert_action"])
        total += reward
        ended = terminated or truncated
    n_new = len(info["subgoals"]) - held_at_start
    assert total == pytest.approx(1.0 + 0.1 * n_new - start)


def test_train_is_clean() -> None:
    task_sets = {
        split: gym.make("ETO-ALFWorld-v0", dataset="mini", split=split).unwrapped.tasks
        for split in ("train", "train_clean", "seen", "unseen")
    }
    assert task_sets["train_clean"].ids == task_sets["train"].ids
    assert not set(task_sets["train"].ids) & {*task_sets["seen"].ids, *task_sets["unseen"].ids}
