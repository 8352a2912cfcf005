"""The contract on the smallest world: reset, step, info, ends, errors, snapshots, rendering."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from eto_envs.core import TextEnv
from eto_envs.errors import ActionTypeError, EpisodeEndedError, SnapshotError, UnknownNameError
from tests.toy import CORRIDOR, CorridorEnv, corridor_tasks


def test_gymnasium_check_env_is_silent() -> None:
    check_env(gym.make(CORRIDOR).unwrapped)


def test_rewards_sum_to_the_score_and_the_task_ends() -> None:
    env = CorridorEnv()
    env.reset(options={"task": "room4"})
    rewards = []
    for action in ("east", "west", "east", "east", "east"):
        _, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
    assert rewards == [0.25, 0.0, 0.0, 0.25, 0.25]
    assert info["score"] == 0.75
    assert (terminated, truncated) == (False, False)
    _, reward, terminated, truncated, info = env.step("east")
    assert (terminated, truncated, info["score"], info["success"]) == (True, False, 1.0, True)
    with pytest.raises(EpisodeEndedError, match="room4"):
        env.step("east")


def test_limit_truncates_and_can_be_overridden() -> None:
    env = CorridorEnv(max_steps=2)
    env.reset()
    assert env.step("west")[2:4] == (False, False)
    assert env.step("west")[2:4] == (False, True)
    env = CorridorEnv()
    env.reset()
    ends = [env.step("west")[3] for _ in range(12)]
    assert ends == [False] * 11 + [True]


def test_the_last_allowed_step_may_still_succeed() -> None:
    env = CorridorEnv(max_steps=2)
    env.reset(options={"task": "room2"})
    env.step("east")
    _, _, terminated, truncated, _ = env.step("east")
    assert (terminated, truncated) == (True, False)


@pytest.mark.parametrize("bad", [0, -1, 1.5, "3", True])
def test_bad_limits(bad: object) -> None:
    with pytest.raises(ValueError, match="max_steps"):
        CorridorEnv(max_steps=bad)


def test_seed_decides_the_task() -> None:
    def draws(seed: int) -> list[str]:
        env = CorridorEnv()
        first = env.reset(seed=seed)[1]["task_id"]
        return [first] + [env.reset()[1]["task_id"] for _ in range(8)]

    assert draws(3) == draws(3)
    assert len({tuple(draws(seed)) for seed in range(5)}) > 1


def test_task_by_id_position_or_task() -> None:
    env = CorridorEnv()
    for choice in ("room3", 1, np.int64(1), env.tasks[1]):
        assert env.reset(options={"task": choice})[1]["task_id"] == "room3"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "room33"}, "did you mean 'room3'"),
        ({"task": 5}, "0 to 4"),
        ({"task": -1}, "0 to 4"),
        ({"tasks": ["room3"]}, "did you mean 'task'"),
        (
            {"split": "sen"},
            "did you mean 'seen'\\? Dataset 'toy' has 'train', 'train_clean'",
        ),
        ({"split": ["seen"]}, "no split"),
        ({"split": "seen", "task": "room12"}, "split 'seen' of 'toy'"),
        ({"task": 1.0}, "no task 1.0"),
    ],
)
def test_unknown_task_or_option(options: dict[str, object], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        CorridorEnv().reset(options=options)


def test_a_split_is_drawn_from_for_one_episode() -> None:
    env = CorridorEnv()
    for options in ({"split": "long"}, {"split": "long", "task": "room12"}):
        _, info = env.reset(seed=1, options=options)
        assert info["task_id"] in corridor_tasks(split="long").ids
        assert info["split"] == "long"
        assert info["tasks_sha256"] == corridor_tasks(split="long").sha256
        assert env.step("east")[4]["split"] == "long"
    assert info["task_id"] == "room12"
    _, info = env.reset()
    assert (info["split"], info["tasks_sha256"]) == ("train", corridor_tasks().sha256)
    assert env.tasks.split == "train"


def test_a_snapshot_keeps_the_split() -> None:
    env, other = CorridorEnv(), CorridorEnv()
    env.reset(options={"split": "long", "task": 0})
    other.reset()
    _, info = other.restore(env.snapshot())
    assert (info["split"], info["task_id"]) == ("long", "room10")
    assert other.step("east") == env.step("east")


@pytest.mark.parametrize("options", [{"split": "sen"}, {"task": "room33"}, {"tusk": 0}])
def test_a_refused_reset_changes_nothing(options: dict[str, object]) -> None:
    env, twin = CorridorEnv(), CorridorEnv()
    for each in (env, twin):
        each.reset(seed=3, options={"task": "room6"})
        each.step("east")
    with pytest.raises(UnknownNameError):
        env.reset(seed=8, options=options)
    assert env.step("east") == twin.step("east")
    assert [env.reset()[1]["task_id"] for _ in range(5)] == [
        twin.reset()[1]["task_id"] for _ in range(5)
    ]


def test_one_task_set_is_all_splits_there_are() -> None:
    class Single(CorridorEnv):
        def __init__(self) -> None:
            TextEnv.__init__(self, corridor_tasks(split="seen"))

    env = Single()
    assert env.reset(options={"split": "seen"})[1]["split"] == "seen"
    with pytest.raises(UnknownNameError, match="Dataset 'toy' has 'seen' only"):
        env.reset(options={"split": "train"})


def test_an_empty_split_is_refused() -> None:
    sets = {"train": corridor_tasks(), "seen": corridor_tasks(0, "seen")}

    class Half(CorridorEnv):
        def __init__(self, split: str = "train") -> None:
            TextEnv.__init__(self, sets, split)

    with pytest.raises(ValueError, match=r"split='seen'.*has no task"):
        Half("seen")
    with pytest.raises(ValueError, match=r"split='seen'.*has no task"):
        Half().reset(options={"split": "seen"})


def test_reveal_adds_only_what_was_asked_for() -> None:
    assert "admissible_actions" not in CorridorEnv().reset()[1]
    env = CorridorEnv(reveal=("admissible_actions", "hidden_state"))
    info = env.reset()[1]
    assert info["admissible_actions"] == ["east", "west"]
    assert "expert_action" not in info
    assert env.step("east")[4]["hidden_state"] == {"position": 1}
    with pytest.raises(UnknownNameError, match="admissible_actions"):
        CorridorEnv(reveal=("admissible_action",))
    with pytest.raises(TypeError, match="collection"):
        CorridorEnv(reveal="admissible_actions")


def test_misuse() -> None:
    env = CorridorEnv()
    with pytest.raises(ResetNeeded):
        env.step("east")
    with pytest.raises(ResetNeeded):
        env.snapshot()
    env.reset()
    with pytest.raises(ActionTypeError, match="NoneType"):
        env.step(None)
    assert env.step("east")[4]["n_steps"] == 1  # a refused action costs no step


def test_caller_cannot_change_the_episode_through_info() -> None:
    env = CorridorEnv(shaping=("step_cost=0.5",))
    _, info = env.reset(options={"task": "room4"})
    info["score"] = 1.0
    info["reward_terms"]["step_cost"] = 7.0
    _, reward, _, _, info = env.step("east")
    assert reward == 0.25 - 0.5
    assert info["reward_terms"] == {"step_cost": -0.5}


def test_snapshot_continues_in_another_env_and_split() -> None:
    env = CorridorEnv(shaping=("repeat=0.5",))
    env.reset(seed=1)
    env.step("west")
    state = pickle.loads(pickle.dumps(env.snapshot()))
    expected = [env.step(a) for a in ("west", "east")], env.reset()[1]["task_id"]
    other = CorridorEnv(split="seen", shaping=("repeat=0.5",))
    other.restore(state)
    assert ([other.step(a) for a in ("west", "east")], other.reset()[1]["task_id"]) == expected


def test_restore_into_other_shaping_and_reveal() -> None:
    env = CorridorEnv()
    env.reset(seed=1)
    env.step("east")
    other = CorridorEnv(shaping=("step_cost=1",), reveal=("expert_action",))
    _, info = other.restore(env.snapshot())
    assert info["expert_action"] == "east"
    assert info["reward_terms"] == {"step_cost": 0.0}
    assert other.step("west")[1] == -1.0


def test_restore_refuses_what_is_not_its_own() -> None:
    env = CorridorEnv()
    env.reset()
    with pytest.raises(SnapshotError, match="not a snapshot"):
        env.restore({"position": 1})
    state = env.snapshot()
    other = CorridorEnv()
    other.tasks.fingerprint = "v2"
    with pytest.raises(SnapshotError, match="v2"):
        other.restore(state)


def test_render(capsys: pytest.CaptureFixture[str]) -> None:
    env = CorridorEnv(render_mode="ansi")
    observation, _ = env.reset()
    assert env.render() == observation
    observation = env.step("east")[0]
    assert env.render() == f"> east\n{observation}"
    env = CorridorEnv(render_mode="human")
    observation, _ = env.reset()
    assert env.render() is None
    assert capsys.readouterr().out == f"{observation}\n\n" * 2
    with pytest.raises(UnknownNameError, match="ansi"):
        CorridorEnv(render_mode="rgb_array")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_a_copy_goes_on_by_itself(copied: Any) -> None:
    env = gym.make(CORRIDOR, n=9, shaping=("repeat=1",))
    fresh = copied(env)
    assert fresh.spec == env.spec
    env.reset(seed=3)
    env.step("east")
    twin = copied(env)
    for _ in range(2):
        assert twin.step("west") == env.step("west")
    assert env.reset()[1]["task_id"] == twin.reset()[1]["task_id"]
    env.step("east")
    assert twin.unwrapped.snapshot().state != env.unwrapped.snapshot().state
