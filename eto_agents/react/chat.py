"""The renderer: encodes chats as token ids with a mask of the agent's tokens.

Training and inference both use `encode`, so a model is trained on exactly what it reads and writes
when it plays. The chat formats of model families are Jinja templates (``templates/*.jinja``,
written from their documentation); Hugging Face's ``{% generation %}`` block marks what the agent
writes: its text, its tool calls and the end of its turn.

Two properties hold for all texts and tokenizers: the ids of a chat begin with the ids of every
shorter chat that it continues, and of the opening of the reply where one follows; and the text of a
message, a call's arguments and a tool's result are never interpreted as markup of the template. The
way back, from a reply's text to its tool calls, is in `eto_agents.react.tool_calls`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, NamedTuple, Protocol

from eto_agents.react.tools import uses_tools
from eto_agents.strict_json import json_text
from eto_agents.trajectory import Message, Tool, next_roles
from eto_envs.errors import UnknownNameError, require
from eto_envs.files import parse_toml

_MARK: Final = "\0"  # before and after what the agent writes; never in a message


class Tokenizer(Protocol):
    """The tokenizer interface that `encode` needs; both `transformers` and `tokenizers` have it."""

    def encode(self, text: str, *, add_special_tokens: bool) -> Any:
        """Return the ids of a text, as a list or as an object with a list `ids`."""


class Encoded(NamedTuple):
    """An encoded chat.

    Attributes:
        ids: token ids.
        mask: 1 on the agent's tokens, including the end of its turn, else 0; same length as `ids`.
    """

    ids: list[int]
    mask: list[int]


class Piece(NamedTuple):
    """A part of a rendered chat.

    Attributes:
        text: the text of the part.
        is_agent: whether the agent writes it.
    """

    text: str
    is_agent: bool


@dataclass(frozen=True, slots=True)
class Template:
    """A model family's chat format.

    Attributes:
        name: the template's name.
        special: strings that must each be a single token.
        markup: further strings that have a meaning in the format.
        end: the string that ends the agent's turn.
        call_tags: what the agent writes around the JSON of a tool call: before and after it, or
            before it if at all; None if the format has no tools.
        one_call: whether a message has at most one tool call.
    """

    name: str
    special: tuple[str, ...]
    markup: tuple[str, ...]
    end: str
    call_tags: tuple[str, ...] | None = None
    one_call: bool = False

    @property
    def source(self) -> str:
        """The Jinja source, as `tokenizer.chat_template` expects it."""
        return str(_folder().joinpath(f"{self.name}.jinja").read_text(encoding="utf-8"))


def encode(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    template: str = "plain",
    *,
    for_reply: bool = False,
    first_trained: int = 0,
    sampled: Mapping[int, Sequence[int]] | None = None,
    tools: Sequence[Tool] = (),
) -> Encoded:
    """Encode a chat as token ids and a mask of the agent's tokens.

    Args:
        messages: the chat: an optional system message, then user and assistant messages in turn; an
            assistant's tool calls are followed by as many results.
        tokenizer: the model's tokenizer.
        template: the name of one of `templates()`.
        for_reply: whether to add the opening of the assistant's next turn; the last message is then
            the user's or a tool's.
        first_trained: assistant messages before this index get mask 0, such as those of a worked
            example.
        sampled: the ids that were sampled for assistant messages, by index. They are used as they
            are, with the end of turn added if it was not sampled.
        tools: what the agent may call.

    Raises:
        UnknownNameError: there is no such template, the tokenizer lacks one of its special tokens,
            or there are tools and the template has no form for them.
        ValueError: the roles do not alternate.
        MissingExtraError: jinja2 is not installed.
    """
    form = find_template(template)
    end_id = _special_ids(form, tokenizer)[form.end]
    # Indices of the assistant's messages, one for each of the agent's pieces, in order.
    replies = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    ids: list[int] = []
    mask: list[int] = []
    before = ""
    for text, is_agent in pieces(messages, template, for_reply=for_reply, tools=tools):
        position = replies.pop(0) if is_agent else -1
        if sampled is not None and position in sampled:
            new = list(sampled[position])
            if new[-1:] != [end_id]:
                new.append(end_id)
        else:
            new = _ids_after(tokenizer, before, text)
        ids += new
        mask += [int(is_agent and position >= first_trained)] * len(new)
        before = text
    return Encoded(ids, mask)


def pieces(
    messages: Sequence[Message],
    template: str = "plain",
    *,
    for_reply: bool = False,
    tools: Sequence[Tool] = (),
) -> list[Piece]:
    """Render a chat, and split it where the agent's text begins and ends.

    Args:
        messages: as in `encode`.
        template: as in `encode`.
        for_reply: as in `encode`.
        tools: as in `encode`.
    """
    form = find_template(template)
    if tools or uses_tools(messages):
        check_has_tools(template)
    _check_roles(messages, form, for_reply)
    text: str = _compiled(template)(
        messages=[_protected_message(message, form) for message in messages],
        tools=_protected(list(tools), form),
        add_generation_prompt=for_reply,
    )
    # The agent's text is between two marks, so every second part is the agent's.
    parts = [Piece(part, bool(i % 2)) for i, part in enumerate(text.split(_MARK))]
    return [piece for piece in parts if piece.text]


def check_has_tools(template: str) -> None:
    """Check that a template can render tools, calls and results.

    Raises:
        UnknownNameError: there is no such template, or it cannot.
    """
    if find_template(template).call_tags is None:
        able = ", ".join(name for name, form in templates().items() if form.call_tags is not None)
        hint = f"The templates that have them: {able}."
        raise UnknownNameError("tools in chat template", template, (), hint)


def find_template(name: str) -> Template:
    """Find a template by name.

    Raises:
        UnknownNameError: there is no template of that name.
    """
    known = templates()
    if name not in known:
        raise UnknownNameError("chat template", name, known)
    return known[name]


@functools.cache
def templates() -> Mapping[str, Template]:
    """All templates by name."""
    file = _folder().joinpath("templates.toml")
    table = parse_toml(file.read_text(encoding="utf-8"), file)
    return {
        name: Template(
            name,
            tuple(row["special"]),
            tuple(row["markup"]),
            row["end"],
            tuple(row["call_tags"]) if "call_tags" in row else None,
            row.get("one_call", False),
        )
        for name, row in table.items()
    }


def _folder() -> Any:
    return resources.files("eto_agents.react").joinpath("templates")


@functools.cache
def _compiled(name: str) -> Callable[..., str]:
    require("jinja2", extra="train")
    from jinja2 import StrictUndefined, nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Hugging Face's block around the assistant's text; it puts a mark before and after it."""

        tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

        @staticmethod
        def _mark(caller: Callable[[], str]) -> str:
            return f"{_MARK}{caller()}{_MARK}"

    environment = ImmutableSandboxedEnvironment(
        extensions=[Generation], undefined=StrictUndefined, autoescape=False
    )
    environment.filters["tojson"] = json_text  # as in Hugging Face; Jinja's own escapes HTML
    return environment.from_string(find_template(name).source).render


def _check_roles(messages: Sequence[Message], form: Template, for_reply: bool) -> None:
    following = next_roles(messages)
    last = messages[-1]["role"] if messages else "system"
    if last == "system":
        raise ValueError("the chat has no message of the user's")
    # A chat that ends between two results of a message is not the beginning of the one with both.
    if last == "tool" and following == ("tool",):
        raise ValueError("the chat ends between the results of several tool calls")
    if for_reply and "assistant" not in following:
        raise ValueError("the last message must be the user's for the assistant to reply")
    n_calls = max(len(message.get("tool_calls", ())) for message in messages)
    if form.one_call and n_calls > 1:
        raise ValueError(f"template {form.name!r} has one tool call a message, got {n_calls}")


def _protected_message(message: Message, form: Template) -> dict[str, Any]:
    """What the templates read of a message."""
    calls = [{"function": dict(call["function"])} for call in message.get("tool_calls", ())]
    shown = {"role": message["role"], "content": message["content"], "tool_calls": calls}
    protected: dict[str, Any] = _protected(shown, form)
    return protected


def _protected(value: Any, form: Template) -> Any:
    """Break up markup in texts by inserting a space, so that it is read as plain text.

    Meta's code refuses such messages, but an episode should not end because of a product's name.
    """
    if isinstance(value, str):
        value = value.replace(_MARK, "\N{REPLACEMENT CHARACTER}")
        for control in (*form.special, *form.markup):
            value = value.replace(control, f"{control[0]} {control[1:]}")
    elif isinstance(value, Mapping):
        return {_protected(key, form): _protected(item, form) for key, item in value.items()}
    elif isinstance(value, list):
        return [_protected(item, form) for item in value]
    return value


def _special_ids(form: Template, tokenizer: Tokenizer) -> dict[str, int]:
    special_ids = {}
    for token in form.special:
        ids = _ids(tokenizer, token)
        if len(ids) != 1:
            hint = f"Template {form.name!r} needs it: use the one that the model was trained with."
            raise UnknownNameError("token in this tokenizer", token, (), hint)
        special_ids[token] = ids[0]
    return special_ids


def _ids_after(tokenizer: Tokenizer, before: str, text: str) -> list[int]:
    """Encode `text` as the continuation of `before`.

    The two are encoded together, as some tokenizers treat the beginning of a text differently. If a
    token would span the boundary, `text` is encoded by itself: a model that continues `before` has
    read exactly the ids of `before`.
    """
    ids_before = _ids(tokenizer, before) if before else []
    ids = _ids(tokenizer, before + text)
    n = len(ids_before)
    return ids[n:] if ids[:n] == ids_before else _ids(tokenizer, text)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    encoded = tokenizer.encode(text, add_special_tokens=False)
    return list(getattr(encoded, "ids", encoded))
