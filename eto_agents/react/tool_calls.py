"""What a model wrote as text and tool calls: the inverse of the renderer.

Each template has its own syntax (`call_tags` in ``templates/templates.toml``): a JSON object with
the name and the arguments, between tags, or without them as the last that a reply has. What is not
such an object stays text, for the episode to tell the agent what is wrong. A call in a reasoning
model's thoughts is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from eto_agents.react.chat import find_template, pieces
from eto_agents.react.parse import without_reasoning
from eto_agents.trajectory import FunctionCall, Message, ToolCall, arguments_of

ARGUMENTS: Final = ("arguments", "parameters")
"""The key of a call's arguments; the second in Llama's format."""

_SPACE: Final = re.compile(r"\s*")
_DECODER: Final = json.JSONDecoder()


class Reply(NamedTuple):
    """A parsed reply.

    Attributes:
        content: the text beside the calls, without white space around it if there are calls.
        calls: the calls; their arguments are as the model wrote them.
    """

    content: str
    calls: list[FunctionCall]


def parse_reply(text: str, template: str) -> Reply:
    """Split what a model wrote into text and tool calls.

    Args:
        text: the reply, without the end of the turn.
        template: the chat template with which it was generated; one that has tools.
    """
    form = find_template(template)
    opening, closing = _patterns(form.call_tags or ())
    answer = without_reasoning(text, replacement="\0")
    calls: list[FunctionCall] = []
    rest: list[str] = []
    end = 0  # of the latest call
    for opened in opening.finditer(answer):
        if opened.start() < end or (found := _call_at(answer, opened.end())) is None:
            continue
        call, after = found
        if (closed := closing.match(answer, after)) is not None:
            calls.append(call)
            rest.append(text[end : opened.start()].strip())
            end = closed.end()
    if not calls or (form.one_call and len(calls) > 1):
        return Reply(text, [])
    rest.append(text[end:].strip())
    return Reply("\n".join(filter(None, rest)), calls)


def with_ids(calls: Iterable[FunctionCall], messages: Iterable[Message]) -> list[ToolCall]:
    """Number the calls of a reply, after those of the conversation before it."""
    n_before = sum(len(message.get("tool_calls", ())) for message in messages)
    return [
        {"id": f"call-{number}", "type": "function", "function": call}
        for number, call in enumerate(calls, start=n_before + 1)
    ]


def written_as(message: Message, template: str) -> str:
    """The text with which a template writes the agent's message, without the end of the turn."""
    chat: list[Message] = [{"role": "user", "content": ""}, message]
    (text,) = (piece.text for piece in pieces(chat, template) if piece.is_agent)
    return text.removesuffix(find_template(template).end)


def is_written_as(message: Message, text: str, template: str) -> bool:
    """Whether a text is how a model wrote a message, whatever the form of its JSON."""
    content, calls = parse_reply(text, template)
    said = [call["function"] for call in message.get("tool_calls", ())]
    return content.strip() == message["content"].strip() and [
        (call["name"], arguments_of(call)) for call in calls
    ] == [(call["name"], arguments_of(call)) for call in said]


def _patterns(tags: Sequence[str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What precedes the JSON of a call, and what follows it."""
    before, after = [*map(re.escape, tags), "", ""][:2]
    if after:
        return re.compile(rf"{before}\s*(?=\{{)"), re.compile(rf"\s*(?:{after}|\Z)")
    begins = r'\{"name":'
    opening = rf"(?:{before}\s*)?(?={begins})"
    return re.compile(opening), re.compile(rf"\s*(?={opening}|\Z)")


def _call_at(text: str, start: int) -> tuple[FunctionCall, int] | None:
    """The call whose JSON object begins at a place, and the object's end."""
    try:
        values, end = _object_at(text, start)
        name = json.loads(values["name"])
    except (ValueError, KeyError, RecursionError):
        return None
    arguments = next((values[key] for key in ARGUMENTS if key in values), None)
    if not isinstance(name, str) or arguments is None:
        return None
    return {"name": name, "arguments": arguments}, end


def _object_at(text: str, start: int) -> tuple[dict[str, str], int]:
    """The values of the JSON object that begins at a place, each as it is written, and its end."""
    _, end = _DECODER.raw_decode(text, start)  # raises where it is not valid
    values: dict[str, str] = {}
    at = _after_space(text, start + 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        at = _after_space(text, _after_space(text, at) + 1)  # the colon
        _, after = _DECODER.raw_decode(text, at)
        values[key] = text[at:after]
        at = _after_space(text, after)
        if text[at] == ",":
            at = _after_space(text, at + 1)
    return values, end


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()
