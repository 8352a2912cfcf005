"""`Trajectory`: the record of one episode, and its JSON line.

A line holds everything needed to replay, score, render or train on the episode: the task and its
task set, the agent's conversation, and the action, observation and reward of each step. Files of
trajectories are written by `eto_agents.store`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypedDict, get_args

from eto_agents.strict_json import json_text
from eto_envs.errors import CorruptDataError
from eto_envs.files import parse_json

SCHEMA_VERSION = 3

Status = Literal["completed", "truncated", "agent_error", "env_error", "cancelled"]
"""How an episode ended: the task ended it, the step limit did, the agent failed, the environment
failed, or the run was interrupted."""

STATUSES: Final[tuple[str, ...]] = get_args(Status)

PLAYED: Final = ("completed", "truncated")
"""The statuses of episodes that the task or its step limit ended: their scores count."""


class FunctionCall(TypedDict):
    """A function that a model calls; `arguments` is JSON as the model wrote it, perhaps wrong."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A call in an assistant's message, in OpenAI's form; `type` is ``"function"``."""

    id: str
    type: str
    function: FunctionCall


class Tool(TypedDict):
    """A function that a model may call, as a JSON schema in OpenAI's form."""

    type: str
    function: dict[str, Any]


class _Message(TypedDict):
    role: str
    content: str


class Message(_Message, total=False):
    """One chat message in OpenAI's form.

    `role` is ``"system"``, ``"user"``, ``"assistant"`` or ``"tool"``. An assistant's message may
    have `tool_calls`; a tool's has the `tool_call_id` of the call that it answers.
    """

    tool_calls: list[ToolCall]
    tool_call_id: str


def as_message(message: Mapping[str, Any]) -> Message:
    """A message of OpenAI's form, or of Hugging Face's, with the fields that are recorded.

    Args:
        message: its `content` may be None or a list of parts, of which the texts are taken; the
            arguments of tool calls may be objects, and calls may lack an id.

    Raises:
        TypeError: it is not a message.
    """
    try:
        recorded: Message = {
            "role": str(message["role"]),
            "content": _content(message["content"]),
        }
        if calls := message.get("tool_calls"):
            recorded["tool_calls"] = [_tool_call(call, n) for n, call in enumerate(calls, start=1)]
        if message.get("tool_call_id") is not None:
            recorded["tool_call_id"] = str(message["tool_call_id"])
    except (TypeError, KeyError, AttributeError) as error:
        raise TypeError(f"not a message ({error!r}): {message!r:.200}") from error
    return recorded


def _content(content: Any) -> str:
    if content is None:  # where there are only tool calls
        return ""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type", "text") == "text")
    if not isinstance(content, str):
        raise TypeError(f"the content is of type {type(content).__name__}")
    return content


def _tool_call(call: Mapping[str, Any], number: int) -> ToolCall:
    function = call.get("function", call)
    arguments = function["arguments"]
    if not isinstance(arguments, str):
        arguments = json_text(arguments)
    return {
        "id": str(call.get("id") or f"call-{number}"),
        "type": "function",
        "function": {"name": str(function["name"]), "arguments": arguments},
    }


def with_objects(message: Message) -> dict[str, Any]:
    """A message in Hugging Face's form, in which the arguments of a call are an object.

    Arguments that are no JSON stay a text.
    """
    record: dict[str, Any] = {**message}
    if "tool_calls" in message:
        record["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": arguments_of(call["function"])}}
            for call in message["tool_calls"]
        ]
    return record


def arguments_of(function: FunctionCall) -> Any:
    """The value of a call's arguments; the text if it is no JSON."""
    try:
        return json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return function["arguments"]


def reply_indices(messages: Sequence[Message], n_steps: int) -> list[int]:
    """Where in a conversation the agent's messages of an episode are: its last `n_steps`."""
    said = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    return said[max(0, len(said) - n_steps) :]  # those of a worked example come before


def next_roles(messages: Sequence[Message]) -> tuple[str, ...]:
    """The roles that the message after a chat may have.

    After at most one system message, user and assistant take turns, the user first. A message with
    tool calls is followed by as many results, and then by the assistant or the user.

    Raises:
        ValueError: the messages are not in this order.
    """
    roles = [message["role"] for message in messages]
    expected: tuple[str, ...] = ("user",)
    n_waiting = 0  # tool calls without a result so far
    for message in messages[int(roles[:1] == ["system"]) :]:
        role, n_calls = message["role"], len(message.get("tool_calls", ()))
        if role not in expected or (n_calls and role != "assistant"):
            raise ValueError(
                "the roles must be user and assistant in turn, after at most one system message, "
                f"with a tool's result for each tool call, got {roles}"
            )
        n_waiting = n_calls or max(0, n_waiting - 1)
        if n_waiting:
            expected = ("tool",)
        elif role == "tool":
            expected = ("assistant", "user")
        else:
            expected = ("user",) if role == "assistant" else ("assistant",)
    return expected


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


STEP_TEXTS: Final = ("action", "observation", "text", "thought")
"""The fields of a `Step` that hold text."""


class EpisodeKey(NamedTuple):
    """Identifies an episode within a run."""

    split: str
    task_id: str
    seed: int
    sample: int = 0


class EpisodeSummary(NamedTuple):
    """What the progress of a run shows of an episode; attributes as of `Trajectory`."""

    key: EpisodeKey
    status: Status
    score: float
    n_completion_tokens: float

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.key.task_id


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
        tools: what the agent could call (the protocol ``"tool"``), whether it did or not; empty for
            an agent without tools, and in records that are older than this field.
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
    tools: list[Tool] = field(default_factory=list)
    schema: int = SCHEMA_VERSION

    @property
    def key(self) -> EpisodeKey:
        """The key that identifies the episode within a run."""
        return EpisodeKey(self.split, self.task_id, self.seed, self.sample)

    @property
    def n_completion_tokens(self) -> float:
        """Number of tokens that the agent wrote, as far as it is known."""
        return sum(step.usage.get("completion_tokens", 0.0) for step in self.steps)

    @property
    def summary(self) -> EpisodeSummary:
        """What the progress of a run shows."""
        return EpisodeSummary(self.key, self.status, self.score, self.n_completion_tokens)

    @property
    def replies(self) -> list[Message]:
        """The agent's message of each step; fewer if `messages` lack some."""
        messages = self.messages
        if self.status == "env_error" and messages and messages[-1]["role"] == "assistant":
            messages = messages[:-1]  # the environment failed at it, so that there is no step
        return [messages[i] for i in reply_indices(messages, len(self.steps))]

    def to_json(self) -> str:
        """The record as one line of JSON, without the newline; always encodable as UTF-8."""
        return json_text(dataclasses.asdict(self, dict_factory=without_empty_tools))

    @classmethod
    def from_json(cls, line: str) -> Trajectory:
        """Read what `to_json` wrote.

        Raises:
            CorruptDataError: the line is not such a record, or has another schema version.
        """
        record = parse_json(line, "not a trajectory")
        try:
            check_schema("the trajectory", record["schema"], SCHEMA_VERSION)
            record["steps"] = [Step(**step) for step in record["steps"]]
            trajectory = cls(**record)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptDataError(f"not a trajectory ({error!r}): {line[:80]!r}") from error
        for problem in _problems(trajectory):
            raise CorruptDataError(problem)
        return trajectory


def without_empty_tools(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """The `dict_factory` of records: an agent without tools leaves the same line as before.

    So files and the hashes of inputs do not depend on whether the field `tools` existed yet.
    """
    return {name: value for name, value in items if name != "tools" or value}


_TEXTS: Final = (
    *("env_id", "world", "dataset", "split", "tasks_sha256", "task_id", "kind", "goal", "policy"),
    *("initial_observation", "error"),
)


_LARGEST: Final = sys.float_info.max  # whole numbers of JSON can be larger


def _problems(episode: Trajectory) -> Iterator[str]:
    """What is wrong with the values of an episode that has the right fields."""
    yield from _wrong_texts(episode, _TEXTS)
    if episode.status not in STATUSES:
        yield f"unknown status {episode.status!r:.60}"
    for name in ("seed", "sample"):
        if type(getattr(episode, name)) is not int:
            yield f"{name} is {getattr(episode, name)!r:.60}, not a whole number"
    if type(episode.success) is not bool:
        yield f"success is {episode.success!r:.60}, not true or false"
    if not isinstance(episode.messages, list) or not all(map(is_message, episode.messages)):
        yield f"messages are {episode.messages!r:.60}, not texts with roles"
    if not isinstance(episode.tools, list) or not all(map(_is_tool, episode.tools)):
        yield f"tools are {episode.tools!r:.60}, not functions with names"
    yield from _wrong_numbers({"wall_s": episode.wall_s})
    yield from _wrong_score(episode.score)
    for number, step in enumerate(episode.steps, start=1):
        yield from (f"step {number}: {problem}" for problem in _step_problems(step))


def _step_problems(step: Step) -> Iterator[str]:
    if not isinstance(step.reward_terms, dict) or not isinstance(step.usage, dict):
        yield "reward_terms and usage must be JSON objects"
        return
    numbers = {name: getattr(step, name) for name in ("reward", "task_reward", "latency_s")}
    yield from _wrong_texts(step, STEP_TEXTS)
    yield from _wrong_numbers({**numbers, **step.reward_terms, **step.usage})
    yield from _wrong_score(step.score)
    if type(step.is_valid) is not bool:
        yield f"is_valid is {step.is_valid!r:.60}, not true or false"
    for name, kinds in (("token_ids", {int}), ("log_probs", {int, float})):
        values = getattr(step, name)
        if values is not None and not (isinstance(values, list) and {*map(type, values)} <= kinds):
            yield f"{name} are {values!r:.60}, not a list of numbers"


def is_message(message: object) -> bool:
    """Whether a value is a `Message`."""
    return (
        isinstance(message, dict)
        and all(isinstance(message.get(name), str) for name in ("role", "content"))
        and isinstance(message.get("tool_call_id", ""), str)
        and isinstance(calls := message.get("tool_calls", []), list)
        and all(map(_is_tool_call, calls))
    )


def _is_tool_call(call: object) -> bool:
    return (
        isinstance(call, dict)
        and isinstance(call.get("id"), str)
        and isinstance(function := call.get("function"), dict)
        and all(isinstance(function.get(name), str) for name in ("name", "arguments"))
    )


def _is_tool(tool: object) -> bool:
    return (
        isinstance(tool, dict)
        and isinstance(tool.get("type"), str)
        and isinstance(function := tool.get("function"), dict)
        and isinstance(function.get("name"), str)
    )


def _wrong_texts(record: object, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        value = getattr(record, name)
        if not isinstance(value, str):
            yield f"{name} is {value!r:.60}, not a string"


def _wrong_numbers(numbers: Mapping[str, Any]) -> Iterator[str]:
    for name, value in numbers.items():
        if not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:
            yield f"{name} is {value!r:.60}, not a finite number"


def _wrong_score(score: Any) -> Iterator[str]:
    if not isinstance(score, (int, float)) or isinstance(score, bool) or not 0.0 <= score <= 1.0:
        yield f"score is {score!r:.60}, not a number in [0, 1]"


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
