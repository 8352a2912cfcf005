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
from typing import Any, Final

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
    is_concurrent,
    name_of,
    reveal_of,
    tools_of,
    with_time_limit,
)
from eto_agents.threads import Threads
from eto_agents.trajectory import Trajectory
from eto_envs.core import TextEnv
from eto_envs.errors import BackendError, EtoError
from eto_envs.tasks import Task, TaskSet
from eto_envs.vector import TextVectorEnv

logger = logging.getLogger(__name__)

ENOUGH_FAILURES: Final = 5
"""With fewer episodes at once, as many have to fail in a row before a run is stopped."""

_MAX_ERROR_CHARS: Final = 1_000


class AgentFailedError(EtoError):
    """The agent fails in every episode, and will until somebody corrects the cause."""


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

    A concurrent policy (see `eto_agents.policy.Policy`) decides for each live episode in a thread,
    and each episode continues as soon as its own decision is there; any other policy decides for
    all live episodes at once. Environments are stepped and episodes recorded in the caller's
    thread.

    After an interruption `cancel` returns the episodes that have not been yielded yet. It does not
    wait for decisions that are under way.
    """

    def __init__(
        self,
        policy: Policy,
        env: TextVectorEnv,
        jobs: Iterable[Job],
        *,
        env_retries: int = 2,
        action_timeout_s: float | None = None,
        is_whole_run: bool = False,
        known_to_work: Job | None = None,
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
            is_whole_run: whether `jobs` are all there is to play: then fewer failures than
                `ENOUGH_FAILURES` stop the run if nothing else is left.
            known_to_work: an episode that the agent has played before. If all others fail, its
                first decision is asked for again: it tells whether the agent has stopped working,
                or only the tasks that are left are refused.
        """
        self._policy = with_time_limit(policy, action_timeout_s)
        free = is_concurrent(self._policy)
        self._decisions: _Free | _Together = (_Free if free else _Together)(self._policy)
        self._name = name_of(policy)
        self._env = env
        self._env_id = env.spec.id if env.spec is not None else type(env.envs[0]).__name__
        self._waiting = deque((job, 0) for job in jobs)
        self._env_retries = env_retries
        # Permanent errors are held back until the agent makes a decision, or that many have come.
        self._n_enough = max(env.num_envs, ENOUGH_FAILURES)
        if is_whole_run:
            self._n_enough = min(self._n_enough, len(self._waiting))
        self._known_to_work = known_to_work
        self._held_back: list[Trajectory] = []
        self._live: dict[int, LiveEpisode] = {}
        self._n_tries: dict[int, int] = {}  # of the live episodes, by slot
        self._finished: deque[Trajectory] = deque()

    def __iter__(self) -> Iterator[Trajectory]:
        """Play until no job is left.

        Raises:
            AgentFailedError: the agent's first decision was a permanent error in as many episodes
                in a row as there are environments, and in `ENOUGH_FAILURES` at least, and it made
                no other decision in between. None of these episodes is yielded.
        """
        try:
            while True:
                while self._finished:
                    yield self._finished.popleft()
                self._check_agent()
                self._fill()
                if self._live:
                    self._advance_all(self._decisions.wait(self._live))
                elif not self._waiting and not self._finished:
                    if not self._held_back:
                        return
                    self._release()
        finally:
            self._decisions.close()

    def cancel(self) -> list[Trajectory]:
        """Episodes that have ended but were not yielded yet, and the live ones as `cancelled`.

        Episodes that are held back because the agent may have failed (`AgentFailedError`) are not
        among them, so that they are played again.
        """
        self._decisions.close()
        ended = list(self._finished)
        self._finished.clear()
        for slot, episode in sorted(self._live.items()):
            # Before its first step, the slot may still have the conversation of another episode.
            messages = messages_of(self._policy, slot) if episode.steps else []
            ended.append(episode.end(messages, "cancelled"))
        self._live.clear()
        return ended

    def _fill(self) -> None:
        """Begin waiting jobs in free slots."""
        if not self._waiting:
            return
        for slot in range(self._env.num_envs):
            if slot in self._live or not self._waiting:
                continue
            job, n_tries = self._waiting.popleft()
            episode = LiveEpisode(self._sub(slot), job, env_id=self._env_id, policy=self._name)
            episode.tools = tools_of(self._policy)
            try:
                episode.begin()
            except Exception as error:  # noqa: BLE001 (an environment's failure is a status)
                self._env_failed(episode, n_tries, error)
            else:
                self._live[slot], self._n_tries[slot] = episode, n_tries

    def _advance_all(self, decisions: Mapping[int, Decision]) -> None:
        """Execute decisions, by slot."""
        # Environments that can run concurrently start on their actions before the first is stepped.
        for slot, decision in decisions.items():
            send = getattr(self._sub(slot), "send", None)
            if send is not None and not decision.error:
                with contextlib.suppress(BackendError):  # `step` retries and reports the failure
                    send(decision.action)
        for slot, decision in decisions.items():
            self._advance(slot, decision)

    def _advance(self, slot: int, decision: Decision) -> None:
        if not decision.error:
            self._release()
        try:
            goes_on = self._live[slot].advance(decision)
        except Exception as error:  # noqa: BLE001 (an environment's failure is a status)
            self._env_failed(self._live.pop(slot), self._n_tries[slot], error)
            return
        if not goes_on:
            ended = self._held_back if decision.is_permanent else self._finished
            ended.append(self._end(slot))

    def _release(self) -> None:
        """The agent works: the permanent errors so far concern single episodes."""
        self._finished.extend(self._held_back)
        self._held_back.clear()

    def _check_agent(self) -> None:
        errors = [episode.error for episode in self._held_back if not episode.steps]
        if len(errors) < max(self._n_enough, 1):
            return
        if self._works_elsewhere():
            self._release()
            return
        error = " ".join(errors[0].split())
        if len(error) > _MAX_ERROR_CHARS:
            error = error[:_MAX_ERROR_CHARS] + "…"
        raise AgentFailedError(
            f"the agent failed before its first action in {len(errors)} episodes in a row: "
            f"{error}. Correct the cause, such as the API key, the model's name or the server's "
            "address, and rerun the command to resume; these episodes will be played again"
        )

    def _works_elsewhere(self) -> bool:
        """Whether the agent still decides in an episode that it has played before."""
        if self._known_to_work is None or len(self._live) == self._env.num_envs:
            return False
        slot = next(slot for slot in range(self._env.num_envs) if slot not in self._live)
        episode = LiveEpisode(
            self._sub(slot), self._known_to_work, env_id=self._env_id, policy=self._name
        )
        try:
            episode.begin()
        except Exception as error:  # noqa: BLE001 (whatever an environment raises)
            logger.warning("task %s: %s", self._known_to_work.task.id, describe(error))
            return False
        return not _decide(self._policy, {slot: episode})[slot].error

    def _env_failed(self, episode: LiveEpisode, n_tries: int, error: Exception) -> None:
        """Restart the episode, or end it as `env_error` after too many attempts."""
        if n_tries < self._env_retries:
            logger.warning("task %s: %s; retrying", episode.job.task.id, describe(error))
            self._waiting.appendleft((episode.job, n_tries + 1))
        else:
            self._finished.append(episode.end([], "env_error", failure(error)))

    def _end(self, slot: int) -> Trajectory:
        return self._live.pop(slot).end(messages_of(self._policy, slot))

    def _sub(self, slot: int) -> TextEnv:
        # Stepped one by one and not by env.step(): a failure ends one episode and not the batch.
        return self._env.envs[slot]


class _Together:
    """Decides for all live episodes in one call of the policy."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def wait(self, live: Mapping[int, LiveEpisode]) -> dict[int, Decision]:
        """Decisions for all live episodes, by slot."""
        return _decide(self._policy, dict(sorted(live.items())))

    def close(self) -> None:
        """There is nothing under way."""


class _Free:
    """Decides for each live episode in a thread of its slot."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._threads = Threads()
        self._busy: set[int] = set()

    def wait(self, live: Mapping[int, LiveEpisode]) -> dict[int, Decision]:
        """Decisions for those live episodes for which there is one, and for one at least."""
        for slot in sorted(live.keys() - self._busy):
            self._threads.start(slot, _decide, self._policy, {slot: live[slot]})
            self._busy.add(slot)
        decisions: dict[int, Decision] = {}
        for outcome in self._threads.wait():
            if outcome.error is not None:  # Ctrl-C; what an agent raises is a decision
                raise outcome.error
            decisions |= outcome.value
        self._busy -= decisions.keys()
        return decisions

    def close(self) -> None:
        """Do not wait for decisions that are under way."""
        self._threads.close()


def _decide(policy: Policy, live: Mapping[int, LiveEpisode]) -> dict[int, Decision]:
    """One decision for each episode, by slot; episodes without a step are begun first.

    Raises:
        KeyboardInterrupt: the user interrupted the policy; all else that it raises is a decision.
    """
    new = {slot: episode.job for slot, episode in live.items() if not episode.steps}
    try:
        if new:
            seeds = [job.episode_seed for job in new.values()]
            policy.reset(list(new), [job.task for job in new.values()], seeds)
    except BaseException as error:  # noqa: BLE001 (third-party code: its failure is data)
        failed = Decision("", error=failure(error))
        rest = {slot: episode for slot, episode in live.items() if slot not in new}
        return dict.fromkeys(new, failed) | (_decide(policy, rest) if rest else {})
    observations = [episode.observation for episode in live.values()]
    started_s = time.perf_counter()
    try:
        decisions = policy.act(list(live), observations, [e.info for e in live.values()])
        decisions = _checked(decisions, len(live))
    except BaseException as error:  # noqa: BLE001 (third-party code: its failure is data)
        failed = Decision("", error=failure(error))
        logger.warning("the policy failed; its %d live episodes end as agent_error", len(live))
        return dict.fromkeys(live, failed)
    latency_s = (time.perf_counter() - started_s) / len(live)
    return {
        slot: decision if decision.latency_s else replace(decision, latency_s=latency_s)
        for slot, decision in zip(live, decisions, strict=True)
    }


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
