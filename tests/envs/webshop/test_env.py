"""`WebShopEnv` behind `gym.make`: the contract, splits, modes, reveals, datasets, bad input."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eto_envs
from eto_envs.errors import CorruptDataError, DataNotFoundError, UnknownNameError
from eto_envs.testing import check_text_env
from eto_envs.vector import TextVectorEnv

ID = "ETO-WebShop-v0"


def make(**kwargs: Any) -> Any:
    return gym.make(ID, **{"dataset": "mini"} | kwargs)


@pytest.mark.parametrize("kwargs", [{}, {"observation_mode": "text_rich", "num_prev_obs": 1}])
def test_contract(kwargs: dict[str, Any]) -> None:
    check_text_env(lambda: make(reveal=("admissible_actions",), **kwargs), n_episodes=8)


def test_id_with_module_prefix_and_spec_round_visit() -> None:
    env = gym.make(f"eto_envs:{ID}", dataset="mini", split="seen", shaping=("step_cost=0.1",))
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.reset(seed=3)[0] == env.reset(seed=3)[0]
    assert again.step("jump")[1] == -0.1


def test_mini_splits() -> None:
    task_sets = {s: make(split=s).unwrapped.tasks for s in ("train", "seen", "unseen", "all")}
    assert {s: len(p) for s, p in task_sets.items() if s != "all"} == {
        "train": 1000,
        "seen": 200,
        "unseen": 200,
    }
    kinds = {split: {task.kind for task in tasks} for split, tasks in task_sets.items()}
    assert not kinds["unseen"] & kinds["train"]
    assert kinds["seen"] <= kinds["train"]
    ids = [set(task_sets[s].ids) for s in ("train", "seen", "unseen")]
    assert len(set().union(*ids)) == 1400
    assert set().union(*ids) <= set(task_sets["all"].ids)
    assert len({tasks.sha256 for tasks in task_sets.values()}) == 4


def test_an_episode() -> None:
    env = make(split="seen", reveal=("admissible_actions", "expert_action", "hidden_state"))
    observation, info = env.reset(options={"task": 0})
    assert observation == f"WebShop [SEP] Instruction: [SEP] {info['goal']} [SEP] Search"
    assert info["admissible_actions"] == ["search[<keywords>]", "click[search]"]
    ended = False
    while not ended:
        action = info["expert_action"]
        _, reward, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
    assert action == "click[buy now]"
    assert (reward, info["score"], info["success"]) == (1.0, 1.0, True)
    assert info["hidden_state"]["reward_info"]["r_att"] == 1.0
    assert info["admissible_actions"] == []


def test_the_expert_comes_back_from_a_detour() -> None:
    env = make(split="seen", reveal=("expert_action",))
    _, info = env.reset(options={"task": 3})
    for action in ("search[nothing of the kind]", "click[next >]", "jump"):
        info = env.step(action)[4]
    ended = False
    while not ended:
        _, _, terminated, truncated, info = env.step(info["expert_action"])
        ended = terminated or truncated
    assert info["score"] == 1.0


def test_nothing_bought_is_zero() -> None:
    env = make(max_steps=3)
    env.reset(seed=0)
    for _ in range(3):
        _, reward, terminated, truncated, info = env.step("search[lamp]")
        assert reward == 0.0
    assert (terminated, truncated, info["score"]) == (False, True, 0.0)
    assert make().reset()[1]["n_steps"] == 0
    assert make().unwrapped.tasks[0].max_steps == 10


def test_modes_and_history() -> None:
    texts = {}
    for mode in ("text", "text_rich", "html"):
        env = make(observation_mode=mode)
        texts[mode] = env.reset(options={"task": 0})[0]
    assert "[button] Search [button_]" in texts["text_rich"]
    assert texts["html"].startswith("<!DOCTYPE html>")
    env = make(num_prev_obs=1, num_prev_actions=1)
    first = env.reset(options={"task": 0})[0]
    second = env.step("search[lamp]")[0]
    assert second.startswith(f"{first} [SEP] search[lamp] [SEP] Instruction:")


def test_environments_of_a_process_share_one_catalogue() -> None:
    env = gym.make_vec(ID, num_envs=64, dataset="mini").unwrapped
    assert isinstance(env, TextVectorEnv)
    assert len({id(e._shop) for e in env.envs}) == 1
    assert len({id(e.tasks) for e in env.envs}) == 1


def test_a_snapshot_survives_pickling_and_another_split() -> None:
    env = make(split="train").unwrapped
    env.reset(seed=1)
    env.step("search[<r>]")
    state = pickle.loads(pickle.dumps(env.snapshot()))
    expected = [env.step(a) for a in ("click[next >]", "click[< prev]")]
    other = make(split="unseen").unwrapped
    other.restore(state)
    assert [other.step(a) for a in ("click[next >]", "click[< prev]")] == expected


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=30) | st.text(max_size=20).map("search[{}]".format), max_size=9))
def test_any_text_is_an_action(actions: list[str]) -> None:
    env = FUZZED.unwrapped
    env.reset(seed=0)
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        assert observation
        assert (reward, terminated, truncated) == (0.0, False, False)


FUZZED = make(max_steps=10)


def test_long_and_odd_actions() -> None:
    env = make(max_steps=20)
    before, _ = env.reset(seed=0)
    for action in ("x" * 100_000, "search[" * 14_000, "click[" + "é\u0000\ud800" * 30_000 + "]"):
        observation, _, _, _, info = env.step(action)
        assert observation == before
        assert not info["is_valid_action"]
    observation, _, _, _, info = env.step("search[" + "lamp " * 20_000 + "]")
    assert info["is_valid_action"]
    many = " ".join(f"word{i}" for i in range(1100))
    assert env.step(f"search[{many}]")[0] == observation
    strict = make(strict_reference=True)
    strict.reset(seed=0)
    with pytest.raises(eto_envs.BackendError, match="TooManyClauses"):
        strict.step(f"search[{many}]")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"split": "sen"}, "did you mean 'seen'"),
        ({"split": "unseen", "goals": "synthetic"}, "'train', 'train_clean', 'seen', 'all' only"),
        ({"dataset": "mimi"}, "did you mean 'mini'"),
        ({"goals": "humans"}, "did you mean 'human'"),
        ({"observation_mode": "txt"}, "did you mean 'text'"),
        ({"reveal": ("expert_actio",)}, "expert_action"),
    ],
)
def test_unknown_names(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        make(**kwargs)


def test_official_data_that_are_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path))
    with pytest.raises(DataNotFoundError, match="eto data download webshop-small"):
        make(dataset="small")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert gym.make(ID).reset(seed=0)[1]["dataset"] == "mini"
    texts = [str(w.message) for w in caught]
    assert len([t for t in texts if "not comparable with published results" in t]) == 1
    with pytest.raises(DataNotFoundError, match=r"items_shuffle\.json"):
        make(dataset=str(tmp_path))


@pytest.fixture(scope="session")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    for name in ("items_shuffle.json", "items_ins_v2.json", "items_human_ins.json"):
        shutil.copy(shared_data / "webshop" / "catalogue" / name, folder / name)
    return folder


@pytest.mark.data
def test_a_folder_of_official_files(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path))
    with pytest.warns(UserWarning, match="nouns"):
        env = make(dataset=str(real), split="all")
    assert len(env.unwrapped.tasks) == 367
    assert env.reset(seed=0)[1]["dataset"] == real.name
    synthetic = make(dataset=str(real), split="all", goals="synthetic")
    assert len(synthetic.unwrapped.tasks) == 6678
    hashes = {make(dataset=str(real), price_seed=s).unwrapped.tasks.sha256 for s in (1, 2, 1)}
    assert len(hashes) == 2


@pytest.mark.data
def test_a_truncated_file_is_named(
    real_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path / "cache"))
    broken = tmp_path / "broken"
    shutil.copytree(real_source, broken)
    text = (broken / "items_shuffle.json").read_bytes()
    (broken / "items_shuffle.json").write_bytes(text[: len(text) // 2])
    with pytest.raises(CorruptDataError, match=r"items_shuffle\.json"):
        make(dataset=str(broken))


def test_task_choice_takes_numpy_integers_unlike_the_original() -> None:
    env = make(split="all")
    assert env.reset(options={"task": np.int64(5)})[1]["task_id"] == "5"
    assert env.reset(options={"task": "5"})[1]["task_id"] == "5"


@pytest.mark.data
def test_etos_splits(
    shared_data: Path,
    make_source: Any,
    make_product: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The published indices over a stand-in with as many goals as the full catalogue has."""
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path / "cache"))
    entry = {"instruction_attributes": ["cotton"], "instruction_options": []}
    human = {"B000000001": [entry | {"instruction": f"request {i}"} for i in range(12_087)]}
    folder = make_source([make_product("B000000001")], None, human)
    (folder / "nouns.json").write_text(json.dumps({make_product("B000000001")["name"]: ["shirt"]}))
    for name in ("train_indices.json", "test_indices.json"):
        published = shared_data / "mirror" / "eto" / "eval_agent" / "data" / "webshop" / name
        shutil.copyfile(published, folder / name)
    task_sets = {
        split: make(dataset=str(folder), split=split).unwrapped.tasks
        for split in ("train", "train_clean", "seen")
    }
    assert {split: len(tasks) for split, tasks in task_sets.items()} == {
        "train": 1823,  # 1,824 published, 4116 twice
        "train_clean": 1802,
        "seen": 200,
    }
    overlap = set(task_sets["train"].ids) & set(task_sets["seen"].ids)
    assert len(overlap) == 21
    assert {"818", "978", "1211", "2640", "2933"} <= overlap
    assert not set(task_sets["train_clean"].ids) & set(task_sets["seen"].ids)
    assert set(task_sets["train_clean"].ids) | overlap == set(task_sets["train"].ids)
    with pytest.raises(UnknownNameError, match="has 'train', 'train_clean', 'seen', 'all' only"):
        make(dataset=str(folder), split="unseen")
