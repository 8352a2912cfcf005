"""Conversations, and what is dropped from one that is too long."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_agents.react.context import (
    ContextOverflowError,
    Conversation,
    estimate_tokens,
    transcript,
)
from eto_agents.react.prompts import Prompt, load_prompts
from eto_agents.trajectory import Message, Step

PROMPT = Prompt(
    "webshop",
    "Shop.",
    example=(
        {"role": "user", "content": "example"},
        {"role": "assistant", "content": "Action: search[x]"},
    ),
    example_intro="Look:",
    task_intro="Yours:",
)


def texts(messages: Sequence[Message]) -> list[str]:
    return [message["content"] for message in messages]


def played(n_turns: int, **kwargs: bool) -> Conversation:
    conversation = Conversation(PROMPT, "the task", **kwargs)
    for i in range(n_turns):
        conversation.add_reply(f"Action: click[{i}]")
        conversation.add_observation(f"page {i}")
    return conversation


def test_a_conversation() -> None:
    conversation = Conversation(PROMPT, "the task")
    assert conversation.add_reply("Thought: well\nAction: search[a]").action == "search[a]"
    conversation.add_observation("page 0")
    assert conversation.add_reply("I give up").error
    conversation.add_observation("page 1")
    assert texts(conversation.messages()) == [
        "Shop.",
        "OK",
        "Look:\n\nexample",
        "Action: search[x]",
        "Yours:\n\nthe task",
        "Thought: well\nAction: search[a]",
        "Observation:\npage 0",
        "I give up",
        PROMPT.format.error,
    ]
    with pytest.raises(RuntimeError):
        conversation.add_observation("page 2")


def one_each(messages: Sequence[Message]) -> int:
    return len(messages)


def test_the_oldest_turns_are_dropped_first_then_the_example_but_never_the_task() -> None:
    whole = texts(played(3).messages())
    assert len(whole) == 5 + 6
    conversation = played(3)
    assert texts(conversation.fit(11, one_each)) == whole
    assert conversation.n_dropped == 0
    assert texts(conversation.fit(10, one_each)) == whole[:5] + whole[7:]
    assert texts(conversation.fit(7, one_each)) == whole[:5] + whole[9:]
    assert conversation.n_dropped == 2
    assert texts(conversation.fit(5, one_each)) == ["Shop.", "OK", "the task", *whole[9:]]
    assert not conversation.has_example
    with pytest.raises(ContextOverflowError, match="have 5 tokens, but there is room for 4 only"):
        conversation.fit(4, one_each)


def test_what_was_dropped_stays_dropped() -> None:
    conversation = played(3)
    conversation.fit(9, one_each)
    assert conversation.n_dropped == 1
    conversation.add_reply("Action: click[3]")
    conversation.add_observation("page 3")
    assert len(conversation.fit(100, one_each)) == 5 + 6
    assert conversation.n_dropped == 1


@given(st.integers(0, 12), st.integers(5, 40), st.booleans())
def test_roles_alternate_and_task_and_last_turn_stay(n: int, room: int, example: bool) -> None:
    conversation = played(n, with_example=example)
    chat = conversation.fit(room, one_each)
    assert len(chat) <= room
    assert [m["role"] for m in chat] == ["user", "assistant"] * (len(chat) // 2) + ["user"]
    assert chat[0]["content"] == "Shop."
    assert sum("the task" in text for text in texts(chat)) == 1
    if n:
        assert chat[-1]["content"] == f"Observation:\npage {n - 1}"
    assert len(chat) == 3 + 2 * (n - conversation.n_dropped) + 2 * conversation.has_example


def test_the_estimate_is_on_the_safe_side() -> None:
    messages: list[Message] = [{"role": "user", "content": "é" * 3}]
    assert estimate_tokens(messages) == 8 + 2
    assert estimate_tokens([]) == 0
    prompt = load_prompts()["alfworld-2.1.1"]
    words = prompt.instruction.split()
    assert estimate_tokens(prompt.head(with_example=False)) > 1.3 * len(words)


def test_a_transcript_is_the_chat_that_the_agent_read() -> None:
    def step(text: str, action: str, observation: str) -> Step:
        return Step(action, observation, 0.0, 0.0, {}, 0.0, bool(action), text=text)

    steps = [
        step("Thought: t\nAction: search[a]", "search[a]", "page 0"),
        step("hm", "", "page 0"),
        step("", "click[b]", "page 1"),
        step("", "", "page 1"),
    ]
    assert texts(transcript(PROMPT, "the task", steps, with_example=False))[2:] == [
        "the task",
        "Thought: t\nAction: search[a]",
        "Observation:\npage 0",
        "hm",
        PROMPT.format.error,
        "Action: click[b]",
        "Observation:\npage 1",
        "",
        PROMPT.format.error,
    ]
