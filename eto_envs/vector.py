"""`TextVectorEnv`: many episodes of one world in one process, in lockstep.

Text worlds of this library are cheap and share their data, so one process steps hundreds of them
faster than worker processes could send the text. Gymnasium's `SyncVectorEnv` and
`AsyncVectorEnv(shared_memory=False)` work as well; this class adds groups, a task for each
sub-environment and skipping finished episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from eto_envs.core import TextEnv
from eto_envs.errors import UnknownNameError
from eto_envs.shaping import Info
from eto_envs.tasks import Task

Texts = tuple[str, ...]
Bools = npt.NDArray[np.bool_]
StepResult = tuple[Texts, npt.NDArray[np.float64], Bools, Bools, dict[str, Any]]


class TextVectorEnv(VectorEnv[Texts, Sequence[str | None], np.ndarray]):
    """`num_envs` text environments stepped one after another.

    Observations are tuples of `num_envs` `str`, rewards float64 and ends bool arrays of shape
    ``(num_envs,)``, infos Gymnasium's dict of arrays with ``_key`` masks.

    Autoreset modes are Gymnasium's. Under ``DISABLED`` finished sub-environments wait for
    ``reset(options={"reset_mask": mask})``; until then give them the action `None`: they are
    left alone, keep their last observation and end flags, and get reward 0.

    With ``group_size=G`` every G neighbours play the same task (for group baselines and
    Best-of-N); the group's k-th episodes share the k-th task.
    """

    def __init__(
        self,
        make_env: Callable[..., TextEnv],
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        group_size: int = 1,
        **kwargs: Any,
    ) -> None:
        """Make the sub-environments.

        Args:
            make_env: makes one; called `num_envs` times with `kwargs`.
            num_envs: how many, at least 1.
            autoreset_mode: `AutoresetMode` or its value ``"NextStep"``, ``"SameStep"``,
                ``"Disabled"``.
            group_size: neighbours that share their tasks; must divide `num_envs`.
            **kwargs: for `make_env`.

        Raises:
            ValueError: a number does not fit.
        """
        self.envs: list[TextEnv] = []  # first: a `__del__` closes them, whatever is raised below
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        if group_size < 1 or num_envs % group_size:
            raise ValueError(f"group_size {group_size} must divide num_envs {num_envs}")
        self.num_envs = num_envs
        self.group_size = group_size
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.envs = [make_env(**kwargs) for _ in range(num_envs)]
        first = self.envs[0]
        self.metadata = {**first.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = first.render_mode
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(first.observation_space, num_envs)
        self.action_space = batch_space(first.action_space, num_envs)
        self._observations = [""] * num_envs
        self._terminated = np.zeros(num_envs, np.bool_)
        self._truncated = np.zeros(num_envs, np.bool_)
        self._forget_groups()

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Texts, dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: one for each sub-environment, or `s` for `s, s+1, …`.
            options: ``"reset_mask"``, bool array of shape ``(num_envs,)``: only these;
                ``"tasks"``: an id or position for each sub-environment that is reset, or for
                each group; ``"task"``: the same for all.

        Raises:
            UnknownNameError: an unknown option or task.
            ValueError: a length or shape does not fit.
        """
        options = dict(options or {})
        chosen = self._chosen(options.pop("reset_mask", None))
        tasks = self._given_tasks(options, len(chosen))
        if len(chosen) == self.num_envs:
            self._forget_groups()
        if seed is None or isinstance(seed, (int, np.integer)):
            seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        for i in chosen:
            if seeds[i] is not None:
                gym.Env.reset(self.envs[i], seed=seeds[i])
        infos: dict[str, Any] = {}
        for position, i in enumerate(chosen):
            task = tasks[position] if tasks else self._next_task(i)
            infos = self._add_info(infos, self._begin(i, task), i)
        return tuple(self._observations), infos

    def step(self, actions: Sequence[str | None]) -> StepResult:
        """Do one action in each sub-environment.

        Args:
            actions: `num_envs` of them; `None` only under ``DISABLED`` and leaves that
                sub-environment alone.

        Raises:
            EpisodeEndedError: under ``DISABLED``, an action for a finished episode.
        """
        if len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions for {self.num_envs} environments")
        rewards = np.zeros(self.num_envs, np.float64)
        infos: dict[str, Any] = {}
        begun_anew: list[int] = []
        for i, action in enumerate(actions):
            if action is None and self.autoreset_mode is AutoresetMode.DISABLED:
                continue
            ended = self._terminated[i] or self._truncated[i]
            if ended and self.autoreset_mode is AutoresetMode.NEXT_STEP:
                infos = self._add_info(infos, self._begin(i, self._next_task(i)), i)
                continue
            text, reward, done, cut, info = self.envs[i].step(action)  # type: ignore[arg-type]
            self._observations[i], rewards[i] = text, reward
            if (done or cut) and self.autoreset_mode is AutoresetMode.SAME_STEP:
                infos = self._add_info(infos, {"final_obs": text, "final_info": info}, i)
                info = self._begin(i, self._next_task(i))
                begun_anew.append(i)
            self._terminated[i], self._truncated[i] = done, cut
            infos = self._add_info(infos, info, i)
        terminated, truncated = self._terminated.copy(), self._truncated.copy()
        self._terminated[begun_anew] = self._truncated[begun_anew] = False
        return tuple(self._observations), rewards, terminated, truncated, infos

    def render(self) -> tuple[Any, ...] | None:
        """What each sub-environment renders."""
        return tuple(env.render() for env in self.envs)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every sub-environment, or read an attribute."""
        values = (getattr(env, name) for env in self.envs)
        return tuple(v(*args, **kwargs) if callable(v) else v for v in values)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the sub-environments."""
        for env in self.envs:
            env.close()

    def _begin(self, i: int, task: Any) -> Info:
        self._observations[i], info = self.envs[i].reset(options={"task": task})
        self._terminated[i] = self._truncated[i] = False
        return info

    def _forget_groups(self) -> None:
        n_groups = self.num_envs // self.group_size
        self._drawn: list[list[Task]] = [[] for _ in range(n_groups)]
        self._n_begun = [0] * self.num_envs

    def _next_task(self, i: int) -> Task:
        """The next task of sub-environment `i`: drawn once for its whole group."""
        group = i // self.group_size
        drawn = self._drawn[group]
        if self._n_begun[i] == len(drawn):
            drawn.append(self.envs[group * self.group_size].draw_task())
        task = drawn[self._n_begun[i]]
        self._n_begun[i] += 1
        return task

    def _chosen(self, mask: Any) -> list[int]:
        if mask is None:
            return list(range(self.num_envs))
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(
                f"reset_mask must be a bool array of shape ({self.num_envs},) with a True in it, "
                f"got {mask!r}"
            )
        return [int(i) for i in np.flatnonzero(mask)]

    def _given_tasks(self, options: dict[str, Any], n_chosen: int) -> list[Any] | None:
        for name in options:
            if name not in ("task", "tasks"):
                raise UnknownNameError("reset option", name, ("task", "tasks", "reset_mask"))
        if options.get("task") is not None:
            return [options["task"]] * n_chosen
        tasks = options.get("tasks")
        if tasks is None:
            return None
        tasks = list(tasks)
        if len(tasks) * self.group_size == n_chosen:
            tasks = [task for task in tasks for _ in range(self.group_size)]
        if len(tasks) != n_chosen:
            raise ValueError(f"{len(tasks)} tasks for {n_chosen} environments to reset")
        return tasks
