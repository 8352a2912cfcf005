"""`LiveEpisode`: one episode while it is played, and the trajectory that it leaves.

However an episode is played (one of many in `eto_agents.rollout`, or as a conversation), it is
recorded here, so that equal episodes leave equal records. The agent's decisions are checked before
they are executed; who makes them, and what happens when the environment fails, is the caller's
business.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from eto_agents.policy import Decision, Policy, conversation_of, describe, shortened
from eto_agents.trajectory import EpisodeKey, Message, Status, Step, Tool, Trajectory, as_message
from eto_envs.core import TextEnv
from eto_envs.errors import ActionTypeError, BackendError
from eto_envs.shaping import Info
from eto_envs.tasks import Task

logger = logging.getLogger(__name__)

MAX_ACTION_BYTES = 2**16
"""Maximum size of an action in UTF-8 bytes; a longer one ends the episode as `agent_error`."""

MAX_TEXT_BYTES = 2**22
"""The same for the agent's full reply and its thought."""


class Job(NamedTuple):
    """One episode to play: a task, the run's seed, and the number of the sample."""

    task: Task
    seed: int
    sample: int = 0

    @property
    def episode_seed(self) -> int:
        """The seed of the environment and of the agent; see the function `episode_seed`."""
        return episode_seed(self.seed, self.task.id, self.sample)

    def key(self, split: str) -> EpisodeKey:
        """The key of its episode; the split is that of the task set it is played from."""
        return EpisodeKey(split, self.task.id, self.seed, self.sample)


def episode_seed(seed: int, task_id: str, sample: int = 0) -> int:
    """Derive an episode's seed (63 bits) from the run's seed, the task's id and the sample."""
    text = f"{seed}/{task_id}" + (f"\0{sample}" if sample else "")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class LiveEpisode:
    """One episode in one environment: `begin`, `advance` until there is a status, then `end`.

    Attributes:
        job: the episode that is played.
        observation: what the agent has to respond to.
        info: the environment's info that belongs to it.
        status: how the episode ended; None while it goes on.
        error: for the status `agent_error`, what went wrong.
        steps: the steps so far.
        tools: what the agent can call, for the record.
    """

    def __init__(self, env: TextEnv, job: Job, *, env_id: str, policy: str) -> None:
        """Prepare an episode; nothing is reset yet.

        Args:
            env: the environment, which the episode has for itself until it ends.
            job: the episode to play.
            env_id: the Gymnasium id, for the record.
            policy: the policy's name, for the record.
        """
        self.job = job
        self.observation = ""
        self.info: Info = {}
        self.status: Status | None = None
        self.error = ""
        self.steps: list[Step] = []
        self.tools: Sequence[Tool] = ()
        self._env = env
        self._env_id = env_id
        self._policy = policy
        self._initial_observation = ""
        self._started_s = time.perf_counter()

    def begin(self) -> None:
        """Reset the environment to the task; whatever it raises is its failure."""
        self._started_s = time.perf_counter()
        options = {"task": self.job.task.id}
        self.observation, self.info = self._env.reset(seed=self.job.episode_seed, options=options)
        self._initial_observation = self.observation

    def advance(self, decision: Decision) -> bool:
        """Execute a decision.

        Args:
            decision: from `checked_decision`; one with an error ends the episode as `agent_error`.

        Returns:
            Whether the episode goes on.

        Raises:
            Exception: the environment failed; the step is not recorded, and the environment has to
                be reset.
        """
        if decision.error:
            self.fail(decision.error)
            return False
        try:
            observation, reward, terminated, truncated, info = self._env.step(decision.action)
            _check_numbers(reward, info)
        except ActionTypeError as error:
            self.fail(describe(error))
            return False
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
        self.steps.append(step)
        self.observation, self.info = observation, info
        if terminated or truncated:
            self.status = "completed" if terminated else "truncated"
        return self.status is None

    def fail(self, error: str) -> None:
        """End the episode as `agent_error`; `error` says what went wrong."""
        self.status, self.error = "agent_error", error

    def end(
        self, messages: list[Message], status: Status | None = None, error: str = ""
    ) -> Trajectory:
        """Record the episode.

        Args:
            messages: the agent's conversation (`messages_of`); empty if it holds none.
            status: how the episode ended, if the caller ended it: ``"cancelled"`` or
                ``"env_error"``.
            error: what went wrong, for this status.

        Raises:
            ValueError: the episode goes on, and no status is given.
        """
        if status is None:
            status, error = self.status, self.error
        if status is None:
            raise ValueError("the episode goes on: give the status with which it ends")
        tasks, task = self._env.tasks, self.job.task
        return Trajectory(
            env_id=self._env_id,
            world=self._env.world,
            dataset=tasks.dataset,
            split=tasks.split,
            tasks_sha256=tasks.sha256,
            task_id=task.id,
            kind=task.kind,
            goal=task.goal,
            seed=self.job.seed,
            policy=self._policy,
            initial_observation=self._initial_observation,
            messages=messages,
            steps=self.steps,
            status=status,
            score=float(self.info.get("score", 0.0)),
            success=bool(self.info.get("success", False)),
            error=error,
            wall_s=time.perf_counter() - self._started_s,
            sample=self.job.sample,
            tools=list(self.tools),
        )


def _check_numbers(reward: float, info: Info) -> None:
    """Refuse numbers that no mean and no file can hold.

    Raises:
        BackendError: a reward or the score is not finite.
    """
    numbers = {"reward": reward, "task_reward": info["task_reward"], "score": info["score"]}
    for name, value in (numbers | info["reward_terms"]).items():
        if not math.isfinite(value):
            raise BackendError(f"the environment returned {value} as its {name}")


def checked_decision(decision: Any) -> Decision:
    """Normalise what an agent decided; what cannot be executed or stored becomes an agent error."""
    if not isinstance(decision, Decision):
        return Decision("", error=f"act returned a {type(decision).__name__}, not a Decision")
    if decision.error:
        return Decision(
            "",
            usage=decision.usage,
            error=str(decision.error),
            is_permanent=bool(decision.is_permanent),
        )
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


def messages_of(policy: Policy, slot: int) -> list[Message]:
    """The policy's conversation in a slot; empty, with a warning, if it is malformed."""
    try:
        return [as_message(message) for message in conversation_of(policy, slot)]
    except Exception as error:  # noqa: BLE001 (third-party code: lose the record, not the run)
        logger.warning("the policy's conversation cannot be recorded: %s", describe(error))
        return []
