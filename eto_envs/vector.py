"""`TextVectorEnv`: many episodes of one world in one process.

The text worlds of this library are cheap and share their data, so one process steps hundreds of
them faster than worker processes could send the text. Gymnasium's `SyncVectorEnv` and
`AsyncVectorEnv(shared_memory=False)` work as well; this class adds groups, a choice of task for
each sub-environment and the skipping of finished episodes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from eto_envs.core import TextEnv, check_limit
from eto_envs.errors import UnknownNameError
from eto_envs.shaping import Info
from eto_envs.tasks import Task

Texts = tuple[str, ...]
Bools = npt.NDArray[np.bool_]
StepResult = tuple[Texts, npt.NDArray[np.float64], Bools, Bools, dict[str, Any]]

_RESET_OPTIONS = ("split", "task", "tasks", "reset_mask")


class TextVectorEnv(VectorEnv[Texts, Sequence[str | None], np.ndarray]):
    """`num_envs` text environments stepped one after another.

    Every action is announced (`TextEnv.send`) before the first is carried out, so that worlds with
    a simulator process work on them in parallel.

    Observations are tuples of `num_envs` strings; rewards are float64 and `terminated` and
    `truncated` bool arrays of shape ``(num_envs,)``; infos are Gymnasium's dict of arrays with
    ``_key`` masks.

    The autoreset modes are Gymnasium's. In mode ``DISABLED``, finished sub-environments wait for
    ``reset(options={"reset_mask": mask})``. Pass them the action `None` until then: they are not
    stepped, keep their last observation and end flags, and get reward 0.

    With ``group_size=G``, each group of G neighbours plays the same tasks (for group baselines and
    Best-of-N): the k-th episodes of a group share the k-th task.
    """

    envs: list[TextEnv] = []  # noqa: RUF012 (`__del__` closes them, even if `__init__` did not run)

    def __init__(
        self,
        make_env: Callable[..., TextEnv],
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        group_size: int = 1,
        max_episode_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Make the sub-environments.

        Args:
            make_env: makes a sub-environment; called `num_envs` times with `kwargs`.
            num_envs: the number of sub-environments, at least 1.
            autoreset_mode: an `AutoresetMode` or its value: ``"NextStep"``, ``"SameStep"`` or
                ``"Disabled"``.
            group_size: the number of neighbours that share their tasks; must divide `num_envs`.
            max_episode_steps: Gymnasium's step limit, as passed by `gym.make_vec`. It can truncate
                an episode earlier than the task's own limit but not later (`max_steps` can do
                both). None or -1 for no such limit.
            **kwargs: keyword arguments of `make_env`.

        Raises:
            ValueError: `num_envs`, `group_size` or `max_episode_steps` is out of range.
        """
        self.envs = []
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        if group_size < 1 or num_envs % group_size:
            raise ValueError(f"group_size {group_size} must divide num_envs {num_envs}")
        self.num_envs = num_envs
        self.group_size = group_size
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        if max_episode_steps == -1:  # Gymnasium's way to say "no limit"
            max_episode_steps = None
        if max_episode_steps is not None:
            max_episode_steps = check_limit("max_episode_steps", max_episode_steps)
        try:
            for _ in range(num_envs):
                self.envs.append(make_env(**kwargs))
        except BaseException:
            self.close()  # those that were made; a browser would go on
            raise
        for env in self.envs:
            env.max_episode_steps = max_episode_steps
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
            seed: a seed for each sub-environment, or `s` for `s, s+1, …`.
            options: ``"reset_mask"``, a bool array of shape ``(num_envs,)``, selects the
                sub-environments to reset; ``"tasks"`` has an id or position for each of them, or
                for each group; ``"task"`` is the same for all of them; ``"split"`` takes their
                tasks from another split (later autoresets use the environments' own split again).

        Raises:
            UnknownNameError: an unknown option, split or task. Nothing has been reset.
            ValueError: a length or shape does not match. Nothing has been reset.
        """
        options = dict(options or {})
        for name in options:
            if name not in _RESET_OPTIONS:
                raise UnknownNameError("reset option", name, _RESET_OPTIONS)
        chosen = self._chosen(options.get("reset_mask"))
        seeds = self._seeds(seed)
        split = options.get("split")
        tasks = self._given_tasks(options, chosen)
        if len(chosen) == self.num_envs:
            self._forget_groups()
        for i in chosen:
            if seeds[i] is not None:
                gym.Env.reset(self.envs[i], seed=seeds[i])
        infos: dict[str, Any] = {}
        for position, i in enumerate(chosen):
            task = tasks[position] if tasks else self._next_task(i, split)
            infos = self._add_info(infos, self._begin(i, task, split), i)
        return tuple(self._observations), infos

    def step(self, actions: Sequence[str | None]) -> StepResult:
        """Carry out one action in each sub-environment.

        Args:
            actions: `num_envs` actions. `None` skips a sub-environment, in mode ``DISABLED`` only.

        Raises:
            EpisodeEndedError: in mode ``DISABLED``, an action for a finished episode.
        """
        if len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions for {self.num_envs} environments")
        for env, action in zip(self.envs, actions, strict=True):
            if isinstance(action, str):
                env.send(action)
        rewards = np.zeros(self.num_envs, np.float64)
        infos: dict[str, Any] = {}
        autoreset: list[int] = []
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
                autoreset.append(i)
            self._terminated[i], self._truncated[i] = done, cut
            infos = self._add_info(infos, info, i)
        terminated, truncated = self._terminated.copy(), self._truncated.copy()
        self._terminated[autoreset] = self._truncated[autoreset] = False
        return tuple(self._observations), rewards, terminated, truncated, infos

    def render(self) -> tuple[Any, ...] | None:
        """The rendering of each sub-environment."""
        return tuple(env.render() for env in self.envs)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every sub-environment, or read an attribute."""
        values = (getattr(env, name) for env in self.envs)
        return tuple(v(*args, **kwargs) if callable(v) else v for v in values)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the sub-environments."""
        for env in self.envs:
            env.close()

    def _begin(self, i: int, task: Task, split: str | None = None) -> Info:
        options = {"task": task, "split": split}
        self._observations[i], info = self.envs[i].reset(options=options)
        self._terminated[i] = self._truncated[i] = False
        return info

    def _forget_groups(self) -> None:
        # Tasks drawn so far, by (group, split), and episodes begun, by (sub-environment, split).
        self._drawn: defaultdict[tuple[int, str | None], list[Task]] = defaultdict(list)
        self._n_begun: Counter[tuple[int, str | None]] = Counter()

    def _next_task(self, i: int, split: str | None = None) -> Task:
        """The next task of sub-environment `i`, drawn once for its whole group."""
        group = i // self.group_size
        drawn = self._drawn[group, split]
        if self._n_begun[i, split] == len(drawn):
            drawn.append(self.envs[group * self.group_size].draw_task(split))
        task = drawn[self._n_begun[i, split]]
        self._n_begun[i, split] += 1
        return task

    def _chosen(self, mask: Any) -> list[int]:
        if mask is None:
            return list(range(self.num_envs))
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(
                f"reset_mask must be a bool array of shape ({self.num_envs},) with at least one "
                f"True, got {mask!r}"
            )
        return [int(i) for i in np.flatnonzero(mask)]

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        """The seed of each sub-environment."""
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for {self.num_envs} environments")
        return list(seed)

    def _given_tasks(self, options: dict[str, Any], chosen: list[int]) -> list[Task] | None:
        """The task that `options` select for each sub-environment to reset; None to draw them."""
        sets = [self.envs[i].find_tasks(options.get("split")) for i in chosen]
        if options.get("task") is not None:
            tasks = [options["task"]] * len(chosen)
        elif options.get("tasks") is None:
            return None
        else:
            tasks = list(options["tasks"])
            if len(tasks) * self.group_size == len(chosen):
                tasks = [task for task in tasks for _ in range(self.group_size)]
            if len(tasks) != len(chosen):
                raise ValueError(f"{len(tasks)} tasks for {len(chosen)} environments to reset")
        return [task_set.find(task) for task_set, task in zip(sets, tasks, strict=True)]
