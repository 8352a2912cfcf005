"""The table of environment ids, and the task sets of an id.

Entry points are strings, so that registering an environment does not import it.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator

from eto_envs.core import TextEnv
from eto_envs.tasks import TaskSet, find_task_set

_ENVIRONMENTS = {
    "ETO-ALFWorld-v0": (
        "eto_envs.alfworld.env:ALFWorldEnv",
        "eto_envs.alfworld.env:make_vector_env",
    ),
    "ETO-ScienceWorld-v0": (
        "eto_envs.scienceworld.env:ScienceWorldEnv",
        "eto_envs.scienceworld.env:make_vector_env",
    ),
    "ETO-WebShopBrowser-v0": (
        "eto_envs.webshop.browser.env:WebShopBrowserEnv",
        "eto_envs.webshop.browser.env:make_vector_env",
    ),
    "ETO-WebShop-v0": ("eto_envs.webshop.env:WebShopEnv", "eto_envs.webshop.env:make_vector_env"),
}

IDS = tuple(_ENVIRONMENTS)
"""The ids that `import eto_envs` registers."""


def register_all() -> None:
    """Register all ids that are not registered yet."""
    for env_id, (entry_point, vector_entry_point) in _ENVIRONMENTS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=entry_point, vector_entry_point=vector_entry_point)


def find_env(env_id: str) -> tuple[EnvSpec, Any]:
    """What an id stands for: its spec, and the class or function that makes its environments.

    Args:
        env_id: a registered id, or ``"module:id"``.

    Raises:
        gymnasium.error.Error: there is no such id.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    spec = gym.spec(name)
    entry_point = spec.entry_point
    return spec, load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point


def task_set(env_id: str, split: str, dataset: str | None = None, **env_args: Any) -> TaskSet:
    """The task set of a split, without making an environment.

    Args:
        env_id: as in `task_sets`.
        split: the split.
        dataset: as in `task_sets`.
        **env_args: as in `task_sets`.

    Raises:
        gymnasium.error.Error: there is no such id.
        UnknownNameError: the dataset has no such split.
        EtoError: as raised by `task_sets`.
    """
    return find_task_set(task_sets(env_id, dataset, **env_args), split)


def task_sets(env_id: str, dataset: str | None = None, **env_args: Any) -> dict[str, TaskSet]:
    """The task sets of a dataset by split, without making an environment.

    Args:
        env_id: a registered id, or ``"module:id"``.
        dataset: a dataset's name or path, as `gym.make` takes it; None for the id's default.
        **env_args: further arguments for `gym.make`, some of which select other tasks, such as
            ``goals="synthetic"``.

    Raises:
        gymnasium.error.Error: there is no such id.
        TypeError: the environment takes no such argument.
        EtoError: as raised by the environment's constructor.
    """
    spec, kind = find_env(env_id)
    env_args = {**spec.kwargs, **env_args}
    if dataset is not None:
        env_args["dataset"] = dataset
    if isinstance(kind, type) and issubclass(kind, TextEnv):
        inspect.signature(kind.__init__).bind(None, **env_args)  # TypeError as in the constructor
        return dict(kind.find_task_sets(**env_args))
    # The entry point is a function: the class is only known once it has made an environment.
    env = gym.make(spec, **env_args)
    try:
        return dict(env.get_wrapper_attr("task_sets"))
    finally:
        env.close()
