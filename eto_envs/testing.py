"""`check_text_env`: the contract of `eto_envs.core` as a test for any environment.

Third parties can run it on their own environments; all registered ids pass it. It checks what is
visible from outside (API, info, scores, determinism, snapshots), not whether the texts are correct.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded

from eto_envs.errors import ActionTypeError, EpisodeEndedError, UnknownNameError
from eto_envs.shaping import Info
from eto_envs.spaces import TextSpace
from eto_envs.tasks import TaskSet

INFO_TYPES: dict[str, type] = {
    "world": str,
    "task_id": str,
    "split": str,
    "dataset": str,
    "tasks_sha256": str,
    "goal": str,
    "score": float,
    "success": bool,
    "is_valid_action": bool,
    "n_steps": int,
    "task_reward": float,
    "reward_terms": dict,
}
"""The keys of every info, with their types."""


class ConformanceError(AssertionError):
    """An environment violates the contract; the message states the rule."""


def check_text_env(
    make: Callable[[], gym.Env[str, str]],
    *,
    n_episodes: int = 4,
    seed: int = 0,
    choose: Callable[[str, Info, np.random.Generator], str] | None = None,
) -> None:
    """Check an environment against the contract.

    Args:
        make: makes a new environment; called a few times.
        n_episodes: the number of episodes to play.
        seed: seeds the choice of tasks and actions.
        choose: picks an action given the observation, info and a generator. By default a random
            one of ``info["admissible_actions"]`` if these are revealed, else random text: reveal
            them, or pass a function of your own, to get beyond the first observation.

    Raises:
        ConformanceError: a rule is violated.
    """
    choose = choose or _choose
    env = make()
    try:
        _check_before_reset(env)
        for episode in range(n_episodes):
            _check_episode(env, seed + episode, choose)
        _check_determinism(env, make, seed, choose)
        _check_task_choice(env)
        _check_split_choice(env, seed)
    finally:
        env.close()


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise ConformanceError(rule)


def _choose(observation: str, info: Info, rng: np.random.Generator) -> str:
    admissible = info.get("admissible_actions")
    if admissible:
        return str(admissible[int(rng.integers(len(admissible)))])
    return "".join(chr(int(c)) for c in rng.integers(32, 127, size=8))


def _check_before_reset(env: gym.Env[str, str]) -> None:
    for name, space in (("observation", env.observation_space), ("action", env.action_space)):
        _require(isinstance(space, TextSpace), f"{name}_space must be a TextSpace, is {space!r}")
    world = getattr(env.unwrapped, "world", None)
    _require(isinstance(world, str) and world != "", f"world must be a name, is {world!r}")
    tasks = getattr(env.unwrapped, "tasks", None)
    _require(isinstance(tasks, TaskSet), "env.unwrapped.tasks must be a TaskSet")
    task_sets = getattr(env.unwrapped, "task_sets", None)
    fits = isinstance(task_sets, Mapping) and tasks in task_sets.values()
    _require(fits, "tasks must be one of env.unwrapped.task_sets, a mapping by split")
    try:
        env.unwrapped.step("look")
    except ResetNeeded:
        return
    raise ConformanceError("step before reset must raise gymnasium.error.ResetNeeded")


def _check_info(info: Info, first: Info | None) -> None:
    for key, kind in INFO_TYPES.items():
        _require(key in info, f"info has no {key!r}")
        ok = type(info[key]) is kind
        _require(ok, f"info[{key!r}] must be {kind.__name__}, is {type(info[key]).__name__}")
    _require(0.0 <= info["score"] <= 1.0, f"score must be in [0, 1], is {info['score']}")
    if first is not None:
        _require(info.keys() == first.keys(), "info must have the same keys at reset and step")
        for key in ("world", "task_id", "split", "dataset", "tasks_sha256", "goal"):
            _require(info[key] == first[key], f"info[{key!r}] must not change in an episode")
        same = info["reward_terms"].keys() == first["reward_terms"].keys()
        _require(same, "reward_terms must have the same names at reset and step")


def _check_episode(env: gym.Env[str, str], seed: int, choose: Any) -> None:
    rng = np.random.default_rng(seed)
    observation, first = env.reset(seed=seed)
    fits = env.observation_space.contains(observation)
    _require(fits, "the observation of reset must be in the space")
    _check_info(first, None)
    fits = first["world"] == env.get_wrapper_attr("world")
    _require(fits, "info['world'] must be the environment's world")
    fits = first["n_steps"] == 0 and first["score"] == 0.0
    _require(fits, "an episode must start with n_steps 0 and score 0")
    _check_bad_action(env)
    info, total, steps = first, 0.0, 0
    while True:
        if steps in (1, 2, 4):
            _check_snapshot(env, lambda text, info: choose(text, info, rng), observation, info)
        action = choose(observation, info, rng)
        observation, reward, terminated, truncated, info = env.step(action)
        steps += 1
        _require(env.observation_space.contains(observation), "observations must be in the space")
        _require(isinstance(reward, float), f"a reward must be a float, is {reward!r}")
        _check_info(info, first)
        _require(info["n_steps"] == steps, "n_steps must be the number of steps")
        terms = sum(info["reward_terms"].values())
        fits = math.isclose(reward, info["task_reward"] + terms, abs_tol=1e-9)
        _require(fits, "the reward must be task_reward plus reward_terms")
        total += info["task_reward"]
        fits = type(terminated) is bool and type(truncated) is bool
        _require(fits, "terminated and truncated must be bool")
        _require(not (terminated and truncated), "terminated and truncated must not both be true")
        if terminated or truncated:
            break
    fits = math.isclose(total, info["score"], abs_tol=1e-9)
    _require(fits, f"task rewards sum to {total}, the score is {info['score']}")
    _check_after_end(env)


def _check_bad_action(env: gym.Env[str, str]) -> None:
    for action in (None, 3, b"look", ["look"]):
        try:
            env.unwrapped.step(action)  # type: ignore[arg-type]
        except ActionTypeError:
            continue
        raise ConformanceError(f"step({action!r}) must raise ActionTypeError")


def _check_after_end(env: gym.Env[str, str]) -> None:
    try:
        env.unwrapped.step("look")
    except EpisodeEndedError:
        return
    raise ConformanceError("step after the end must raise EpisodeEndedError")


def _check_snapshot(env: gym.Env[str, str], choose: Any, observation: str, info: Info) -> None:
    """Continue twice from the same point: directly, and after restoring a pickled snapshot."""
    inner: Any = env.unwrapped
    state = inner.snapshot()
    actions: list[str] = []
    texts: list[tuple[str, bool, bool, Info]] = []
    ended = False
    while not ended and len(actions) < 5:
        actions.append(choose(observation, info))
        observation, _, terminated, truncated, info = inner.step(actions[-1])
        texts.append((observation, terminated, truncated, info))
        ended = terminated or truncated
    inner.restore(pickle.loads(pickle.dumps(state)))  # noqa: S301 (pickled on the same line)
    for action, expected in zip(actions, texts, strict=True):
        observation, _, terminated, truncated, info = inner.step(action)
        same = (observation, terminated, truncated, info) == expected
        _require(same, "after restore, the same actions must give the same steps")
    inner.restore(state)


def _check_determinism(env: gym.Env[str, str], make: Any, seed: int, choose: Any) -> None:
    other = make()
    try:
        runs = [_play(e, seed, choose) for e in (env, other)]
    finally:
        other.close()
    _require(runs[0] == runs[1], "the same seed and actions must give the same episode")


def _play(env: gym.Env[str, str], seed: int, choose: Any) -> list[Any]:
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    record: list[Any] = [(observation, info)]
    ended = False
    while not ended:
        step = env.step(choose(observation, info, rng))
        observation, _, terminated, truncated, info = step
        record.append(step)
        ended = terminated or truncated
    return record


def _check_task_choice(env: gym.Env[str, str]) -> None:
    tasks: TaskSet = env.unwrapped.tasks  # type: ignore[attr-defined]
    _require(len(set(tasks.ids)) == len(tasks), "task ids must be unique")
    _, by_position = env.reset(options={"task": len(tasks) - 1})
    _, by_id = env.reset(options={"task": tasks.ids[-1]})
    fits = by_position["task_id"] == by_id["task_id"] == tasks.ids[-1]
    _require(fits, "options={'task': …} must pick the task by id and by position")
    _require(tasks[len(tasks) - 1].id == tasks.ids[-1], "tasks[i].id must be tasks.ids[i]")


def _check_split_choice(env: gym.Env[str, str], seed: int) -> None:
    """Check that reset takes any split, for one episode, and rejects unknown names."""
    inner: Any = env.unwrapped
    own = inner.tasks.split
    for split, tasks in inner.task_sets.items():
        if len(tasks) == 0:
            continue
        _, drawn = env.reset(seed=seed, options={"split": split})
        _require(drawn["task_id"] in tasks, "options={'split': …} must draw from that split")
        _, picked = env.reset(options={"split": split, "task": 0})
        fits = picked["task_id"] == tasks.ids[0]
        _require(fits, "options={'split': …, 'task': …} must pick the task from that split")
        for info in (drawn, picked):
            fits = (info["split"], info["tasks_sha256"]) == (split, tasks.sha256)
            _require(fits, "info must have the split chosen at reset, and its hash")
    _, info = env.reset()
    _require(info["split"] == own, "a split chosen at reset must apply to one episode only")
    env.reset(seed=seed)
    expected = inner.step("look"), env.reset()[1]["task_id"]
    env.reset(seed=seed)
    for options in ({"split": "no such split"}, {"task": "no such task"}, {"tusk": 0}):
        try:
            inner.reset(seed=seed + 1, options=options)
        except UnknownNameError:
            continue
        raise ConformanceError(f"reset(options={options}) must raise UnknownNameError")
    same = (inner.step("look"), env.reset()[1]["task_id"]) == expected
    _require(same, "a rejected reset must not change the episode or the generator")
