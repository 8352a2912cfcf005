"""`ChatEncoder`: token ids of chats, in which each sampled reply has the ids it was sampled as.

`eto_agents.react.chat` renders chats. Here are the caches between turns: the ids of texts, of whole
chats and of replies.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from eto_agents.models.control_tokens import ids_in_context
from eto_agents.models.local.sampler import SampledReply, Vocabulary
from eto_agents.react.chat import encode
from eto_agents.trajectory import Message

_Key = tuple[tuple[str, str], ...]  # a chat: role and content of each message

_MAX_CHATS: Final = 4096
_MAX_TEXTS: Final = 8192


class ChatEncoder:
    """Encodes chats with one tokenizer and template."""

    def __init__(self, tokenizer: Any, template: str, vocabulary: Vocabulary) -> None:
        """Check that the tokenizer has the template's tokens.

        Raises:
            UnknownNameError: no such template, or the tokenizer lacks its tokens.
        """
        self._tokenizer = tokenizer
        self._caching = _CachingTokenizer(tokenizer)
        self._template = template
        self._end_ids = vocabulary.end_ids
        encode([{"role": "user", "content": ""}], self._caching, template)  # raises if one lacks
        # For each chat that ends with a sampled reply: the ids of its replies, by position.
        self._replies: OrderedDict[_Key, dict[int, list[int]]] = OrderedDict()
        self._ids: OrderedDict[_Key, list[int]] = OrderedDict()

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a chat; one that ends with the user's message ends as a reply begins.

        The list is cached: do not change it.

        Raises:
            ValueError: the roles are out of order.
        """
        key = _key(messages)
        ids = self._ids.get(key)
        if ids is None:
            for_reply = bool(messages) and messages[-1]["role"] == "user"
            ids = encode(
                messages,
                self._caching,
                self._template,
                for_reply=for_reply,
                sampled=self._sampled_ids(key),
            ).ids
            _put(self._ids, key, ids)
        return ids

    def add_reply(self, messages: Sequence[Message], reply: SampledReply) -> None:
        """Use the ids that a reply to a chat was sampled as, in all chats that continue it."""
        key = _key(messages)
        ids = ids_in_context(reply.token_ids, reply.text, self._tokenizer, self._end_ids)
        own = {} if ids is None else {len(key): ids}
        _put(self._replies, (*key, ("assistant", reply.text)), self._sampled_ids(key) | own)

    def _sampled_ids(self, key: _Key) -> dict[int, list[int]]:
        """Ids of a chat's replies, by position, if all messages up to the last one are cached."""
        last = max((i for i, (role, _) in enumerate(key) if role == "assistant"), default=-1)
        return self._replies.get(key[: last + 1], {})


class _CachingTokenizer:
    """A tokenizer that encodes each text once: the texts of a chat come back at every turn."""

    def __init__(self, tokenizer: Any) -> None:
        def ids_of(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False))

        self._ids_of = functools.lru_cache(_MAX_TEXTS)(ids_of)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(self._ids_of(text))


def _key(messages: Sequence[Message]) -> _Key:
    return tuple((message["role"], message["content"]) for message in messages)


def _put(cache: OrderedDict[_Key, Any], key: _Key, value: Any) -> None:
    cache[key] = value
    if len(cache) > _MAX_CHATS:
        cache.popitem(last=False)
