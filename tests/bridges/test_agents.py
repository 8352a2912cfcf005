"""The recipes for agent frameworks in the documentation: the scores of `evaluate`."""

from __future__ import annotations

import itertools
import runpy
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from smolagents import Model, tool
from smolagents.models import (
    ChatMessage,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    MessageRole,
)

from eto_agents import ChatEpisode
from eto_agents.bridges.functions import act_in
from eto_agents.react.protocols import OVER
from eto_agents.react.tools import ACT
from eto_envs.errors import BackendError
from tests import test_docs
from tests.agents import scientist, shopper
from tests.toy import BROKEN, CORRIDOR

WEBSHOP, ALFWORLD = "ETO-WebShop-v0", "ETO-ALFWorld-v0"
MINI: dict[str, Any] = {"split": "seen", "dataset": "mini"}
OF_TOYS: dict[str, Any] = {"prompts": "brief", "world": "webshop"}
Agent = Callable[[str], str]


class SmolModel(Model):
    """An agent as a model of smolagents."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(model_id="scripted")
        self._agent = agent
        self._numbers = itertools.count(1)

    def generate(self, messages: list[ChatMessage], *_: Any, **__: Any) -> ChatMessage:
        content: Any = messages[-1].content
        text = content if isinstance(content, str) else content[0]["text"]
        name, arguments = "act", {"action": self._agent(text)}
        if OVER in text:
            name, arguments = "final_answer", {"answer": "done"}
        function = ChatMessageToolCallFunction(arguments=arguments, name=name)
        call = ChatMessageToolCall(function=function, id=str(next(self._numbers)), type="function")
        return ChatMessage(role=MessageRole.ASSISTANT, content="", tool_calls=[call])


class ChainModel(BaseChatModel):
    """An agent as a model of LangChain."""

    agent: Any

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        assert [t.name for t in tools] == ["act"]
        return self

    def _generate(self, messages: list[Any], *_: Any, **__: Any) -> ChatResult:
        text = str(messages[-1].content)
        calls = [{"name": "act", "args": {"action": self.agent(text)}, "id": str(len(messages))}]
        message = AIMessage(
            "done" if OVER in text else "", tool_calls=[] if OVER in text else calls
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


MODELS: Any = {"smolagents": SmolModel, "langgraph": lambda agent: ChainModel(agent=agent)}


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    script: Path = tmp_path_factory.mktemp("page") / "example.py"
    script.write_text(test_docs.examples(test_docs.ROOT / "docs/bridges/agents.md"))
    names = runpy.run_path(str(script))

    def play(framework: str, agent: Agent, *args: Any, **options: Any) -> Any:
        return names[f"play_with_{framework}"](MODELS[framework](agent), *args, **options)

    return play


@pytest.mark.parametrize("framework", MODELS)
def test_the_scores_are_those_of_evaluate(framework: str, play: Any) -> None:
    played = [play(framework, shopper.command, WEBSHOP, i, **MINI) for i in range(20)]
    assert {trajectory.status for trajectory in played} <= {"completed", "truncated"}
    scores = [trajectory.score for trajectory in played]
    for n in (5, 20):
        assert statistics.fmean(scores[:n]) == pytest.approx(shopper.SCORES[n], abs=5e-6)


@pytest.mark.parametrize("env_id", [WEBSHOP, ALFWORLD])
@pytest.mark.parametrize("framework", MODELS)
def test_the_expert_scores_1(framework: str, env_id: str, play: Any) -> None:
    for task in range(2):
        with ChatEpisode(env_id, task, reveal=("expert_action",), **MINI) as other:
            actions = []
            while not other.over:
                actions.append(other.info["expert_action"])
                other.reply(f"Action: {actions[-1]}")
        commands = iter([*actions, ""])
        trajectory = play(framework, lambda _, c=commands: next(c), env_id, task, **MINI)
        assert trajectory.success
        assert [step.action for step in trajectory.steps] == actions


@pytest.mark.java
@pytest.mark.parametrize("framework", MODELS)
def test_the_scores_in_scienceworld(framework: str, play: Any) -> None:
    for task in scientist.TASKS:
        agent = scientist.agent_of(task)
        trajectory = play(framework, agent, scientist.SCIENCEWORLD, task, **scientist.SEEN)
        assert trajectory.score == pytest.approx(scientist.score_of(task))


@pytest.mark.parametrize("framework", MODELS)
def test_the_step_limit_ends_the_episode(framework: str, play: Any) -> None:
    trajectory = play(framework, lambda _: "west", CORRIDOR, 0, **OF_TOYS)
    assert (trajectory.status, len(trajectory.steps)) == ("truncated", 12)


def test_a_world_that_fails(play: Any) -> None:
    with pytest.raises(BackendError, match="the world ended"):
        play("langgraph", lambda _: "go", BROKEN, 0, **OF_TOYS)
    trajectory = play("smolagents", lambda _: "go", BROKEN, 0, **OF_TOYS)
    assert trajectory.status == "env_error"


def test_the_function_is_the_tool() -> None:
    episode = ChatEpisode(WEBSHOP, 0, protocol="tool", **MINI)
    made = tool(act_in(episode))
    function = ACT["function"]
    assert (made.name, made.description) == (function["name"], function["description"])
    assert {made.name: made.inputs} == {"act": function["parameters"]["properties"]}
    with pytest.raises(ValueError, match="protocol"):
        act_in(ChatEpisode(WEBSHOP, 0, **MINI))
    act = act_in(ChatEpisode(CORRIDOR, 0, protocol="tool", **OF_TOYS))
    assert act("east") == "You are in room 1."
    assert act("east") == OVER  # and not what may state the score
    assert act("east") == OVER
