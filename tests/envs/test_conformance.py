"""Every registered id keeps the contract on its embedded data."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import eto_envs
from eto_envs.errors import UnknownNameError
from eto_envs.testing import check_text_env
from eto_envs.vector import TextVectorEnv

EMBEDDED = {
    "ETO-WebShop-v0": {"dataset": "mini"},
    "ETO-WebShopBrowser-v0": {"dataset": "mini"},
    "ETO-ALFWorld-v0": {"dataset": "mini"},
    "ETO-ScienceWorld-v0": {"dataset": "1.2.3"},  # the simulator's own, in its wheel
}
MARKS = {
    "ETO-ScienceWorld-v0": [pytest.mark.java],
    "ETO-WebShopBrowser-v0": [pytest.mark.browser, pytest.mark.slow],
}
EXPERT_SPLITS = {"ETO-ScienceWorld-v0": ("unseen",)}
"""The splits with `expert_action`, if not all: ScienceWorld searches for seconds to find one."""
PARAMETERS = [pytest.param(env_id, marks=MARKS.get(env_id, [])) for env_id in sorted(EMBEDDED)]


def test_every_id_is_tried_here() -> None:
    assert set(EMBEDDED) == set(eto_envs.IDS)
    assert set(eto_envs.IDS) <= set(gym.registry)


@pytest.fixture(params=PARAMETERS)
def env_id(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(env_id: str, **kwargs: Any) -> Any:
    return gym.make(env_id, **{**EMBEDDED[env_id], **kwargs})


def test_gymnasiums_checker_is_silent(env_id: str) -> None:
    check_env(make(env_id, render_mode="ansi").unwrapped)


@pytest.mark.parametrize("split", ["train", "seen", "unseen", "all"])
def test_contract(env_id: str, split: str) -> None:
    reveal = ["admissible_actions", "hidden_state"]
    if split in EXPERT_SPLITS.get(env_id, (split,)):
        reveal.append("expert_action")
    check_text_env(lambda: make(env_id, split=split, reveal=reveal), n_episodes=2)


def test_task_sets_are_listed_without_an_environment(
    env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("an environment was made")

    with monkeypatch.context() as patch:
        patch.setattr(eto_envs.TextEnv, "__init__", refuse)
        sets = eto_envs.task_sets(env_id, **EMBEDDED[env_id])
    assert {"train", "train_clean", "seen", "unseen", "all"} == set(sets)
    for split, tasks in sets.items():
        made = make(env_id, split=split).unwrapped.tasks
        assert (tasks.split, tasks.ids, tasks.sha256) == (split, made.ids, made.sha256)


def test_task_sets_refuse_what_the_constructor_refuses(env_id: str) -> None:
    with pytest.raises(UnknownNameError, match="dataset"):
        eto_envs.task_sets(env_id, "no such dataset")
    with pytest.raises(TypeError, match="datasets"):
        eto_envs.task_sets(env_id, datasets="mini")


def test_reset_takes_another_split(env_id: str) -> None:
    env = make(env_id)
    sets = eto_envs.task_sets(f"eto_envs:{env_id}", **EMBEDDED[env_id])
    for options in ({"split": "unseen"}, {"split": "unseen", "task": 3}):
        observation, info = env.reset(seed=2, options=options)
        assert (info["split"], info["tasks_sha256"]) == ("unseen", sets["unseen"].sha256)
        other = make(env_id, split="unseen")
        task = {key: value for key, value in options.items() if key == "task"}
        assert other.reset(seed=2, options=task) == (observation, info)
        assert other.step("look") == env.step("look")
    with pytest.raises(UnknownNameError, match="did you mean 'unseen'"):
        env.reset(seed=1, options={"split": "unsen"})
    assert other.step("look") == env.step("look")
    assert env.reset()[1]["split"] == "train"


def test_gymnasiums_step_limit(env_id: str) -> None:
    kwargs = {"max_episode_steps": 2, **EMBEDDED[env_id]}
    envs = [
        gym.make_vec(env_id, num_envs=2, vectorization_mode=m, **kwargs) for m in (None, "sync")
    ]
    for env in envs:
        env.reset(seed=4)
        ends = [env.step(("look", "jump"))[3].tolist() for _ in range(2)]
        assert ends == [[False, False], [True, True]]
        env.close()


def test_spec_round_trip(env_id: str) -> None:
    env = make(env_id, split="seen", max_steps=2, shaping=("step_cost=0.5",))
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.reset(seed=1)[0] == env.reset(seed=1)[0]
    assert again.step("nothing of the kind") == env.step("nothing of the kind")


def test_pickling_keeps_the_episode(env_id: str) -> None:
    env = make(env_id)
    env.reset(seed=1)
    env.step("nothing of the kind")
    twin = pickle.loads(pickle.dumps(env))
    assert twin.step("still nothing") == env.step("still nothing")
    assert twin.reset()[1]["task_id"] == env.reset()[1]["task_id"]


def test_the_expert_wins_and_rewards_sum_to_the_score(env_id: str) -> None:
    env = make(env_id, split="unseen", reveal=("expert_action",))
    for seed in range(5):
        _, info = env.reset(seed=seed)
        total, ended = 0.0, False
        while not ended:
            _, reward, terminated, truncated, info = env.step(info["expert_action"])
            total += reward
            ended = terminated or truncated
        assert total == info["score"] == 1.0


def test_vector_envs_give_the_same(env_id: str) -> None:
    def play(env: Any) -> Any:
        first, infos = env.reset(seed=3)
        second = env.step(("look", "é"))[0]
        env.close()
        return first, list(infos["task_id"]), second

    makers = [lambda: make(env_id)] * 2
    ours = gym.make_vec(env_id, num_envs=2, **EMBEDDED[env_id])
    assert isinstance(ours.unwrapped, TextVectorEnv)
    expected = play(ours)
    assert play(SyncVectorEnv(makers)) == expected
    for context in ("fork", "spawn"):
        assert play(AsyncVectorEnv(makers, shared_memory=False, context=context)) == expected


def test_seeds_draw_from_the_task_set_the_same_in_any_environment(env_id: str) -> None:
    draws = [[make(env_id).reset(seed=s)[1]["task_id"] for s in range(12)] for _ in range(2)]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) > 6


def test_auto_falls_back_with_one_warning(
    env_id: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import warnings, gymnasium as gym, eto_envs\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        f"    names = {{gym.make({env_id!r}).reset(seed=0)[1]['dataset'] for _ in range(3)}}\n"
        f"assert names == {{{EMBEDDED[env_id]['dataset']!r}}}, names\n"
        "texts = [str(w.message) for w in caught]\n"
        "assert len(texts) == 1, texts\n"
        "assert 'eto data download' in texts[0], texts\n"
    )
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
