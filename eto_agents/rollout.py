"""Playing episodes: any policy, any world, many episodes at once.

The same loop serves evaluation, exploration and data collection. An episode's result does not
depend on how many others are played at the same time: its seed is derived from the run's seed, the
task's id and the sample's number. An environment that fails ends its episode as `env_error`, an
agent that fails as `agent_error`; neither ever counts as a score.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from eto_agents.live_episode import Job, LiveEpisode, checked_decision, messages_of
from eto_agents.policy import (
    Decision,
    Policy,
    as_names,
    as_policy,
    describe,
    failure,
    reveal_of,
    with_time_limit,
)
from eto_agents.trajectory import Status, Trajectory
from eto_envs.core import TextEnv
from eto_envs.errors import BackendError
from eto_envs.tasks import Task, TaskSet
from eto_envs.vector import TextVectorEnv

logger = logging.getLogger(__name__)


def make_batch(
    env_id: str, policy: Policy, n_envs: int, env_args: Mapping[str, Any] | None = None
) -> TextVectorEnv:
    """Make a vector environment of `n_envs` episodes that reveals what `policy` needs."""
    arguments = dict(env_args or {})
    reveal = (*as_names(arguments.pop("reveal", ())), *reveal_of(policy))
    env = gym.make_vec(
        env_id,
        num_envs=n_envs,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.DISABLED.value,
        reveal=tuple(dict.fromkeys(reveal)),
        **arguments,
    )
    if not isinstance(env, TextVectorEnv):
        raise TypeError(f"the vector entry point of {env_id} is not a TextVectorEnv")
    return env


def open_task_set(env_id: str, split: str, env_args: Mapping[str, Any] | None = None) -> TaskSet:
    """The task set that an environment draws from.

    Raises:
        UnknownNameError: there is no such split.
        EtoError: as raised by the environment's constructor.
    """
    env = gym.make(env_id, split=split, **dict(env_args or {}))
    try:
        tasks: TaskSet = env.unwrapped.tasks  # type: ignore[attr-defined]
    finally:
        env.close()
    return tasks


class Rollouts:
    """Plays jobs and iterates over their episodes, in the order in which they end.

    After an interruption `cancel` returns the episodes that have not been yielded yet.
    """

    def __init__(
        self,
        policy: Policy,
        env: TextVectorEnv,
        jobs: Iterable[Job],
        *,
        env_retries: int = 2,
        action_timeout_s: float | None = None,
    ) -> None:
        """Prepare to play.

        Args:
            policy: the agent.
            env: from `make_batch`; its number of sub-environments is the number of episodes that
                are played at once.
            jobs: the episodes to play.
            env_retries: how often an episode is restarted when the environment fails.
            action_timeout_s: seconds an agent may take to decide before its episode ends as
                `agent_error` (`eto_agents.policy.with_time_limit`); None sets no limit.
        """
        self._policy = with_time_limit(policy, action_timeout_s)
        self._name = str(getattr(policy, "name", type(policy).__name__))
        self._env = env
        self._env_id = env.spec.id if env.spec is not None else type(env.envs[0]).__name__
        self._waiting = deque((job, 0) for job in jobs)
        self._env_retries = env_retries
        self._live: dict[int, LiveEpisode] = {}
        self._n_tries: dict[int, int] = {}  # of the live episodes, by slot
        self._finished: deque[Trajectory] = deque()

    def __iter__(self) -> Iterator[Trajectory]:
        """Play until no job is left."""
        while True:
            while self._finished:
                yield self._finished.popleft()
            self._fill()
            if not self._live:
                if not self._waiting and not self._finished:
                    return
                continue
            decisions = self._decide()
            self._send_all(decisions)
            for slot, decision in decisions.items():
                self._advance(slot, decision)

    def cancel(self) -> list[Trajectory]:
        """Episodes that have ended but were not yielded yet, and the live ones as `cancelled`."""
        ended = list(self._finished)
        self._finished.clear()
        return ended + [self._end(slot, "cancelled") for slot in sorted(self._live)]

    def _fill(self) -> None:
        """Begin waiting jobs in free slots."""
        begun: list[int] = []
        for slot in range(self._env.num_envs):
            if slot in self._live or not self._waiting:
                continue
            job, n_tries = self._waiting.popleft()
            episode = LiveEpisode(self._sub(slot), job, env_id=self._env_id, policy=self._name)
            try:
                episode.begin()
            except Exception as error:  # noqa: BLE001 (an environment's failure is a status)
                self._env_failed(episode, n_tries, error)
                continue
            self._live[slot], self._n_tries[slot] = episode, n_tries
            begun.append(slot)
        if begun:
            jobs = [self._live[slot].job for slot in begun]
            tasks, seeds = [job.task for job in jobs], [job.episode_seed for job in jobs]
            try:
                self._policy.reset(begun, tasks, seeds)
            except BaseException as error:  # noqa: BLE001 (third-party code: its failure is data)
                message = failure(error)
                for slot in begun:
                    self._live[slot].fail(message)
                    self._finished.append(self._end(slot))

    def _decide(self) -> dict[int, Decision]:
        slots = sorted(self._live)
        episodes = [self._live[slot] for slot in slots]
        started_s = time.perf_counter()
        try:
            decisions = self._policy.act(
                slots, [e.observation for e in episodes], [e.info for e in episodes]
            )
            decisions = _checked(decisions, len(slots))
        except BaseException as error:  # noqa: BLE001 (third-party code: its failure is data)
            message = failure(error)
            logger.warning("the policy failed; its %d live episodes end as agent_error", len(slots))
            decisions = [Decision("", error=message)] * len(slots)
        latency_s = (time.perf_counter() - started_s) / len(slots)
        return {
            slot: decision if decision.latency_s else replace(decision, latency_s=latency_s)
            for slot, decision in zip(slots, decisions, strict=True)
        }

    def _send_all(self, decisions: Mapping[int, Decision]) -> None:
        """Start all actions at once in environments that can run them concurrently (`send`)."""
        for slot, decision in decisions.items():
            send = getattr(self._sub(slot), "send", None)
            if send is not None and not decision.error and isinstance(decision.action, str):
                with contextlib.suppress(BackendError):  # `step` retries and reports the failure
                    send(decision.action)

    def _advance(self, slot: int, decision: Decision) -> None:
        try:
            goes_on = self._live[slot].advance(decision)
        except Exception as error:  # noqa: BLE001 (an environment's failure is a status)
            self._env_failed(self._live.pop(slot), self._n_tries[slot], error)
            return
        if not goes_on:
            self._finished.append(self._end(slot))

    def _env_failed(self, episode: LiveEpisode, n_tries: int, error: Exception) -> None:
        """Restart the episode, or end it as `env_error` after too many attempts."""
        if n_tries < self._env_retries:
            logger.warning("task %s: %s; retrying", episode.job.task.id, describe(error))
            self._waiting.appendleft((episode.job, n_tries + 1))
        else:
            self._finished.append(episode.end([], "env_error", failure(error)))

    def _end(self, slot: int, status: Status | None = None) -> Trajectory:
        return self._live.pop(slot).end(messages_of(self._policy, slot), status)

    def _sub(self, slot: int) -> TextEnv:
        # Stepped one by one and not by env.step(): a failure ends one episode and not the batch.
        return self._env.envs[slot]


def _checked(decisions: Any, n_slots: int) -> list[Decision]:
    """Check what a policy's `act` returned, and normalise each decision.

    Raises:
        TypeError: `decisions` is not a list of `n_slots` decisions.
    """
    if not isinstance(decisions, (list, tuple)):
        raise TypeError(f"act returned {type(decisions).__name__}, not a list of decisions")
    if len(decisions) != n_slots:
        raise TypeError(f"act returned {len(decisions)} decisions for {n_slots} episodes")
    return [checked_decision(decision) for decision in decisions]


def run_episode(
    policy: Any, env_id: str, task: str | int, *, seed: int = 0, **env_args: Any
) -> Trajectory:
    """Play one episode of one task.

    Args:
        policy: anything `as_policy` takes.
        env_id: the Gymnasium id.
        task: the id of a task, or its index in the task set.
        seed: the run's seed.
        **env_args: keyword arguments for the environment.
    """
    policy = as_policy(policy)
    env = make_batch(env_id, policy, 1, env_args)
    try:
        return next(iter(Rollouts(policy, env, [Job(env.envs[0].tasks.find(task), seed)])))
    finally:
        env.close()


def jobs_of(tasks: Iterable[Task], seeds: Sequence[int], n_samples: int = 1) -> list[Job]:
    """A job for every seed, task and sample, in that order of nesting."""
    tasks = list(tasks)
    return [
        Job(task, seed, sample) for seed in seeds for task in tasks for sample in range(n_samples)
    ]
