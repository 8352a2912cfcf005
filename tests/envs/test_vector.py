"""Vector environments: ours equals Gymnasium's, groups share tasks, ragged batches work."""

from __future__ import annotations

import gc
import pickle
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from eto_envs.errors import ActionTypeError, EpisodeEndedError, EtoError, UnknownNameError
from eto_envs.vector import TextVectorEnv
from tests.toy import CORRIDOR, CorridorEnv

MODES = list(AutoresetMode)


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


def drive(env: Any, mode: AutoresetMode, n_steps: int = 40) -> list[Any]:
    rng = np.random.default_rng(0)
    record: list[Any] = [env.reset(seed=5)]
    for _ in range(n_steps):
        actions = tuple(str(a) for a in rng.choice(["east", "east", "west", "jump"], size=3))
        record.append(env.step(actions))
        ended = record[-1][2] | record[-1][3]
        if mode is AutoresetMode.DISABLED and ended.any():
            record.append(env.reset(options={"reset_mask": ended}))
    env.close()
    return record


@pytest.mark.parametrize("mode", MODES)
def test_equals_gymnasiums_sync_vector_env(mode: AutoresetMode) -> None:
    makers = [lambda: CorridorEnv(shaping=("step_cost",))] * 3
    ours = TextVectorEnv(CorridorEnv, 3, autoreset_mode=mode, shaping=("step_cost",))
    theirs = SyncVectorEnv(makers, autoreset_mode=mode)
    assert ours.observation_space == theirs.observation_space
    for a, b in zip(drive(ours, mode), drive(theirs, mode), strict=True):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_async_workers_give_the_same(context: str) -> None:
    def reset_and_step(env: Any) -> tuple[Any, ...]:
        texts = env.reset(seed=5)[0], env.step(("east", "west", "é"))[0]
        env.close()
        return texts

    makers = [CorridorEnv] * 3
    ours = reset_and_step(TextVectorEnv(CorridorEnv, 3))
    assert reset_and_step(AsyncVectorEnv(makers, shared_memory=False, context=context)) == ours


def test_shared_memory_is_refused_loudly() -> None:
    with pytest.raises(ValueError, match="shared_memory=False"):
        AsyncVectorEnv([CorridorEnv], shared_memory=True)


def test_make_vec_gives_ours_by_default() -> None:
    env = gym.make_vec(CORRIDOR, num_envs=4, group_size=2, autoreset_mode="Disabled", max_steps=3)
    assert isinstance(env.unwrapped, TextVectorEnv)
    assert env.unwrapped.envs[0].max_steps == 3
    env.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_groups_share_their_kth_task(mode: AutoresetMode) -> None:
    env = TextVectorEnv(CorridorEnv, 6, group_size=3, autoreset_mode=mode, n=12)
    rng = np.random.default_rng(1)
    _, infos = env.reset(seed=2)
    played: list[list[str]] = [[task] for task in infos["task_id"]]
    for _ in range(120):
        *_, infos = env.step([str(a) for a in rng.choice(["east", "west"], size=6)])
        for i in range(6):
            if infos["_n_steps"][i] and infos["n_steps"][i] == 0:
                played[i].append(infos["task_id"][i])
    for group in (played[:3], played[3:]):
        shortest = min(len(tasks) for tasks in group)
        assert shortest > 2
        assert group[0][:shortest] == group[1][:shortest] == group[2][:shortest]
    assert played[0][:3] != played[3][:3]


def test_actions_are_announced_before_the_first_is_carried_out() -> None:
    log: list[str] = []

    class Announced(CorridorEnv):
        def send(self, action: str) -> None:
            log.append(f"send {action}")

        def _advance(self, action: str) -> Any:
            log.append(f"step {action}")
            return super()._advance(action)

    env = TextVectorEnv(Announced, 3, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    env.step(("east", None, "west"))
    assert log == ["send east", "send west", "step east", "step west"]


def test_tasks_option() -> None:
    env = TextVectorEnv(CorridorEnv, 4, group_size=2)
    ids = ["room3", "room4", "room5", "room6"]
    assert list(env.reset(options={"tasks": ids})[1]["task_id"]) == ids
    assert list(env.reset(options={"tasks": [0, 1]})[1]["task_id"]) == ["room2"] * 2 + ["room3"] * 2
    assert set(env.reset(options={"task": 2})[1]["task_id"]) == {"room4"}
    mask = np.array([False, True, False, False])
    _, infos = env.reset(options={"reset_mask": mask, "tasks": ["room6"]})
    assert infos["task_id"][1] == "room6"
    assert list(infos["_task_id"]) == list(mask)


def test_split_option() -> None:
    env = TextVectorEnv(CorridorEnv, 4, group_size=2, autoreset_mode=AutoresetMode.SAME_STEP)
    _, infos = env.reset(seed=1, options={"split": "long"})
    long = [f"room{i}" for i in range(10, 15)]
    assert set(infos["split"]) == {"long"}
    assert set(infos["task_id"]) <= set(long)
    assert infos["task_id"][0] == infos["task_id"][1]
    _, infos = env.reset(options={"split": "long", "tasks": ["room12", 0]})
    assert list(infos["task_id"]) == ["room12"] * 2 + ["room10"] * 2
    for _ in range(12):
        *_, infos = env.step(["east"] * 4)
    assert set(infos["split"]) == {"train"}  # what autoreset begins is of the environment's split
    assert infos["task_id"][0] == infos["task_id"][1]


def test_split_option_equals_gymnasiums_sync_vector_env() -> None:
    ours, theirs = TextVectorEnv(CorridorEnv, 3), SyncVectorEnv([CorridorEnv] * 3)
    for options in ({"split": "long"}, {"split": "long", "task": 3}, None):
        a, b = (env.reset(seed=5, options=options) for env in (ours, theirs))
        assert a[0] == b[0]
        assert_same(a[1], b[1])


@pytest.mark.parametrize(
    "options", [{"split": "lon"}, {"tasks": ["room2", "room33"]}, {"task": 99}, {"tusk": 0}]
)
def test_a_refused_reset_changes_nothing(options: dict[str, Any]) -> None:
    env, twin = TextVectorEnv(CorridorEnv, 2), TextVectorEnv(CorridorEnv, 2)
    for each in (env, twin):
        each.reset(seed=3)
        each.step(("east", "east"))
    with pytest.raises(UnknownNameError):
        env.reset(seed=9, options=options)
    for _ in range(30):
        ours, theirs = (each.step(("east", "east")) for each in (env, twin))
        assert ours[0] == theirs[0]
        assert_same(ours[4], theirs[4])


@pytest.mark.parametrize("mode", MODES)
def test_gymnasiums_step_limit_in_make_vec(mode: AutoresetMode) -> None:
    kwargs = {"num_envs": 3, "max_episode_steps": 4, "shaping": ("step_cost",)}
    ours = gym.make_vec(CORRIDOR, autoreset_mode=mode, **kwargs)
    vector_kwargs = {"autoreset_mode": mode}
    theirs = gym.make_vec(
        CORRIDOR, vectorization_mode="sync", vector_kwargs=vector_kwargs, **kwargs
    )
    runs = drive(ours, mode), drive(theirs, mode)
    assert any(step[3].any() for step in runs[0] if len(step) == 5)
    for a, b in zip(*runs, strict=True):
        if len(b) == 5:  # Gymnasium's wrapper truncates also where the task has ended
            b = (*b[:3], b[3] & ~b[2], b[4])
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)


def test_gymnasiums_step_limit_ends_the_episode() -> None:
    kwargs = {"autoreset_mode": AutoresetMode.DISABLED, "shaping": ("terminal_only",)}
    env = TextVectorEnv(CorridorEnv, 1, max_episode_steps=2, **kwargs)
    env.reset(options={"task": "room6"})
    assert env.step(("east",))[1] == [0.0]
    _, rewards, _, truncated, infos = env.step(("east",))
    assert truncated
    assert rewards[0] == infos["score"][0] == 2 / 6  # the shaper sees the end, too
    with pytest.raises(EpisodeEndedError, match="room6"):
        env.step(("east",))
    twin = pickle.loads(pickle.dumps(env.envs[0]))
    twin.reset()
    assert [twin.step("west")[3] for _ in range(2)] == [False, True]


@pytest.mark.parametrize(("limit", "n_steps"), [(None, 12), (-1, 12), (99, 12), (5, 5)])
def test_gymnasiums_step_limit_only_lowers_the_others(limit: int | None, n_steps: int) -> None:
    env = gym.make_vec(CORRIDOR, num_envs=1, autoreset_mode="Disabled", max_episode_steps=limit)
    env.reset(options={"task": "room6"})
    ends = [bool(env.step(("west",))[3][0]) for _ in range(n_steps)]
    assert ends == [False] * (n_steps - 1) + [True]


def test_none_leaves_a_finished_episode_alone() -> None:
    env = TextVectorEnv(CorridorEnv, 2, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(options={"tasks": ["room2", "room6"]})
    env.step(("east", "east"))
    texts, *_ = env.step(("east", "east"))
    again, rewards, terminated, truncated, infos = env.step((None, "east"))
    assert again[0] == texts[0]
    assert (rewards[0], terminated[0], truncated[0], infos["_score"][0]) == (
        0.0,
        True,
        False,
        False,
    )
    assert infos["n_steps"][1] == 3
    with pytest.raises(EpisodeEndedError, match="room2"):
        env.step(("east", "east"))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e: e.reset(options={"tasks": ["room2"] * 3}), ValueError, "3 tasks for 2"),
        (lambda e: e.reset(options={"taks": []}), UnknownNameError, "tasks"),
        (lambda e: e.reset(options={"reset_mask": [1, 0]}), ValueError, "bool array"),
        (lambda e: e.reset(seed=[1]), ValueError, "1 seeds"),
        (lambda e: e.step(("east",)), ValueError, "1 actions"),
        (lambda e: e.step((None, "east")), ActionTypeError, "NoneType"),
        (lambda e: TextVectorEnv(CorridorEnv, 0), ValueError, "num_envs"),
        (lambda e: TextVectorEnv(CorridorEnv, 3, group_size=2), ValueError, "group_size"),
        (lambda e: TextVectorEnv(CorridorEnv, max_episode_steps=0), ValueError, "max_episode"),
    ],
)
def test_misuse(call: Any, error: type[Exception], message: str) -> None:
    env = TextVectorEnv(CorridorEnv, 2)
    env.reset(seed=0)
    with pytest.raises(error, match=message):
        call(env)


@pytest.mark.parametrize(
    ("env_id", "arguments"),
    [
        ("ETO-WebShop-v0", {"dataset": "mini", "split": "nowhere"}),
        ("ETO-WebShop-v0", {"dataset": "mini", "gols": "human"}),
        ("ETO-WebShop-v0", {"dataset": "mini", "num_envs": 0}),
        ("ETO-WebShop-v0", {"dataset": "mini", "num_envs": "3"}),
        ("ETO-WebShop-v0", {"dataset": "mini", "max_episode_steps": 0}),
        ("ETO-ALFWorld-v0", {"dataset": "/nowhere/at/all"}),
        (CORRIDOR, {"autoreset_mode": "Sometimes"}),
        (CORRIDOR, {"vectorization_mode": "sync", "split": "nowhere"}),
    ],
)
def test_a_make_vec_that_fails_leaves_nothing(
    env_id: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ignored: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises((ValueError, TypeError, EtoError)):
        gym.make_vec(env_id, **({"num_envs": 2} | arguments))
    gc.collect()
    assert ignored == []


def test_a_subclass_that_fails_before_ours_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(TextVectorEnv):
        def __init__(self) -> None:
            raise RuntimeError("too early")

    ignored: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises(RuntimeError, match="too early"):
        Broken()
    gc.collect()
    assert ignored == []


def test_environments_that_were_made_are_closed_when_a_later_one_fails() -> None:
    made: list[Any] = []

    class Third(CorridorEnv):
        is_closed = False

        def __init__(self, **kwargs: Any) -> None:
            if len(made) == 2:
                raise RuntimeError("no third")
            super().__init__(**kwargs)
            made.append(self)

        def close(self) -> None:
            self.is_closed = True

    with pytest.raises(RuntimeError, match="no third"):
        TextVectorEnv(Third, 3)
    assert [env.is_closed for env in made] == [True, True]


@pytest.mark.parametrize("env_id", ["ETO-WebShop-v0", "ETO-ALFWorld-v0"])
@pytest.mark.parametrize("mode", [None, "sync"])
def test_gymnasiums_step_limit_in_every_world(env_id: str, mode: str | None) -> None:
    env = gym.make_vec(
        env_id, num_envs=2, dataset="mini", max_episode_steps=3, vectorization_mode=mode
    )
    env.reset(seed=0)
    ends = [env.step(["look", "look"])[3].tolist() for _ in range(3)]
    assert ends == [[False] * 2, [False] * 2, [True] * 2]
    env.close()
