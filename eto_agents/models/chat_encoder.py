"""`ChatEncoder`: token ids of chats, in which each sampled reply has the ids it was sampled as.

`eto_agents.react.chat` renders chats. Here are the caches between turns: the ids of texts, of whole
chats and of replies. Whether this process samples a reply or a server does makes no difference.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any, Final

from eto_agents.models.base import Completion
from eto_agents.models.control_tokens import ids_in_context
from eto_agents.react.chat import encode
from eto_agents.react.tool_calls import parse_reply, with_ids
from eto_agents.strict_json import json_text
from eto_agents.trajectory import Message, Tool

# A chat: role, content and calls (name and arguments) of each message, after the tools as JSON.
_Key = tuple[str | tuple[str, str, tuple[tuple[str, str], ...]], ...]

_MAX_CHATS: Final = 4096
_MAX_TEXTS: Final = 8192


class ChatEncoder:
    """Encodes chats with one tokenizer and template."""

    def __init__(self, tokenizer: Any, template: str, end_ids: Container[int]) -> None:
        """Check that the tokenizer has the template's tokens.

        Args:
            tokenizer: a tokenizer of `transformers`.
            template: the name of a chat template.
            end_ids: tokens that end a turn.

        Raises:
            UnknownNameError: no such template, or the tokenizer lacks its tokens.
        """
        self._tokenizer = tokenizer
        self._caching = _CachingTokenizer(tokenizer)
        self._template = template
        self._end_ids = end_ids
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

    def read(
        self, messages: Sequence[Message], sampled: Completion, tools: Sequence[Tool] = ()
    ) -> Completion:
        """Read the calls in a sampled reply, and use its ids in all chats that continue this one.

        Args:
            messages: the chat that was continued.
            sampled: the reply as text, calls included, with the ids that it was sampled as.
            tools: what the model could call.

        Returns:
            The reply; its ids and log-probabilities are still those of all that was written.
        """
        reply = sampled
        if tools:
            text, functions = parse_reply(sampled.text, self._template)
            calls = with_ids(functions, messages)
            is_whole = calls and sampled.finish_reason == "stop"
            reason = "tool_calls" if is_whole else sampled.finish_reason
            reply = replace(sampled, text=text, tool_calls=calls, finish_reason=reason)
        token_ids = sampled.token_ids or []
        ids = ids_in_context(token_ids, sampled.text, self._tokenizer, self._end_ids)
        own = {} if ids is None else {len(messages): ids}
        known = self._sampled_ids(messages, _key(messages, tools))
        _put(self._replies, _key([*messages, reply.message], tools), known | own)
        return reply

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
