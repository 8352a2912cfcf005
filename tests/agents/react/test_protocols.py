"""The protocol in which an agent calls a tool: prompts, replies, errors, the example."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_agents.react.context import Conversation, estimate_tokens
from eto_agents.react.parse import NO_ACTION
from eto_agents.react.prompts import Prompt, load_prompts
from eto_agents.react.protocols import OVER, call_of, find_protocol
from eto_agents.react.tools import ACT
from eto_agents.settings import SettingsError
from eto_agents.trajectory import Message
from eto_agents.worlds import all_worlds
from eto_envs.errors import UnknownNameError

WORLDS = [variant for world in all_worlds() for variant in world.variants]
PROMPT = load_prompts()["webshop"]


def call(name: str, arguments: str, call_id: str = "1") -> Any:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def reply(*calls: Any, content: str = "") -> Message:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def test_a_conversation_of_calls() -> None:
    conversation = Conversation(PROMPT, "the task", protocol="tool", with_example=False)
    assert conversation.tools == (ACT,)
    system, task = conversation.messages()
    assert system["role"] == "system"
    assert system["content"].startswith(PROMPT.instruction)
    assert "Action:" not in system["content"]
    assert task == {"role": "user", "content": "the task"}
    said = reply(call_of("search[a]", "7"), content="<think>b or a?</think>I look for a.")
    parsed = conversation.add_reply(said)
    assert (parsed.action, parsed.thought, parsed.error) == ("search[a]", "I look for a.", "")
    answers = conversation.add_observation("page")
    assert answers == [{"role": "tool", "content": "page", "tool_call_id": "7"}]
    assert conversation.messages()[2:] == [said, *answers]
    assert conversation.n_turns == 1


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("Thought: x\nAction: search[a]", "Call the tool `act`"),
        (reply(), "Call the tool `act`"),
        (reply(call("click", "{}")), "There is no tool 'click'"),
        (reply(call("act", "search[a]")), "must be a JSON object"),
        (reply(call("act", '"search[a]"')), "must be a JSON object"),
        (reply(call("act", '{"action": 3}')), "must be a JSON object"),
        (reply(call("act", '{"command": "search[a]"}')), "must be a JSON object"),
        (reply(call("act", "[" * 100_000)), "must be a JSON object"),
        (reply(call("act", "")), "must be a JSON object"),
    ],
)
def test_a_reply_without_an_action_gets_an_error(message: Any, error: str) -> None:
    conversation = Conversation(PROMPT, "the task", protocol="tool")
    parsed = conversation.add_reply(message)
    assert parsed.action == NO_ACTION
    [answer] = conversation.add_observation("Nothing happens.")
    assert answer["content"].startswith(error) or error in answer["content"]
    has_call = isinstance(message, dict) and message["tool_calls"]
    assert answer["role"] == ("tool" if has_call else "user")


def test_only_the_first_of_several_calls_is_carried_out() -> None:
    conversation = Conversation(PROMPT, "the task", protocol="tool")
    said = reply(call_of("search[a]", "x"), call_of("search[b]", "y"), call_of("search[c]", "z"))
    assert conversation.add_reply(said).action == "search[a]"
    answers = conversation.add_observation("page")
    assert [answer["tool_call_id"] for answer in answers] == ["x", "y", "z"]
    assert answers[0]["content"] == "page"
    assert all("Not carried out" in answer["content"] for answer in answers[1:])


@pytest.mark.parametrize("world", WORLDS)
def test_the_example_is_calls_and_results(world: str) -> None:
    prompt = load_prompts()[world]
    chat = Conversation(prompt, "the task", protocol="tool").messages()
    texts = [prompt.format.parse(message["content"]) for message in prompt.example[1::2]]
    said = [message for message in chat if message["role"] == "assistant"]
    arguments = [message["tool_calls"][0]["function"]["arguments"] for message in said]
    assert [json.loads(text)["action"] for text in arguments] == [p.action for p in texts]
    assert [message["content"] for message in said] == [parsed.thought for parsed in texts]
    # Servers refuse a call that is not answered before the next message.
    for message, after in itertools.pairwise(chat):
        for made in message.get("tool_calls", ()):
            assert after["role"] == "tool"
            assert after["tool_call_id"] == made["id"]
    assert chat[-2]["content"] == OVER
    assert chat[-1] == {"role": "user", "content": f"{prompt.task_intro}\n\nthe task"}
    assert not any(prompt.format.pattern.search(message["content"]) for message in chat)


def test_brief_prompts_have_no_example() -> None:
    prompt = load_prompts("brief")["webshop"]
    roles = [m["role"] for m in Conversation(prompt, "the task", protocol="tool").messages()]
    assert roles == ["system", "user"]


def test_a_prompt_for_text_is_refused() -> None:
    prompt = Prompt("webshop", "Write your action as in: Action: search[words]")
    with pytest.raises(SettingsError, match="reply_format"):
        find_protocol("tool", prompt)
    with pytest.raises(UnknownNameError, match="protocol"):
        find_protocol("json", prompt)


def test_calls_count_as_tokens() -> None:
    plain: list[Message] = [{"role": "assistant", "content": "x"}]
    assert estimate_tokens([reply(call_of("y" * 300, "1"), content="x")]) > (
        estimate_tokens(plain) + 100
    )


@given(st.text(), st.text(max_size=5))
def test_any_action_survives_a_call(action: str, call_id: str) -> None:
    parsed = find_protocol("tool", PROMPT).parse(reply(call_of(action, call_id)))
    assert parsed.action == action
