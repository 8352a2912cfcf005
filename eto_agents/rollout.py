"""Playing episodes: any policy, any world, many episodes at once.

The same loop serves evaluation, exploration and data collection. An episode's result does not
depend on how many others are played at the same time: its seed is derived from the run's seed, the
task's id and the sample's number. An environment that fails ends its episode as `env_error`, an
agent that fails as `agent_error`; neither ever counts as a score.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from eto_agents.policy import (
    Decision,
    Policy,
    as_names,
    as_policy,
    conversation_of,
    describe,
    failure,
    reveal_of,
    shortened,
    with_time_limit,
)
from eto_agents.trajectory import Message, Status, Step, Trajectory
from eto_envs.core import TextEnv
from eto_envs.errors import ActionTypeError, BackendError
from eto_envs.shaping import Info
from eto_envs.tasks import Task
from eto_envs.vector import TextVectorEnv

logger = logging.getLogger(__name__)


class Job(NamedTuple):
    """One episode to play: a task, the run's seed, and the number of the sample."""

    task: Task
    seed: int
    sample: int = 0


MAX_ACTION_BYTES = 2**16
"""Maximum size of an action in UTF-8 bytes; a longer one ends the episode as `agent_error`."""

MAX_TEXT_BYTES = 2**22
"""The same for the agent's full reply and its thought."""


def episode_seed(seed: int, task_id: str, sample: int = 0) -> int:
    """Derive an episode's seed (63 bits) from the run's seed, the task's id and the sample."""
    text = f"{seed}/{task_id}" + (f"\0{sample}" if sample else "")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


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


@dataclass(slots=True)
class _Episode:
    """A live episode."""

    job: Job
    n_tries: int
    observation: str
    info: Info
    initial_observation: str
    started_s: float
    steps: list[Step] = field(default_factory=list)


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
        self._live: dict[int, _Episode] = {}
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
            seed = episode_seed(job.seed, job.task.id, job.sample)
            started_s = time.perf_counter()
            try:
                observation, info = self._sub(slot).reset(seed=seed, options={"task": job.task.id})
            except Exception as error:  # noqa: BLE001 (an environment's failure is a status)
                self._env_failed(_Episode(job, n_tries, "", {}, "", started_s), error)
                continue
            self._live[slot] = _Episode(job, n_tries, observation, info, observation, started_s)
            begun.append(slot)
        if begun:
            jobs = [self._live[slot].job for slot in begun]
            seeds = [episode_seed(job.seed, job.task.id, job.sample) for job in jobs]
            try:
                self._policy.reset(begun, [job.task for job in jobs], seeds)
            except BaseException as error:  # noqa: BLE001 (third-party code: its failure is data)
                message = failure(error)
                self._finished.extend(self._end(slot, "agent_error", message) for slot in begun)

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
        if decision.error:
            self._finished.append(self._end(slot, "agent_error", decision.error))
            return
        episode = self._live[slot]
        try:
            observation, reward, terminated, truncated, info = self._sub(slot).step(decision.action)
            _check_numbers(reward, info)
        except ActionTypeError as error:
            self._finished.append(self._end(slot, "agent_error", describe(error)))
            return
        except Exception as error:  # noqa: BLE001 (an environment's failure is a status)
            self._env_failed(self._live.pop(slot), error)
            return
        step = Step(
            action=decision.action,
            observation=observation,
            reward=reward,
            task_reward=info["task_reward"],
            reward_terms=info["reward_terms"],
            score=info["score"],
            is_valid=info["is_valid_action"],
            text=decision.text,
            thought=decision.thought,
            token_ids=decision.token_ids,
            log_probs=decision.log_probs,
            usage=decision.usage,
            latency_s=decision.latency_s,
        )
        episode.steps.append(step)
        episode.observation, episode.info = observation, info
        if terminated or truncated:
            self._finished.append(self._end(slot, "completed" if terminated else "truncated"))

    def _env_failed(self, episode: _Episode, error: Exception) -> None:
        """Restart the episode, or end it as `env_error` after too many attempts."""
        message = describe(error)
        if episode.n_tries < self._env_retries:
            logger.warning("task %s: %s; retrying", episode.job.task.id, message)
            self._waiting.appendleft((episode.job, episode.n_tries + 1))
        else:
            self._finished.append(self._record(episode, "env_error", failure(error), []))

    def _end(self, slot: int, status: Status, error: str = "") -> Trajectory:
        messages = _messages(self._policy, slot)
        return self._record(self._live.pop(slot), status, error, messages)

    def _record(
        self, episode: _Episode, status: Status, error: str, messages: list[Message]
    ) -> Trajectory:
        env = self._sub(0)
        tasks = env.tasks
        task = episode.job.task
        return Trajectory(
            env_id=self._env_id,
            world=env.world,
            dataset=tasks.dataset,
            split=tasks.split,
            tasks_sha256=tasks.sha256,
            task_id=task.id,
            kind=task.kind,
            goal=task.goal,
            seed=episode.job.seed,
            policy=self._name,
            initial_observation=episode.initial_observation,
            messages=messages,
            steps=episode.steps,
            status=status,
            score=float(episode.info.get("score", 0.0)),
            success=bool(episode.info.get("success", False)),
            error=error,
            wall_s=time.perf_counter() - episode.started_s,
            sample=episode.job.sample,
        )

    def _sub(self, slot: int) -> TextEnv:
        # Stepped one by one and not by env.step(): a failure ends one episode and not the batch.
        return self._env.envs[slot]


def _check_numbers(reward: float, info: Info) -> None:
    """Refuse numbers that no mean and no file can hold.

    Raises:
        BackendError: a reward or the score is not finite.
    """
    numbers = {"reward": reward, "task_reward": info["task_reward"], "score": info["score"]}
    for name, value in (numbers | info["reward_terms"]).items():
        if not math.isfinite(value):
            raise BackendError(f"the environment returned {value} as its {name}")


def _messages(policy: Policy, slot: int) -> list[Message]:
    """The policy's conversation in a slot; empty, with a warning, if it is malformed."""
    try:
        return [
            {"role": str(message["role"]), "content": str(message["content"])}
            for message in conversation_of(policy, slot)
        ]
    except Exception as error:  # noqa: BLE001 (third-party code: lose the record, not the run)
        logger.warning("the policy's conversation cannot be recorded: %s", describe(error))
        return []


def _checked(decisions: Any, n_slots: int) -> list[Decision]:
    """Check what a policy's `act` returned, and normalise each decision (`_clean`).

    Raises:
        TypeError: `decisions` is not a list of `n_slots` decisions.
    """
    if not isinstance(decisions, (list, tuple)):
        raise TypeError(f"act returned {type(decisions).__name__}, not a list of decisions")
    if len(decisions) != n_slots:
        raise TypeError(f"act returned {len(decisions)} decisions for {n_slots} episodes")
    return [_clean(decision) for decision in decisions]


def _clean(decision: Any) -> Decision:
    """Normalise a decision; one that cannot be executed or stored becomes an agent error."""
    if not isinstance(decision, Decision):
        return Decision("", error=f"act returned a {type(decision).__name__}, not a Decision")
    if decision.error:
        return Decision("", usage=decision.usage, error=str(decision.error))
    for name, bound in (
        ("action", MAX_ACTION_BYTES),
        ("text", MAX_TEXT_BYTES),
        ("thought", MAX_TEXT_BYTES),
    ):
        value = getattr(decision, name)
        if not isinstance(value, str):
            kind = type(value).__name__
            return Decision("", error=f"the agent's {name} is {kind}, not str: {shortened(value)}")
        n_bytes = len(value.encode("utf-8", "surrogatepass"))
        if n_bytes > bound:
            error = (
                f"the agent's {name} has {n_bytes:,} bytes, more than {bound:,}: {shortened(value)}"
            )
            return Decision("", error=error)
    ids, log_probs = decision.token_ids, decision.log_probs
    try:
        usage = {str(key): float(value) for key, value in decision.usage.items()}
        if not all(math.isfinite(value) for value in usage.values()):
            raise ValueError(f"its usage is not finite: {usage}")
        if log_probs is not None and not all(map(math.isfinite, log_probs)):
            raise ValueError("its log-probabilities are not finite")
        return replace(
            decision,
            token_ids=None if ids is None else [int(i) for i in ids],
            log_probs=None if log_probs is None else [float(x) for x in log_probs],
            usage=usage,
            latency_s=float(decision.latency_s),
        )
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        return Decision("", error=f"the decision cannot be stored: {describe(error)}")


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
