"""`Trajectory`: the record of one episode, and its JSON line.

A line holds everything needed to replay, score, render or train on the episode: the task and its
task set, the agent's conversation, and the action, observation and reward of each step. Files of
trajectories are written by `eto_agents.store`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypedDict, get_args

from eto_agents.strict_json import json_text
from eto_envs.errors import CorruptDataError

SCHEMA_VERSION = 3

Status = Literal["completed", "truncated", "agent_error", "env_error", "cancelled"]
"""How an episode ended: the task ended it, the step limit did, the agent failed, the environment
failed, or the run was interrupted."""

STATUSES: Final[tuple[str, ...]] = get_args(Status)

PLAYED: Final = ("completed", "truncated")
"""The statuses of episodes that the task or its step limit ended: their scores count."""


class Message(TypedDict):
    """One chat message; `role` is ``"system"``, ``"user"`` or ``"assistant"``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Step:
    """One action and its outcome.

    Attributes:
        action: the command sent to the environment.
        observation: the text that it returned.
        reward: the returned reward, shaping included.
        task_reward: the unshaped reward.
        reward_terms: shaping terms by name.
        score: the episode's score after the step, in [0, 1].
        is_valid: whether the environment accepted the action.
        text: the agent's full reply, if it is more than the action.
        thought: the part of `text` before the action.
        token_ids: token ids of `text`, if it was sampled locally.
        log_probs: natural-log probabilities of `token_ids`, same length.
        usage: counts such as ``prompt_tokens``, ``completion_tokens``, ``cost_usd``.
        latency_s: seconds the agent took to decide.
    """

    action: str
    observation: str
    reward: float
    task_reward: float
    reward_terms: Mapping[str, float]
    score: float
    is_valid: bool
    text: str = ""
    thought: str = ""
    token_ids: list[int] | None = None
    log_probs: list[float] | None = None
    usage: Mapping[str, float] = field(default_factory=dict)
    latency_s: float = 0.0


class EpisodeKey(NamedTuple):
    """Identifies an episode within a run."""

    split: str
    task_id: str
    seed: int
    sample: int = 0


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode.

    Attributes:
        env_id: the Gymnasium id.
        world: the environment's world, such as ``"webshop"``.
        dataset: the dataset's name.
        split: the split's name.
        tasks_sha256: the task set's hash.
        task_id: the task's id.
        kind: the task's type.
        goal: the instruction.
        seed: the run's seed under which the episode was played.
        policy: the policy's name.
        initial_observation: the observation returned by reset.
        messages: the agent's conversation in chat form: prompt, task, and then replies and
            observations in turn; it ends with the last reply, so that it can be trained on as it
            stands. Empty for an agent that holds no conversation.
        steps: the steps, in order.
        status: how the episode ended.
        score: final score in [0, 1].
        success: whether the score is 1.
        error: for `agent_error` and `env_error`, what went wrong: one line, possibly followed by a
            traceback.
        wall_s: seconds from reset to end; other episodes were played at the same time.
        sample: number of the sample among the episodes of the same task and seed.
        schema: version of this record.
    """

    env_id: str
    world: str
    dataset: str
    split: str
    tasks_sha256: str
    task_id: str
    kind: str
    goal: str
    seed: int
    policy: str
    initial_observation: str
    messages: list[Message]
    steps: list[Step]
    status: Status
    score: float
    success: bool
    error: str = ""
    wall_s: float = 0.0
    sample: int = 0
    schema: int = SCHEMA_VERSION

    @property
    def key(self) -> EpisodeKey:
        """The key that identifies the episode within a run."""
        return EpisodeKey(self.split, self.task_id, self.seed, self.sample)

    def to_json(self) -> str:
        """The record as one line of JSON, without the newline; always encodable as UTF-8."""
        return json_text(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Trajectory:
        """Read what `to_json` wrote.

        Raises:
            CorruptDataError: the line is not such a record, or has another schema version.
        """
        try:
            record: dict[str, Any] = json.loads(line)
            check_schema("the trajectory", record["schema"], SCHEMA_VERSION)
            if record["status"] not in STATUSES:
                raise CorruptDataError(f"unknown status {record['status']!r}")
            record["steps"] = [Step(**step) for step in record["steps"]]
            return cls(**record)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptDataError(f"not a trajectory ({error!r}): {line[:80]!r}") from error


def check_schema(what: str, schema: object, expected: int) -> None:
    """Check the schema version of a record.

    Raises:
        CorruptDataError: `schema` is not `expected`.
    """
    if schema != expected:
        raise CorruptDataError(
            f"{what} has schema {schema!r}, but this version of eto-gym reads schema {expected}: "
            "read it with the version that wrote it, or create it again"
        )
