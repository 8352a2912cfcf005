"""How other programs find the tool calls in a reply of our checkpoints."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("transformers") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)

import transformers

from eto_agents.models.chat_templates import response_template
from eto_agents.models.checkpoint import load_checkpoint, save_checkpoint
from eto_agents.models.tiny import make_tiny
from eto_agents.react.chat import encode, find_template, pieces, templates
from eto_agents.react.protocols import call_of
from eto_agents.react.tool_calls import written_as
from eto_agents.react.tools import ACT
from eto_agents.trajectory import Message, with_objects

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 13),
        reason="transformers has no response templates before 5.13",
    ),
]

USER: Message = {"role": "user", "content": "A lamp?"}


def said(content: str, *actions: str) -> Message:
    message: Message = {"role": "assistant", "content": content}
    if actions:
        message["tool_calls"] = [call_of(action, str(n)) for n, action in enumerate(actions)]
    return message


REPLIES = [
    said("I look."),
    said("", "look"),
    said('No {"name"} } here.', 'put "a" {x} in }}'),
    said("", "look", "go to desk 1"),
    said("First this.", "look", "wait"),
]


@pytest.mark.parametrize("template", ["plain", "llama-3.1", "qwen2.5", "qwen3"])
def test_the_calls_of_a_saved_checkpoints_replies_are_found(template: str, tmp_path: Path) -> None:
    tokenizer = saved_tokenizer(template, tmp_path)
    prefix = encode([USER], tokenizer, template, for_reply=True, tools=[ACT]).ids
    for reply in REPLIES:
        if find_template(template).one_call and len(reply.get("tool_calls", ())) > 1:
            continue
        (text,) = (
            piece.text for piece in pieces([USER, reply], template, tools=[ACT]) if piece.is_agent
        )
        ids = tokenizer.encode(text, add_special_tokens=False)
        parsed = tokenizer.parse_response(ids, prefix=prefix, tools=[ACT])
        calls = [call["function"] for call in with_objects(reply).get("tool_calls", ())]
        assert [call["function"] for call in parsed.get("tool_calls", ())] == calls
        assert parsed.get("content", "") == reply["content"]


def saved_tokenizer(template: str, folder: Path) -> Any:
    texts = [written_as(reply, "plain") for reply in REPLIES]
    save_checkpoint(make_tiny(texts, size="nano", vocab_size=300, template=template), folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_reading_and_saving_keeps_the_rule(tmp_path: Path) -> None:
    expected = response_template("plain")
    assert saved_tokenizer("plain", tmp_path / "one").response_template == expected
    save_checkpoint(load_checkpoint(tmp_path / "one", device="cpu"), tmp_path / "two")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "two")
    assert again.response_template == expected


def test_templates_without_tools_have_none() -> None:
    for name, form in templates().items():
        assert (response_template(name) is None) == (form.call_tags is None)
