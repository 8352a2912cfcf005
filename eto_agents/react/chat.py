"""The renderer: encodes chats as token ids with a mask of the agent's tokens.

Training and inference both use `encode`, so a model is trained on exactly what it reads and writes
when it plays. The chat formats of model families are Jinja templates (``templates/*.jinja``,
written from their documentation); Hugging Face's ``{% generation %}`` block marks what the agent
writes, including the end of its turn.

Two properties hold for all texts and tokenizers: the ids of a chat begin with the ids of every
shorter chat that it continues, with or without the opening of the reply; and the text of a message
is never interpreted as markup of the template.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, NamedTuple, Protocol

from eto_agents.trajectory import Message
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
    """

    name: str
    special: tuple[str, ...]
    markup: tuple[str, ...]
    end: str

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
) -> Encoded:
    """Encode a chat as token ids and a mask of the agent's tokens.

    Args:
        messages: the chat: an optional system message, then user and assistant messages in turn.
        tokenizer: the model's tokenizer.
        template: the name of one of `templates()`.
        for_reply: whether to add the opening of the assistant's next turn; the last message is then
            the user's.
        first_trained: assistant messages before this index get mask 0, such as those of a worked
            example.
        sampled: the ids that were sampled for assistant messages, by index. They are used as they
            are, with the end of turn added if it was not sampled.

    Raises:
        UnknownNameError: there is no such template, or the tokenizer lacks one of its special
            tokens.
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
    for text, is_agent in pieces(messages, template, for_reply=for_reply):
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
    messages: Sequence[Message], template: str = "plain", *, for_reply: bool = False
) -> list[Piece]:
    """Render a chat, and split it where the agent's text begins and ends.

    Args:
        messages: as in `encode`.
        template: as in `encode`.
        for_reply: as in `encode`.
    """
    form = find_template(template)
    _check_roles(messages, for_reply)
    protected = [{**message, "content": _protect(message["content"], form)} for message in messages]
    text: str = _compiled(template)(messages=protected, add_generation_prompt=for_reply)
    # The agent's text is between two marks, so every second part is the agent's.
    parts = [Piece(part, bool(i % 2)) for i, part in enumerate(text.split(_MARK))]
    return [piece for piece in parts if piece.text]


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
        name: Template(name, tuple(row["special"]), tuple(row["markup"]), row["end"])
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
    return environment.from_string(find_template(name).source).render


def _check_roles(messages: Sequence[Message], for_reply: bool) -> None:
    roles = [message["role"] for message in messages]
    chat = roles[1:] if roles[:1] == ["system"] else roles
    expected = [("user", "assistant")[i % 2] for i in range(len(chat))]
    if not chat or chat != expected:
        raise ValueError(
            "the roles must be user and assistant in turn, after at most one system message, got "
            f"{roles}"
        )
    if for_reply and chat[-1] != "user":
        raise ValueError("the last message must be the user's for the assistant to reply")


def _protect(content: str, form: Template) -> str:
    """Break up markup in a message by inserting a space, so that it is read as plain text.

    Meta's code refuses such messages, but an episode should not end because of a product's name.
    """
    content = content.replace(_MARK, "\N{REPLACEMENT CHARACTER}")
    for control in (*form.special, *form.markup):
        content = content.replace(control, f"{control[0]} {control[1:]}")
    return content


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
