"""`TextEnv`: the text-POMDP contract that all worlds share.

A world implements four methods (`_start`, `_advance`, `_world_state`, `_set_world_state`) and, for
what may be revealed, `_reveal`; everything else — task choice, limits, scores, info, shaping,
snapshots, rendering — is here, once. Thought/Action parsing is not: it belongs to agents.
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
from eto_envs.tasks import Task, TaskSet

MAX_TEXT_CHARS = 2**20
"""Bound of the observation and action spaces, in characters."""


class Advance(NamedTuple):
    """What one action did to the world.

    Attributes:
        observation: the text the agent reads next.
        score: the episode's score so far, in [0, 1].
        terminated: the task itself has ended.
        is_valid: the world accepted the action.
    """

    observation: str
    score: float
    terminated: bool
    is_valid: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An episode in full, as `TextEnv.snapshot` returns it: opaque and picklable."""

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

    Rewards of an episode sum to `info["score"]` at its end unless shaping is asked for; shaping
    changes the returned reward and `info["reward_terms"]` alone.

    Attributes:
        world: the world's name, which every `info` and trajectory carries; a subclass states it.
        tasks: the task set that `reset` draws from.
        max_steps: the step limit that overrides the tasks' own, or None.
    """

    world: ClassVar[str] = ""
    metadata: dict[str, Any] = {"render_modes": ["ansi", "human"], "render_fps": 4}  # noqa: RUF012 (as Gymnasium declares it)
    revealable: ClassVar[tuple[str, ...]] = ("admissible_actions", "expert_action", "hidden_state")

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the constructor's arguments, from which a pickled environment is made anew."""
        self = super().__new__(cls)
        self._arguments = args, kwargs
        return self

    def __init__(
        self,
        tasks: TaskSet,
        *,
        max_steps: int | None = None,
        reveal: Collection[str] = (),
        shaping: Sequence[str] = (),
        render_mode: str | None = None,
    ) -> None:
        """Set up the parts that all worlds share.

        Args:
            tasks: the task set; must not be empty.
            max_steps: the step limit; None takes each task's own.
            reveal: what to add to `info`, from `revealable`.
            shaping: built-in shapers such as ``"step_cost=0.01"``.
            render_mode: None, ``"ansi"`` or ``"human"``.

        Raises:
            UnknownNameError: an unknown reveal, shaper or render mode.
            ValueError: `max_steps` is not a positive integer, or the task set is empty.
            TypeError: the class states no `world`, or `reveal` is a text.
        """
        if not self.world:
            raise TypeError(f"{type(self).__name__} states no world: give the class world = 'NAME'")
        if len(tasks) == 0:
            raise ValueError(f"{tasks!r} has no task")
        self.tasks = tasks
        self.max_steps = None if max_steps is None else _positive(max_steps)
        if isinstance(reveal, str):
            raise TypeError(f"reveal must be a collection of names, got the text {reveal!r}")
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

    # What a world implements

    def _start(self, task: Task) -> str:
        """Begin `task` and return its first observation."""
        raise NotImplementedError

    def _advance(self, action: str) -> Advance:
        """Do `action`; raise `BackendError` if the world itself failed."""
        raise NotImplementedError

    def _reveal(self, name: str) -> Any:
        """The present value of one of `revealable`."""
        raise NotImplementedError

    def _world_state(self) -> Any:
        """The world's state as a picklable value that later steps do not change."""
        raise NotImplementedError

    def _set_world_state(self, task: Task, state: Any) -> None:
        """Bring back a state of `task` that `_world_state` returned."""
        raise NotImplementedError

    # The Gymnasium interface

    def draw_task(self) -> Task:
        """A task drawn uniformly from the task set by `np_random`."""
        return self.tasks[int(self.np_random.integers(len(self.tasks)))]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Begin an episode.

        Args:
            seed: seeds `np_random`, which draws the task.
            options: ``{"task": id or position}`` picks the task instead.

        Raises:
            UnknownNameError: an unknown option or task.
        """
        super().reset(seed=seed)
        options = options or {}
        for name in options:
            if name != "task":
                raise UnknownNameError("reset option", name, ("task",))
        chosen = options.get("task")
        task = self.draw_task() if chosen is None else self.tasks.find(chosen)
        self._task = None  # a world that fails to start leaves no episode behind
        self._observation = self._start(task)
        self._task = task
        self._action = None
        self._ended = False
        info: Info = {
            "world": self.world,
            "task_id": task.id,
            "split": self.tasks.split,
            "dataset": self.tasks.dataset,
            "tasks_sha256": self.tasks.sha256,
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

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Do one action.

        Args:
            action: the world's own command.

        Returns:
            observation, reward, terminated, truncated, info.

        Raises:
            ActionTypeError: `action` is not a `str`.
            gymnasium.error.ResetNeeded: there was no `reset`.
            EpisodeEndedError: the episode is over.
            BackendError: the world failed; the episode is then undefined.
        """
        if not isinstance(action, str):
            kind = type(action).__name__
            raise ActionTypeError(f"an action is a str, got {kind}: {action!r:.80}")
        if self._task is None:
            raise ResetNeeded("call env.reset() before env.step()")
        if self._ended:
            raise EpisodeEndedError(
                f"the episode of task {self._task.id!r} is over; call env.reset() first"
            )
        before = self._info
        observation, score, terminated, is_valid = self._advance(action)
        n_steps = before["n_steps"] + 1
        truncated = not terminated and n_steps >= (self.max_steps or self._task.max_steps)
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

    def render(self) -> str | None:
        """The last action and observation: returned (``"ansi"``) or printed (``"human"``)."""
        if self.render_mode is None:
            gym.logger.warn("render() needs render_mode='ansi' or 'human' in gym.make")
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
        """Pickle as the constructor's arguments and the episode: files are opened, not copied."""
        state = None if self._task is None else self.snapshot()
        return _rebuild, (type(self), *self._arguments, self.spec, self._np_random, state)

    def snapshot(self) -> Snapshot:
        """The whole episode as a picklable value; `restore` continues from it.

        The generator that draws tasks is in it too, so what follows the next `reset` is also the
        same.

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
        """Bring a snapshot back, in this or any other environment of its id and dataset.

        An environment with other shapers than the snapshot's starts its shapers anew; one that
        reveals other things fills its own info.

        Returns:
            The observation and info of the moment it was taken.

        Raises:
            SnapshotError: it was taken in another world or dataset, or is no snapshot.
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
    spec: Any,
    rng: Any,
    state: Snapshot | None,
) -> TextEnv:
    """What a pickled environment becomes."""
    env = kind(*args, **kwargs)
    env.spec = spec
    env._np_random = rng
    if state is not None:
        env.restore(state)
    return env


def _own(info: Info) -> Info:
    """A copy that the caller may change without changing the environment's."""
    return info | {"reward_terms": dict(info["reward_terms"])}


def _positive(max_steps: int) -> int:
    try:
        number = operator.index(max_steps)
    except TypeError:
        raise ValueError(f"max_steps must be a positive integer, got {max_steps!r}") from None
    if number < 1 or isinstance(max_steps, bool):
        raise ValueError(f"max_steps must be a positive integer, got {max_steps!r}")
    return number
