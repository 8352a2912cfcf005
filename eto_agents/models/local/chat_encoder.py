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
from eto_agents.strict_json import json_text
from eto_agents.trajectory import Message, Tool

# A chat: role, content and calls (name and arguments) of each message, after the tools as JSON.
_Key = tuple[str | tuple[str, str, tuple[tuple[str, str], ...]], ...]

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

    def encode(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Token ids of a chat; one that does not end with a reply ends as a reply begins.

        The list is cached: do not change it.

        Raises:
            ValueError: the roles are out of order, or there are tools and the template has no form
                for them.
        """
        key = _key(messages, tools)
        ids = self._ids.get(key)
        if ids is None:
            for_reply = bool(messages) and messages[-1]["role"] != "assistant"
            ids = encode(
                messages,
                self._caching,
                self._template,
                for_reply=for_reply,
                sampled=self._sampled_ids(messages, key),
                tools=tools,
            ).ids
            _put(self._ids, key, ids)
        return ids

    def add_reply(
        self,
        messages: Sequence[Message],
        sampled: SampledReply,
        reply: Message,
        tools: Sequence[Tool] = (),
    ) -> None:
        """Use the ids that a reply to a chat was sampled as, in all chats that continue it.

        Args:
            messages: the chat.
            sampled: the reply as it was sampled.
            reply: the reply as the message that follows.
            tools: what the model could call.
        """
        ids = ids_in_context(sampled.token_ids, sampled.text, self._tokenizer, self._end_ids)
        own = {} if ids is None else {len(messages): ids}
        known = self._sampled_ids(messages, _key(messages, tools))
        _put(self._replies, _key([*messages, reply], tools), known | own)

    def _sampled_ids(self, messages: Sequence[Message], key: _Key) -> dict[int, list[int]]:
        """Ids of a chat's replies, by position, if all messages up to the last one are cached."""
        n_messages = len(messages)
        while n_messages and messages[n_messages - 1]["role"] != "assistant":
            n_messages -= 1
        return self._replies.get(key[: n_messages + 1], {})  # the tools are the key's first part


class _CachingTokenizer:
    """A tokenizer that encodes each text once: the texts of a chat come back at every turn."""

    def __init__(self, tokenizer: Any) -> None:
        def ids_of(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False))

        self._ids_of = functools.lru_cache(_MAX_TEXTS)(ids_of)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(self._ids_of(text))


def _key(messages: Sequence[Message], tools: Sequence[Tool]) -> _Key:
    parts = []
    for message in messages:
        functions = [call["function"] for call in message.get("tool_calls", ())]
        calls = tuple((function["name"], function["arguments"]) for function in functions)
        parts.append((message["role"], message["content"], calls))
    return (json_text(list(tools)) if tools else "", *parts)


def _put(cache: OrderedDict[_Key, Any], key: _Key, value: Any) -> None:
    cache[key] = value
    if len(cache) > _MAX_CHATS:
        cache.popitem(last=False)
