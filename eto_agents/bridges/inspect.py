"""Inspect (``inspect_ai``): every split of every world as a task.

    inspect eval eto_agents/webshop -T dataset=full -T split=seen --model openai/gpt-4o-mini

A sample is an episode, with the prompts, the conversation and the score of `eto eval`. Inspect
finds the tasks through the entry points of group ``inspect_ai``, which name this module.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, Final

from anyio import to_thread
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
    get_model,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.tool import ToolCall, ToolInfo
from inspect_ai.util import LimitExceededError, registry_info

from eto_agents.chat_episode import ChatEpisode
from eto_agents.models.base import Sampling, find_stop
from eto_agents.react.tools import ACT
from eto_agents.settings import ProtocolName
from eto_agents.trajectory import Message
from eto_envs.errors import EtoError
from eto_envs.registration import task_set
from eto_envs.tasks import Task as EtoTask

_STOP: Final = Sampling().stop
_PROGRESS: Final = "eto_progress"
_FAILURE: Final = "eto_failure"
"""Keys in a sample's store: what the episode has come to, and why it has no score."""


class AgentError(EtoError):
    """The model's reply cannot be used, so that the episode has no score."""


def _world(name: str, env_id: str, about: str) -> Callable[..., Task]:
    """Register the task ``eto_agents/NAME``."""

    def make(
        split: str = "seen",
        dataset: str = "auto",
        protocol: ProtocolName = "thought",
        prompts: str = "own",
        with_example: bool = True,
    ) -> Task:
        tasks = task_set(env_id, split, dataset)
        source = {
            "env_id": env_id,
            "dataset": tasks.dataset,
            "split": tasks.split,
            "tasks_sha256": tasks.sha256,
        }
        return Task(
            MemoryDataset(
                [_sample(each, source) for each in tasks],
                name=f"{env_id}/{tasks.dataset}/{tasks.split}",
            ),
            solver=chat_episode(
                env_id,
                protocol=protocol,
                prompts=prompts,
                with_example=with_example,
                split=split,
                dataset=dataset,
            ),
            scorer=final_score(),
            config=GenerateConfig(temperature=0.0),  # as `eto eval`
            version=metadata.version("eto-gym"),
            metadata=source,
        )

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"""{about}

    Args:
        split: the split whose tasks are the samples.
        dataset: mini, an official name, or a folder that holds the official files; by default the
            official data if downloaded, else mini.
        protocol: thought for replies "Thought: … Action: …", tool for calls of the tool act.
        prompts: own, brief, published (only with the protocol thought), or a TOML file.
        with_example: whether the prompt has the worked example.
    """
    registered: Callable[..., Task] = task(make)
    if registry_info(registered).name == name:  # in an editable install Inspect adds no package
        registered = task(name=f"eto_agents/{name}")(make)
    return registered


webshop = _world("webshop", "ETO-WebShop-v0", "WebShop: buy what a customer asks for.")
alfworld = _world("alfworld", "ETO-ALFWorld-v0", "ALFWorld: do chores in a house.")
scienceworld = _world(
    "scienceworld", "ETO-ScienceWorld-v0", "ScienceWorld: carry out elementary experiments."
)


def _sample(of_task: EtoTask, source: Mapping[str, str]) -> Sample:
    facts = {"task_id": of_task.id, "kind": of_task.kind, "max_steps": of_task.max_steps}
    return Sample(input=of_task.goal, id=of_task.id, metadata={**source, **facts})


@solver
def chat_episode(env_id: str, **arguments: Any) -> Solver:
    """Let the model play the episode of the task that the sample's id names.

    Args:
        env_id: the Gymnasium id.
        **arguments: further arguments of `ChatEpisode`.
    """

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        try:
            # In threads, as a simulator may take a while and other samples wait for their models.
            episode = await to_thread.run_sync(
                lambda: ChatEpisode(
                    env_id, str(state.sample_id), sample=state.epoch - 1, **arguments
                )
            )
            with episode:
                await _play(episode, state)
        except LimitExceededError:
            raise
        except Exception as error:
            state.store.set(_FAILURE, str(error))
            raise
        return state

    return solve


async def _play(episode: ChatEpisode, state: TaskState) -> None:
    tools = [ToolInfo.model_validate(tool["function"]) for tool in episode.tools]
    state.messages = [_of_inspect(message) for message in episode.messages]
    _record(episode, state)
    while not episode.over:
        state.output = await get_model().generate(state.messages, tools=tools)
        reply = state.output.message if tools else _cut_at_stop(state.output.message)
        state.messages.append(reply)
        if state.output.stop_reason == "model_length":
            raise AgentError("the conversation does not fit into the model's context")
        turn = await to_thread.run_sync(episode.reply, _of_openai(reply))
        if episode.over and episode.trajectory.status == "agent_error":
            raise AgentError(episode.trajectory.error)
        state.messages += [_of_inspect(message) for message in turn.messages]
        _record(episode, state)
    state.completed = True


def _record(episode: ChatEpisode, state: TaskState) -> None:
    names = ("score", "success", "n_steps")
    state.store.set(_PROGRESS, {name: episode.info[name] for name in names})


@scorer(metrics=[mean(), stderr()])
def final_score() -> Scorer:
    """The episode's score in [0, 1]; the score so far, if one of Inspect's limits has ended it.

    A sample that has failed has no score, also with ``--score-on-error``.
    """

    async def score(state: TaskState, target: Target) -> Score:
        failure = state.store.get(_FAILURE)
        progress = state.store.get(_PROGRESS)
        if failure is not None or progress is None:
            return Score.unscored(explanation=failure)
        return Score(value=progress["score"], metadata=progress)

    return score


def _cut_at_stop(reply: ChatMessageAssistant) -> ChatMessageAssistant:
    """End a reply where the model begins to write the observation itself, as `eto eval` does."""
    cut = find_stop(reply.text, _STOP)
    return reply if cut is None else reply.model_copy(update={"content": reply.text[:cut]})


def _of_openai(reply: ChatMessageAssistant) -> dict[str, Any]:
    """A reply in OpenAI's form; a call that Inspect could not parse has no arguments."""
    calls = [
        {
            "id": call.id,
            "function": {
                "name": call.function,
                "arguments": {} if call.parse_error else call.arguments,
            },
        }
        for call in reply.tool_calls or ()
    ]
    return {"content": reply.text, "tool_calls": calls}


def _of_inspect(message: Message) -> ChatMessage:
    content = message["content"]
    if message["role"] == "system":
        return ChatMessageSystem(content=content)
    if message["role"] == "user":
        return ChatMessageUser(content=content)
    if message["role"] == "tool":
        name = ACT["function"]["name"]
        return ChatMessageTool(content=content, tool_call_id=message["tool_call_id"], function=name)
    calls = [
        ToolCall(call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message.get("tool_calls", ())
    ]
    return ChatMessageAssistant(content=content, tool_calls=calls or None)
