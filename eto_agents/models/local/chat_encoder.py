"""`Chats`: the token ids of chats, each text encoded once, each reply with the ids it was drawn as.

The rendering is `eto_agents.react.chat`'s; here is only what is remembered between turns.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from eto_agents.models.local.sampler import Sampled, Vocabulary
from eto_agents.react.chat import encode, find_template
from eto_agents.trajectory import Message

_Key = tuple[tuple[str, str], ...]

_MAX_CHATS: Final = 4096
_MAX_TEXTS: Final = 8192


class Chats:
    """Chats of one tokenizer and template."""

    def __init__(self, tokenizer: Any, template: str, vocabulary: Vocabulary) -> None:
        """Take them.

        Raises:
            UnknownNameError: no such template, or the tokenizer lacks its tokens.
        """
        self._tokenizer = _Remembering(tokenizer)
        self._template = template
        self._vocabulary = vocabulary
        encode([{"role": "user", "content": ""}], self._tokenizer, template)  # has its tokens
        self._special_ids = {
            self._tokenizer.encode(token, add_special_tokens=False)[0]
            for token in find_template(template).special
        }
        self._replies: OrderedDict[_Key, dict[int, list[int]]] = OrderedDict()
        self._ids: OrderedDict[_Key, list[int]] = OrderedDict()

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a chat, with the opening of the reply where one is due; not to be changed.

        Raises:
            ValueError: the roles are out of order.
        """
        key = _key(messages)
        ids = self._ids.get(key)
        if ids is None:
            for_reply = bool(messages) and messages[-1]["role"] == "user"
            ids = encode(
                messages,
                self._tokenizer,
                self._template,
                for_reply=for_reply,
                sampled=self._sampled(key),
            ).ids
            _put(self._ids, key, ids)
        return ids

    def remember(self, messages: Sequence[Message], reply: Sampled) -> None:
        """Note with which ids a chat was continued: chats that go on from there have these."""
        key = _key(messages)
        ids = self._as_heard(reply)
        # With reserved tokens in it, a reply is read as the text it is: nobody forges markup.
        own = {len(key): ids} if self._special_ids.isdisjoint(ids) else {}
        _put(self._replies, (*key, ("assistant", reply.text)), self._sampled(key) | own)

    def _sampled(self, key: _Key) -> dict[int, list[int]]:
        """The ids of a chat's replies by position, as far as all of it is remembered."""
        last = max((i for i, (role, _) in enumerate(key) if role == "assistant"), default=-1)
        return self._replies.get(key[: last + 1], {})

    def _as_heard(self, reply: Sampled) -> list[int]:
        """The ids of a reply in the chats that continue it, its end left out."""
        ids = reply.token_ids
        if ids and ids[-1] in self._vocabulary.end_ids:
            return ids[:-1]
        # A stop may begin inside of a token: what of this token is text is read anew.
        rest = reply.text[len(self._vocabulary.decode(ids)) :]
        return ids + self._tokenizer.encode(rest, add_special_tokens=False) if rest else ids


class _Remembering:
    """A tokenizer that encodes a text once: a chat's texts come back at every turn."""

    def __init__(self, tokenizer: Any) -> None:
        def ids_of(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False))

        self._ids_of = functools.lru_cache(_MAX_TEXTS)(ids_of)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(self._ids_of(text))


def _key(messages: Sequence[Message]) -> _Key:
    return tuple((message["role"], message["content"]) for message in messages)


def _put(table: OrderedDict[_Key, Any], key: _Key, value: Any) -> None:
    table[key] = value
    if len(table) > _MAX_CHATS:
        table.popitem(last=False)
