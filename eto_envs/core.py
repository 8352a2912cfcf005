"""`TextEnv`: the text-POMDP contract that all worlds share.

A world implements four methods (`_start`, `_advance`, `_world_state`, `_set_world_state`) and, for
what may be revealed, `_reveal`. Everything else is here: task choice, limits, scores, info,
shaping, snapshots and rendering. Parsing "Thought: … Action: …" is not: that belongs to agents.
"""

from __future__ import annotations

import copy
import operator
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
from gymnasium.error import ResetNeeded
from typing_extensions import Self

from eto_envs.errors import ActionTypeError, EpisodeEndedError, SnapshotError, UnknownNameError
from eto_envs.shaping import Info, Shaping, Transition
from eto_envs.spaces import TextSpace
from eto_envs.tasks import Task, TaskSet, find_task_set

MAX_TEXT_CHARS = 2**20
"""Maximum length of observations and actions, in characters."""

_RESET_OPTIONS = ("split", "task")


class Advance(NamedTuple):
    """The effect of one action on the world.

    Attributes:
        observation: the text the agent reads next.
        score: the episode's score so far, in [0, 1].
        terminated: whether the task itself has ended.
        is_valid: whether the world accepted the action.
    """

    observation: str
    score: float
    terminated: bool
    is_valid: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The complete state of an episode, as `TextEnv.snapshot` returns it: opaque and picklable."""

    environment: str
    dataset: str
    fingerprint: str
    task: Task
    state: Any
    action: str | None
    observation: str
    info: Info
    ended: bool
    shaping: dict[str, dict[str, Any]]
    rng: Mapping[str, Any] | None


class TextEnv(gym.Env[str, str]):
    """A world of text commands and text observations.

    Without shaping, the rewards of an episode sum to its final `info["score"]`. Shaping changes
    only the returned reward and `info["reward_terms"]`.

    Attributes:
        world: the world's name, part of every `info` and trajectory; set by the subclass.
        task_sets: the splits of the dataset, by name.
        tasks: the task set that `reset` draws from unless its options name another split.
        max_steps: the step limit that overrides the tasks' own, or None.
        max_episode_steps: Gymnasium's step limit, which can only lower the others, or None;
            `TextVectorEnv` sets it (`gym.make` wraps the environment in `TimeLimit` instead).
    """

    world: ClassVar[str] = ""
    metadata: dict[str, Any] = {"render_modes": ["ansi", "human"], "render_fps": 4}  # noqa: RUF012 (as Gymnasium declares it)
    revealable: ClassVar[tuple[str, ...]] = ("admissible_actions", "expert_action", "hidden_state")

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Store the constructor's arguments, from which a pickled environment is rebuilt."""
        self = super().__new__(cls)
        self._arguments = args, kwargs
        return self

    def __init__(
        self,
        tasks: Mapping[str, TaskSet] | TaskSet,
        split: str = "train",
        *,
        max_steps: int | None = None,
        reveal: Collection[str] = (),
        shaping: Sequence[str] = (),
        render_mode: str | None = None,
    ) -> None:
        """Set up what all worlds share.

        Args:
            tasks: the task sets of the dataset by split, or a single one.
            split: the one of them that `reset` draws from.
            max_steps: the step limit; None takes each task's own.
            reveal: what to add to `info`, from `revealable`.
            shaping: built-in shapers such as ``"step_cost=0.01"``.
            render_mode: None, ``"ansi"`` or ``"human"``.

        Raises:
            UnknownNameError: an unknown split, reveal, shaper or render mode.
            ValueError: `max_steps` is not a positive integer, or the split is empty.
            TypeError: the class has no `world`, or `reveal` is a single string.
        """
        if not self.world:
            raise TypeError(f"{type(self).__name__} has no world: set world = 'NAME' in the class")
        if isinstance(tasks, TaskSet):
            self.task_sets: Mapping[str, TaskSet] = {tasks.split: tasks}
            split = tasks.split
        else:
            self.task_sets = tasks
        self.tasks = find_task_set(self.task_sets, split)
        self.max_steps = None if max_steps is None else check_limit("max_steps", max_steps)
        self.max_episode_steps: int | None = None
        if isinstance(reveal, str):
            raise TypeError(f"reveal must be a collection of names, got the string {reveal!r}")
        for name in reveal:
            if name not in self.revealable:
                raise UnknownNameError("reveal", name, self.revealable)
        self.reveal = tuple(reveal)
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise UnknownNameError("render mode", render_mode, modes)
        self.render_mode = render_mode
        self.observation_space = TextSpace(MAX_TEXT_CHARS)
        self.action_space = TextSpace(MAX_TEXT_CHARS)
        self._shaping = Shaping(shaping)
        self._task: Task | None = None
        self._action: str | None = None
        self._observation = ""
        self._info: Info = {}
        self._ended = False

    # To be implemented by a world

    @classmethod
    def find_task_sets(cls, **env_args: Any) -> Mapping[str, TaskSet]:
        """The task sets of a dataset by split, for `eto_envs.task_sets`.

        This default makes an environment, reads them and closes it again. Override it where the
        constructor does more than listing the tasks requires.

        Args:
            **env_args: keyword arguments of the constructor; `split` does not matter.
        """
        env = cls(**env_args)
        try:
            return env.task_sets
        finally:
            env.close()

    def _start(self, task: Task) -> str:
        """Begin `task` and return its first observation."""
        raise NotImplementedError

    def _advance(self, action: str) -> Advance:
        """Carry out `action`; raise `BackendError` if the world itself fails."""
        raise NotImplementedError

    def _reveal(self, name: str) -> Any:
        """The current value of one of `revealable`."""
        raise NotImplementedError

    def _world_state(self) -> Any:
        """The world's state as a picklable value that later steps do not change."""
        raise NotImplementedError

    def _set_world_state(self, task: Task, state: Any) -> None:
        """Restore a state of `task` that `_world_state` returned."""
        raise NotImplementedError

    # The Gymnasium interface

    def find_tasks(self, split: str | None = None) -> TaskSet:
        """The task set of a split, by default of the split that the environment was made with.

        Raises:
            UnknownNameError: the dataset has no such split.
            ValueError: the split is empty.
        """
        return self.tasks if split is None else find_task_set(self.task_sets, split)

    def draw_task(self, split: str | None = None) -> Task:
        """A task drawn uniformly from a split (see `find_tasks`) by `np_random`."""
        tasks = self.find_tasks(split)
        return tasks[int(self.np_random.integers(len(tasks)))]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Begin an episode.

        Args:
            seed: seeds `np_random`, which draws the task.
            options: ``"split"`` takes the task of this episode from another split than the one
                given to the constructor; ``"task"``, an id or a position in the split, picks the
                task instead of drawing it.

        Raises:
            UnknownNameError: an unknown option, split or task; the current episode and the
                generator are left unchanged.
        """
        options = options or {}
        for name in options:
            if name not in _RESET_OPTIONS:
                raise UnknownNameError("reset option", name, _RESET_OPTIONS)
        split, chosen = options.get("split"), options.get("task")
        tasks = self.find_tasks(split)
        task = None if chosen is None else tasks.find(chosen)
        super().reset(seed=seed)
        if task is None:
            task = self.draw_task(split)
        self._task = None  # if the world fails to start, there is no episode
        self._observation = self._start(task)
        self._task = task
        self._action = None
        self._ended = False
        info: Info = {
            "world": self.world,
            "task_id": task.id,
            "split": tasks.split,
            "dataset": tasks.dataset,
            "tasks_sha256": tasks.sha256,
            "goal": task.goal,
            "score": 0.0,
            "success": False,
            "is_valid_action": True,
            "n_steps": 0,
            "task_reward": 0.0,
            "reward_terms": {},
        }
        for name in self.reveal:
            info[name] = self._reveal(name)
        info["reward_terms"] = self._shaping.reset(info)
        self._info = info
        if self.render_mode == "human":
            self.render()
        return self._observation, _own(info)

    def send(self, action: str) -> None:
        """Announce the action that will be passed to the next `step`.

        Code that steps several environments announces all actions first, so that worlds simulated
        in another process can work in parallel. By default this does nothing.
        """

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Carry out one action.

        Args:
            action: a command of the world.

        Returns:
            observation, reward, terminated, truncated, info.

        Raises:
            ActionTypeError: `action` is not a `str`.
            gymnasium.error.ResetNeeded: `reset` has not been called.
            EpisodeEndedError: the episode is over.
            BackendError: the world failed; the state of the episode is then undefined.
        """
        if not isinstance(action, str):
            kind = type(action).__name__
            raise ActionTypeError(f"an action must be a str, got {kind}: {action!r:.80}")
        if self._task is None:
            raise ResetNeeded("call env.reset() before env.step()")
        if self._ended:
            raise EpisodeEndedError(
                f"the episode of task {self._task.id!r} is over; call env.reset() first"
            )
        before = self._info
        observation, score, terminated, is_valid = self._advance(action)
        n_steps = before["n_steps"] + 1
        truncated = not terminated and n_steps >= self._limit(self._task)
        reward = task_reward = score - before["score"]
        info = before | {
            "score": score,
            "success": score >= 1.0,
            "is_valid_action": is_valid,
            "n_steps": n_steps,
            "task_reward": task_reward,
        }
        for name in self.reveal:
            info[name] = self._reveal(name)
        if self._shaping:
            transition = Transition(
                self._observation,
                action,
                observation,
                task_reward,
                terminated,
                truncated,
                before,
                info,
            )
            info["reward_terms"] = self._shaping.terms(transition)
            reward += sum(info["reward_terms"].values())
        self._action, self._observation, self._info = action, observation, info
        self._ended = terminated or truncated
        if self.render_mode == "human":
            self.render()
        return observation, reward, terminated, truncated, _own(info)

    def _limit(self, task: Task) -> int:
        """The number of steps after which an episode of `task` is truncated."""
        limit = self.max_steps or task.max_steps
        return limit if self.max_episode_steps is None else min(limit, self.max_episode_steps)

    def render(self) -> str | None:
        """The last action and observation: returned (``"ansi"``) or printed (``"human"``)."""
        if self.render_mode is None:
            gym.logger.warn("render() requires render_mode='ansi' or 'human' in gym.make")
            return None
        text = self._observation
        if self._action is not None:
            text = f"> {self._action}\n{text}"
        if self.render_mode == "ansi":
            return text
        sys.stdout.write(text + "\n\n")
        return None

    # Fork and restore

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the constructor's arguments and the episode: data are reopened, not copied."""
        state = None if self._task is None else self.snapshot()
        attributes = {
            "spec": self.spec,
            "max_episode_steps": self.max_episode_steps,
            "_np_random": self._np_random,
        }
        return _rebuild, (type(self), *self._arguments, attributes, state)

    def snapshot(self) -> Snapshot:
        """The whole episode as a picklable value, from which `restore` continues.

        It includes the generator that draws tasks, so the episodes after the next `reset` are the
        same, too.

        Raises:
            gymnasium.error.ResetNeeded: there is no episode.
        """
        if self._task is None:
            raise ResetNeeded("call env.reset() before env.snapshot()")
        rng = None if self._np_random is None else self._np_random.bit_generator.state
        return Snapshot(
            environment=type(self).__name__,
            dataset=self.tasks.dataset,
            fingerprint=self.tasks.fingerprint,
            task=self._task,
            state=self._world_state(),
            action=self._action,
            observation=self._observation,
            info=_own(self._info),
            ended=self._ended,
            shaping=self._shaping.snapshot(),
            rng=rng,
        )

    def restore(self, snapshot: Snapshot) -> tuple[str, Info]:
        """Restore a snapshot, in this or any other environment of the same id and dataset.

        If this environment's shapers differ from the snapshot's, they are reset. What this
        environment reveals is computed for the restored state.

        Returns:
            The observation and info at the time of the snapshot.

        Raises:
            SnapshotError: it was taken in another world or dataset, or is not a snapshot.
        """
        if not isinstance(snapshot, Snapshot):
            raise SnapshotError(f"not a snapshot: {type(snapshot).__name__}")
        theirs = (snapshot.environment, snapshot.dataset, snapshot.fingerprint)
        ours = (type(self).__name__, self.tasks.dataset, self.tasks.fingerprint)
        if theirs != ours:
            raise SnapshotError(f"the snapshot is of {theirs}, this environment is {ours}")
        self._set_world_state(snapshot.task, snapshot.state)
        self._task = snapshot.task
        self._action = snapshot.action
        self._observation = snapshot.observation
        self._ended = snapshot.ended
        info = {key: v for key, v in snapshot.info.items() if key not in self.revealable}
        for name in self.reveal:
            info[name] = self._reveal(name)
        if not self._shaping.restore(snapshot.shaping):
            info["reward_terms"] = self._shaping.reset(info)
        self._info = _own(info)
        if snapshot.rng is not None:
            self.np_random.bit_generator.state = copy.deepcopy(snapshot.rng)
        return self._observation, _own(self._info)


def _rebuild(
    kind: type[TextEnv],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    attributes: dict[str, Any],
    state: Snapshot | None,
) -> TextEnv:
    """Rebuild a pickled environment."""
    env = kind(*args, **kwargs)
    for name, value in attributes.items():
        setattr(env, name, value)
    if state is not None:
        env.restore(state)
    return env


def _own(info: Info) -> Info:
    """A copy that the caller may modify without affecting the environment."""
    return info | {"reward_terms": dict(info["reward_terms"])}


def check_limit(name: str, limit: Any) -> int:
    """A step limit as an `int`.

    Raises:
        ValueError: it is not a positive integer; the message calls it `name`.
    """
    try:
        number = operator.index(limit)
    except TypeError:
        raise ValueError(f"{name} must be a positive integer, got {limit!r}") from None
    if number < 1 or isinstance(limit, bool):
        raise ValueError(f"{name} must be a positive integer, got {limit!r}")
    return number
