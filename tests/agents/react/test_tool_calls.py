"""Replies of models as text and tool calls, by the syntax of each template."""

from __future__ import annotations

import importlib.util
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if importlib.util.find_spec("jinja2") is None:
    pytest.skip("jinja2 is not installed", allow_module_level=True)

from eto_agents.react.chat import find_template, templates
from eto_agents.react.tool_calls import Reply, parse_reply, with_ids, written_as
from eto_agents.react.tools import uses_tools, with_calls
from eto_agents.trajectory import FunctionCall, Message

WITH_TOOLS = [name for name, form in templates().items() if form.call_tags is not None]


def call(arguments: str, name: str = "act") -> FunctionCall:
    return {"name": name, "arguments": arguments}


def saying(content: str, *calls: FunctionCall) -> Message:
    return {"role": "assistant", "content": content, "tool_calls": with_ids(calls, [])}


LOOK = '{"action": "look"}'
QWEN = '<tool_call>\n{"name": "act", "arguments": {"action": "look"}}\n</tool_call>'
BARE = '{"name": "act", "arguments": {"action": "look"}}'


@pytest.mark.parametrize(
    ("template", "text", "content", "arguments"),
    [
        ("qwen2.5", QWEN, "", [LOOK]),
        ("qwen2.5", f"I look.\n{QWEN}", "I look.", [LOOK]),
        ("qwen2.5", f"I look.\n{QWEN}\n{QWEN}", "I look.", [LOOK, LOOK]),
        ("qwen2.5", QWEN.replace("\n", ""), "", [LOOK]),
        ("qwen2.5", f"{QWEN}\nDone.", "Done.", [LOOK]),
        ("qwen2.5", QWEN.removesuffix("\n</tool_call>"), "", [LOOK]),  # the end was not written
        ("qwen2.5", QWEN.replace(": {", ":{ "), "", ['{ "action": "look"}']),  # as it is written
        ("qwen2.5", QWEN.replace("look", "</tool_call>"), "", ['{"action": "</tool_call>"}']),
        ("qwen2.5", QWEN.replace("arguments", "parameters"), "", [LOOK]),
        ("qwen2.5", '<tool_call>{"arguments": {}, "name": "act"}</tool_call>', "", ["{}"]),
        ("qwen3", f"<think>{QWEN}</think>{QWEN}", f"<think>{QWEN}</think>", [LOOK]),
        ("plain", BARE, "", [LOOK]),
        ("plain", f"I look.\n{BARE}\n{BARE}", "I look.", [LOOK, LOOK]),
        ("plain", BARE.replace("look", '{\\"name\\": 1}'), "", ['{"action": "{\\"name\\": 1}"}']),
        ("llama-3.1", BARE.replace("arguments", "parameters"), "", [LOOK]),
        ("llama-3.1", f"<|python_tag|>{BARE}", "", [LOOK]),
        ("llama-3.1", f"I look.\n\n{BARE}\n", "I look.", [LOOK]),
    ],
)
def test_calls(template: str, text: str, content: str, arguments: list[str]) -> None:
    assert parse_reply(text, template) == Reply(content, [call(each) for each in arguments])


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("qwen2.5", "Action: look"),
        ("qwen2.5", BARE),
        ("qwen2.5", '<tool_call>\n{"name": "act", "arguments": {"action": "lo'),  # cut off
        ("qwen2.5", '<tool_call>\n{"name": "act", "arguments": {action: "look"}}\n</tool_call>'),
        ("qwen2.5", '<tool_call>\n{"name": "act"}\n</tool_call>'),
        ("qwen2.5", '<tool_call>\n{"name": 3, "arguments": {}}\n</tool_call>'),
        ("qwen2.5", '<tool_call>\n{"arguments": {}}\n</tool_call>'),
        ("qwen2.5", "<tool_call>\n[1]\n</tool_call>"),
        ("qwen2.5", "<tool_call>\n{}\n</tool_call>"),
        ("qwen2.5", f"<tool_call>\n{BARE} and so on"),
        ("qwen2.5", "<tool_call>\n" + '{"name":' * 100_000),
        ("qwen2.5", f"<think>{QWEN}"),  # a thought that was cut off
        ("plain", f"{BARE} And then?"),
        ("plain", '{ "name": "act", "arguments": {}}'),
        ("llama-3.1", f"{BARE}\n{BARE}"),
        ("llama-3.1", f"{BARE} I look."),
    ],
)
def test_what_is_no_call_stays_text(template: str, text: str) -> None:
    assert parse_reply(text, template) == Reply(text, [])


def test_one_wrong_call_does_not_take_the_others_with_it() -> None:
    wrong = QWEN.replace('"act"', "act")
    assert parse_reply(f"{QWEN}\n{wrong}", "qwen2.5") == Reply(wrong, [call(LOOK)])


TEXTS = st.text("ab\n\"'{}[]:\\<>| é", max_size=12) | st.sampled_from(["<tool_call>", BARE, QWEN])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=5,
)


@pytest.mark.parametrize("template", WITH_TOOLS)
@settings(max_examples=100, deadline=None)
@given(content=TEXTS, values=st.lists(st.dictionaries(TEXTS, JSON, max_size=2), max_size=2))
def test_what_a_template_writes_is_parsed_as_it_was(
    template: str, content: str, values: list[object]
) -> None:
    most = 1 if find_template(template).one_call else 2
    calls = [call(json.dumps(value, ensure_ascii=False)) for value in values[:most]]
    text = written_as(saying(content, *calls), template)
    reply = parse_reply(text, template)
    assert [each["name"] for each in reply.calls] == ["act"] * len(calls)
    assert written_as(saying(*reply[:1], *reply.calls), template).split() == text.split()


def test_calls_are_numbered_through_a_conversation() -> None:
    first = saying("", call("{}"), call("{}"))
    assert [made["id"] for made in first.get("tool_calls", ())] == ["call-1", "call-2"]
    assert [made["id"] for made in with_ids([call("{}")], [first])] == ["call-3"]


def test_conversations_that_use_tools() -> None:
    assert uses_tools([saying("", call("{}"))])
    assert uses_tools([{"role": "tool", "content": "x"}])
    assert not uses_tools([saying("x"), {"role": "user", "content": "x"}])


def test_a_person_reads_a_call() -> None:
    assert with_calls(saying("I look.", call(LOOK), call("{"))) == (
        'I look.\nact({"action": "look"})\nact({)'
    )
    assert with_calls({"role": "user", "content": "x"}) == "x"
