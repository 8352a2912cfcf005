"""`Chat`: an episode as the messages a model is trained on, made from trajectories and back.

The way back loses what a file of messages does not have. Rewards of single steps are one of these:
all of the score is given to the last step. Whether the world accepted an action is known where it
says so in words (ALFWorld, ScienceWorld); elsewhere an action counts as accepted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from eto_agents.react.context import transcript
from eto_agents.react.parse import NO_ACTION, Format
from eto_agents.react.prompts import Prompt, find_prompt, prompt_key_of
from eto_agents.react.protocols import find_protocol
from eto_agents.react.tools import ACT, had_tools
from eto_agents.trajectory import (
    STATUSES,
    Message,
    Status,
    Step,
    Trajectory,
    next_roles,
    reply_indices,
)
from eto_agents.worlds import find_world


@dataclass(frozen=True, slots=True)
class Chat:
    """An episode as a chat.

    Attributes:
        messages: prompt, task and turns; the last message is the agent's.
        n_prompt: how many messages come before the one that gives the task.
        task_id: the task's id.
        score: final score in [0, 1]; None if it is not known.
        facts: what else is known, by the names of `Trajectory`'s fields: env_id, world, dataset,
            split, tasks_sha256, kind, goal, seed, sample, policy, status, initial_observation.
        has_tools: whether the agent could call tools, even if it did not.
    """

    messages: list[Message]
    n_prompt: int
    task_id: str
    score: float | None
    facts: Mapping[str, Any] = field(default_factory=dict)
    has_tools: bool = False


FACTS: Final = (
    "env_id",
    "world",
    "dataset",
    "split",
    "tasks_sha256",
    "kind",
    "goal",
    "seed",
    "sample",
    "policy",
    "status",
    "initial_observation",
)
"""Fields of a trajectory that a chat has as facts."""


def chat_of(trajectory: Trajectory, prompt: Prompt, *, with_example: bool = False) -> Chat:
    """The chat of an episode, cut after the agent's last message.

    Args:
        trajectory: the episode.
        prompt: what the agent is told first.
        with_example: whether it is shown the worked example.

    Raises:
        ValueError: the episode has no steps, or calls tools in a conversation that lacks replies.
        SettingsError: the episode calls tools, and the prompt asks for actions as text.
    """
    if not trajectory.steps:
        raise ValueError(f"the episode of task {trajectory.task_id!r} has no steps")
    has_tools = had_tools(trajectory) and bool(trajectory.messages)
    messages = transcript(
        prompt,
        trajectory.initial_observation,
        trajectory.steps,
        with_example=with_example,
        replies=trajectory.replies if has_tools else None,
    )
    replies = reply_indices(messages, len(trajectory.steps))
    return Chat(
        messages[: replies[-1] + 1],
        replies[0] - 1,  # the task comes before the first reply
        trajectory.task_id,
        trajectory.score,
        {name: getattr(trajectory, name) for name in FACTS},
        has_tools,
    )


def chats_of(
    trajectories: Iterable[Trajectory],
    prompts: Mapping[str, Prompt],
    *,
    with_example: bool = False,
) -> Iterator[Chat]:
    """The chats of episodes, each with the prompt of its world.

    Raises:
        UnknownNameError: there is no prompt for a world.
    """
    for trajectory in trajectories:
        # A single prompt from a file of one's own is for whatever was played.
        variant = next(iter(prompts)) if len(prompts) == 1 else prompt_key_of(trajectory)
        yield chat_of(trajectory, find_prompt(prompts, variant), with_example=with_example)


def trajectory_of(chat: Chat, world: str, *, score_if_unknown: float = 1.0) -> Trajectory:
    """The episode of a chat, as far as the chat tells it.

    Args:
        chat: with at least one message of the agent's after the task.
        world: whose format its texts have, such as ``"webshop"``.
        score_if_unknown: what an episode without a score counts as.

    Raises:
        ValueError: user and assistant do not take turns after the prompt, or a fact is impossible.
    """
    turns = chat.messages[chat.n_prompt :]
    next_roles(turns)  # raises if they are out of order
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise ValueError("after the prompt, task and agent do not take turns to the agent's last")
    known_as = find_world(world)
    facts = dict(chat.facts)
    first = facts.pop("initial_observation", None)
    if first is None:
        first = _without_prefix(turns[0]["content"], find_world(world).format)
    score = score_if_unknown if chat.score is None else chat.score
    status = facts.pop("status", "completed")
    if status not in STATUSES:
        raise ValueError(f"unknown status {status!r}")
    goal = re.search(known_as.goal, first, re.DOTALL)
    known: dict[str, Any] = {
        "env_id": known_as.env_id or world,
        "world": known_as.name or world,
        "dataset": "",
        "split": "",
        "tasks_sha256": "",
        "kind": "",
        "goal": goal[1].strip() if goal else "",
        "seed": 0,
        "policy": "imported",
    }
    return Trajectory(
        **(known | facts),
        task_id=chat.task_id,
        initial_observation=first,
        messages=chat.messages,
        steps=_steps(turns, world, score, chat.has_tools),
        status=cast(Status, status),
        score=score,
        success=score >= 1.0,
        tools=[ACT] if chat.has_tools else [],
    )


def _steps(turns: list[Message], world: str, score: float, has_tools: bool) -> list[Step]:
    """The steps of an episode.

    Args:
        turns: the task, and then replies and what follows them.
        world: whose format they have.
        score: of the episode.
        has_tools: whether the agent could call tools.
    """
    form, refusals = find_world(world).format, find_world(world).refusals
    protocol = find_protocol("tool" if has_tools else "thought", Prompt(world, instruction=""))
    steps = []
    for i, message in enumerate(turns):
        if message["role"] != "assistant":
            continue
        is_last = i + 1 == len(turns)
        said = protocol.parse(message)
        answer = "" if is_last or said.error else turns[i + 1]["content"]
        observation = answer if message.get("tool_calls") else _without_prefix(answer, form)
        is_refused = bool(refusals) and re.match(refusals, observation) is not None
        steps.append(
            Step(
                action=said.action,
                observation=observation,
                reward=score if is_last else 0.0,
                task_reward=score if is_last else 0.0,
                reward_terms={},
                score=score if is_last else 0.0,
                is_valid=said.action != NO_ACTION and not is_refused,
                text=message["content"],
                thought=said.thought,
            )
        )
    return steps


def _without_prefix(text: str, form: Format) -> str:
    return text.removeprefix(form.prefix)
