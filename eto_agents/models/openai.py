"""`OpenAIModel`: any server with OpenAI's chat completions API, such as vLLM or OpenAI's own.

Any number of threads may use a model at once; the limits on requests under way and on requests per
minute hold for all of them together. The requests of a batch are sent concurrently. Errors that may
pass are retried with exponential backoff; all others are the completion's `error`, whether they are
an HTTP status or are inside a reply with status 200. Nothing that a server sends is used unchecked,
and the API key is in no message. With a file of recordings, replies are saved and reused, and a run
can be repeated offline. Prices are not here, because they change: pass them. Conversations are in
`eto_agents.react`.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import os
import random
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from eto_agents.models.base import Completion, Sampling, cut_at_stop
from eto_agents.models.connections import Clients, Pacer
from eto_agents.models.recordings import Recordings, request_key
from eto_agents.policy import describe
from eto_agents.react.parse import without_reasoning
from eto_agents.settings import SettingsError
from eto_agents.strict_json import json_text
from eto_agents.trajectory import Message, Tool, ToolCall
from eto_envs.errors import BackendError, UnknownNameError, require

logger = logging.getLogger(__name__)

MAX_TEXT_CHARS: Final = 2**20
"""A longer text is an error: no real reply is as long, and later requests would repeat it."""

_MAX_PAUSE_S: Final = 60.0
_MAX_ERROR_CHARS: Final = 20_000  # a proxy may answer with a whole web page
_TRANSIENT_STATUSES: Final = (408, 409, 429)  # and all from 500 on
_TRANSIENT_WORDS: Final = ("rate_limit", "overloaded", "server_error", "timeout", "unavailable")
"""Parts of the error codes in words that some servers use instead of a number."""

_REFUSED_CHAT: Final = ("content_filter", "content_policy")
"""Parts of the error codes with which servers refuse what a chat says."""

_NO_REPLY: Final = ("content_filter", "tool_calls", "function_call")
"""Finish reasons with which an empty text without calls is not a reply."""

TokenLimit = Literal["max_tokens", "max_completion_tokens"]


class _Failure(NamedTuple):
    """A failed request.

    Attributes:
        message: what happened.
        is_transient: whether it may succeed when it is sent again.
        pause_s: the pause before that, if the server names one.
        is_of_chat: whether the server refused what this chat says, and may well take another.
    """

    message: str
    is_transient: bool
    pause_s: float | None = None
    is_of_chat: bool = False


class OpenAIModel:
    """A chat model behind a server.

    Attributes:
        name: ``"openai:<model>"``.
        provenance: what replies depend on, without the server's address: a run may be resumed
            at another port.
        base_url: the server's address, up to ``/v1``; empty if `offline`.
        max_context_tokens: the most tokens of a prompt and its reply, None if not known.
        totals: the usage of all completions so far, summed, with ``requests`` and ``errors``.
        concurrent: true: `generate` may be called from several threads at once.

    Args:
        model: the model's name on the server.
        base_url: the server's address, up to ``/v1``; by default ``$OPENAI_BASE_URL``, else
            OpenAI's own.
        api_key: by default ``$OPENAI_API_KEY``, else a dummy where there is a `base_url`.
        timeout_s: seconds after which a request counts as failed.
        n_retries: how often a failed request is sent again.
        backoff_s: seconds before the first retry; they double each time, up to a minute, unless
            the server names a pause.
        concurrency: the most requests under way at once, from all threads together. Each is a
            connection, and so an open file of the process (``ulimit -n``, often 1024).
        requests_per_minute: the most requests sent in a minute, retries included.
        usd_per_million_prompt_tokens: price, for ``cost_usd`` in the usage.
        usd_per_million_completion_tokens: price.
        recordings: a JSONL file of replies, which are reused; new ones are appended.
        offline: send nothing; a request without a recorded reply is an error.
        log_probs: request the tokens' log-probabilities.
        max_context_tokens: the most tokens of a prompt and its reply.
        token_limit: the field for `Sampling.max_tokens`; OpenAI's newer models require
            ``"max_completion_tokens"``.
        omit: fields left out of requests, such as ``["stop"]`` for models that refuse it. Replies
            end at the stop texts all the same.
        extra_body: further fields of requests, such as vLLM's ``{"return_token_ids": True}``.
    """

    concurrent: Final = True

    def __init__(  # noqa: PLR0913 (each is one thing that a user decides)
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        n_retries: int = 5,
        backoff_s: float = 1.0,
        concurrency: int = 1000,
        requests_per_minute: float | None = None,
        usd_per_million_prompt_tokens: float | None = None,
        usd_per_million_completion_tokens: float | None = None,
        recordings: str | Path | None = None,
        offline: bool = False,
        log_probs: bool = False,
        max_context_tokens: int | None = None,
        token_limit: TokenLimit = "max_tokens",
        omit: Sequence[str] = (),
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the arguments (see the class); nothing is sent yet.

        Raises:
            CorruptDataError: the file of recordings is damaged.
            MissingExtraError: the package openai is not installed (unless `offline`).
            SettingsError: a number is out of range, `offline` without `recordings`, there is no
                API key, or the key or the address cannot be one.
            UnknownNameError: `omit` names a field that requests do not have.
        """
        _check_numbers(
            above_0={
                "timeout_s": timeout_s,
                "concurrency": concurrency,
                "requests_per_minute": requests_per_minute,
                "max_context_tokens": max_context_tokens,
            },
            at_least_0={
                "n_retries": n_retries,
                "backoff_s": backoff_s,
                "usd_per_million_prompt_tokens": usd_per_million_prompt_tokens,
                "usd_per_million_completion_tokens": usd_per_million_completion_tokens,
            },
        )
        if offline and recordings is None:
            raise SettingsError("offline=True needs recordings=FILE to take replies from")
        self.name = f"openai:{model}"
        self.max_context_tokens = max_context_tokens
        self.totals: dict[str, float] = {}
        self._model = model
        self._n_retries = n_retries
        self._backoff_s = backoff_s
        self._concurrency = concurrency
        self._prices_usd = (usd_per_million_prompt_tokens, usd_per_million_completion_tokens)
        self._token_limit = token_limit
        self._extra = dict(extra_body or {}) | ({"logprobs": True} if log_probs else {})
        self._omit = frozenset([omit] if isinstance(omit, str) else omit)
        self._check_omit()
        self._pacer = Pacer(0.0 if requests_per_minute is None else 60.0 / requests_per_minute)
        self._jitter = random.Random(0)  # spreads retries over time; no result depends on it
        self._lock = threading.Lock()
        self.base_url = self._place = ""
        self._secrets = [""]
        self._clients: Clients | None = None
        if not offline:
            self._clients = self._connect(base_url, api_key, timeout_s)
        self._recordings = None if recordings is None else Recordings(recordings)
        self.provenance: dict[str, Any] = {"extra": self._extra, "omit": sorted(self._omit)}

    def _check_omit(self) -> None:
        fields = ("temperature", "top_p", "stop", "seed", self._token_limit, *self._extra)
        for name in sorted(self._omit.difference(fields)):
            hint = """Several are written as a list: omit='["stop", "temperature"]'."""
            raise UnknownNameError("field to omit", name, fields, hint)

    def _connect(self, base_url: str | None, api_key: str | None, timeout_s: float) -> Clients:
        """Make the clients; nothing is sent."""
        self._openai = require("openai", extra="openai")
        address = base_url or os.environ.get("OPENAI_BASE_URL") or ""
        key = api_key or os.environ.get("OPENAI_API_KEY") or ""
        if not (key or address):
            raise SettingsError(
                "OpenAI's server requires an API key: set the variable OPENAI_API_KEY, or name "
                "another server with base_url=http://HOST:PORT/v1"
            )
        if not all("!" <= character <= "~" for character in key):
            raise SettingsError(
                "the API key contains a line break, a space or another character that keys do not "
                "have: check the variable OPENAI_API_KEY, or the argument api_key"
            )
        if address:
            self._secrets = [key, _check_address(address) or ""]
        else:
            self._secrets = [key]
        client = self._openai.OpenAI(
            api_key=key or "none", base_url=address or None, timeout=timeout_s, max_retries=0
        )
        self._chat_type = self._openai.types.chat.ChatCompletion
        self._text_type = self._openai.types.Completion
        self.base_url = str(client.base_url).rstrip("/")
        self._place = urlsplit(self.base_url).netloc.rpartition("@")[2]
        clients = Clients(self._openai, client, self._concurrency)
        weakref.finalize(self, clients.close).atexit = False
        return clients

    def root(self) -> str | None:
        """The folder or name from which the server loaded the model; None if it does not say.

        Raises:
            BackendError: the server does not answer, or does not have the model.
        """
        if self._clients is None:
            return None  # offline
        try:
            with self._clients.one() as client:
                models = list(client.models.list())
        except self._openai.OpenAIError as error:
            message = self._without_secrets(self._failure(error).message)
            raise BackendError(f"{message} ({self._place})") from None
        found = next((each for each in models if each.id == self._model), None)
        if found is None:
            names = ", ".join(repr(each.id) for each in models) or "none"
            raise BackendError(
                f"{self._place} has no model {self._model!r}; its models are {names}"
            )
        root = getattr(found, "root", None)
        return root if isinstance(root, str) else None

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
        *,
        tools: Sequence[Tool] = (),
    ) -> list[Completion]:
        """Continue each conversation; see `ChatModel.generate`.

        With recordings, equal requests get the same reply: pass seeds where the temperature is
        not 0.
        """
        bodies = [
            self._body(conversation, sampling, None if seeds is None else seeds[i], tools)
            for i, conversation in enumerate(conversations)
        ]
        completions = self._complete_all(bodies)
        # Recordings have what the server said, which may go on after a stop.
        return [cut_at_stop(completion, sampling.stop) for completion in completions]

    def continue_tokens(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
        *,
        more: Mapping[str, Any] | None = None,
    ) -> list[Completion]:
        """Continue prompts that are given as token ids, for servers that take and return them.

        Args:
            prompts: token ids; nothing is put before or after them.
            sampling: how replies are sampled.
            seeds: as in `generate`.
            more: further fields of these requests.

        Returns:
            Completions with the ids and the log-probabilities of all tokens that were sampled, also
            of the end of the turn and of a stop. Their text is the server's, and may lack these.
        """
        bodies = []
        for i, prompt in enumerate(prompts):
            body = self._sampling_fields(sampling, None if seeds is None else seeds[i])
            body |= {**self._extra, **(more or {}), "prompt": list(prompt)}
            # No other log-probabilities than those of the sampled tokens.
            body |= {"add_special_tokens": False, "return_token_ids": True, "logprobs": 0}
            bodies.append({key: value for key, value in body.items() if key not in self._omit})
        return self._complete_all(bodies)

    def _body(
        self,
        conversation: Sequence[Message],
        sampling: Sampling,
        seed: int | None,
        tools: Sequence[Tool],
    ) -> dict[str, Any]:
        body = self._sampling_fields(sampling, seed)
        body["messages"] = [dict(message) for message in conversation]
        if tools:
            body["tools"] = list(tools)
        body |= self._extra
        return {key: value for key, value in body.items() if key not in self._omit}

    def _sampling_fields(self, sampling: Sampling, seed: int | None) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "temperature": sampling.temperature,
            self._token_limit: sampling.max_tokens,
        }
        if sampling.top_p != 1.0:
            body["top_p"] = sampling.top_p
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if seed is not None and sampling.temperature > 0:
            body["seed"] = seed % 2**31  # some servers take no more
        return body

    def _complete_all(self, bodies: list[dict[str, Any]]) -> list[Completion]:
        """Complete requests, several of them concurrently."""
        if len(bodies) < 2:
            return [self._complete(body) for body in bodies]
        pool = ThreadPoolExecutor(min(self._concurrency, len(bodies)))
        try:
            return list(pool.map(self._complete, bodies))
        finally:
            # After an interruption, requests that were not yet sent never are.
            pool.shutdown(wait=False, cancel_futures=True)

    def _complete(self, body: dict[str, Any]) -> Completion:
        """The recorded completion of a request, or the server's."""
        try:
            completion = self._recorded_or_new(body)
        except Exception as error:  # noqa: BLE001 (one request must not take its batch with it)
            completion = Completion(error=self._without_secrets(describe(error)))
        with self._lock:
            counts = {**completion.usage, "requests": 1.0, "errors": float(bool(completion.error))}
            for name, value in counts.items():
                self.totals[name] = self.totals.get(name, 0.0) + value
        return completion

    def _recorded_or_new(self, body: dict[str, Any]) -> Completion:
        key = request_key(body)
        reply = self._recordings.get(key) if self._recordings is not None else None
        if reply is not None:
            completion = Completion(**reply)
            usage = {**completion.usage, "replayed_requests": 1.0}
            return dataclasses.replace(completion, usage=usage)
        if self._clients is None:
            error = f"offline, and request {key[:12]} is not recorded"
            return Completion(error=error, is_permanent=True)
        completion = self._request(body, self._clients)
        if self._recordings is not None and not completion.error:
            recorded = self._recordings.put(key, dataclasses.asdict(completion))
            completion = Completion(**recorded)
        return completion

    def _request(self, body: dict[str, Any], clients: Clients) -> Completion:
        """Send a request until it succeeds or must not be retried."""
        for attempt in itertools.count(1):
            self._pacer.wait()
            try:
                with clients.one() as client:
                    # Not `chat.completions.create`, which converts every message of the chat: of
                    # long chats that takes longer than all else, and only one thread at a time.
                    if "prompt" in body:
                        reply = client.post("/completions", cast_to=self._text_type, body=body)
                    else:
                        reply = client.post("/chat/completions", cast_to=self._chat_type, body=body)
                failure = _error_inside(reply)
            except (self._openai.OpenAIError, ValueError) as error:
                failure = self._failure(error)
            if failure is None:
                return self._read_tokens(reply) if "prompt" in body else self._read(reply, body)
            message = self._without_secrets(failure.message)
            if attempt > self._n_retries or not failure.is_transient:
                return Completion(
                    error=f"{message} ({self._place}, attempt {attempt})",
                    is_permanent=not failure.is_of_chat,
                )
            pause_s = self._backoff(attempt) if failure.pause_s is None else failure.pause_s
            logger.warning("%.500s; retrying in %.1f s", message, pause_s)
            time.sleep(pause_s)
        raise AssertionError("an endless loop has ended")

    def _without_secrets(self, text: str) -> str:
        """An error message without the API key, and not longer than anyone would read."""
        for secret in self._secrets:
            if len(secret) >= 4:  # shorter ones are placeholders, and parts of words
                text = text.replace(secret, "***")
        return text if len(text) <= _MAX_ERROR_CHARS else text[:_MAX_ERROR_CHARS] + "…"

    def _failure(self, error: Exception) -> _Failure:
        """What a request's exception means."""
        message = f"{type(error).__name__}: {error}"
        cause = error.__cause__
        if isinstance(error, self._openai.APIConnectionError) and cause is not None and str(cause):
            message += f" ({type(cause).__name__}: {cause})"
        status = getattr(error, "status_code", None)
        if not isinstance(status, int):
            return _Failure(message, isinstance(error, self._openai.APIConnectionError))
        headers = getattr(getattr(error, "response", None), "headers", {})
        pause_s = _pause_named(str(headers.get("retry-after", "")))
        code = getattr(error, "code", None)
        return _Failure(message, _is_transient(status), pause_s, _is_of_chat(code))

    def _backoff(self, attempt: int) -> float:
        """Exponential backoff with up to 50 % of jitter."""
        with self._lock:
            stretch = 1.0 + 0.5 * self._jitter.random()
        return min(self._backoff_s * 2.0 ** min(attempt - 1, 30) * stretch, _MAX_PAUSE_S)

    def _read(self, reply: Any, body: Mapping[str, Any]) -> Completion:
        """The completion in a server's reply, any part of which may be malformed."""
        try:
            choice = next(iter(getattr(reply, "choices", None) or ()), None)
            message = getattr(choice, "message", None)
            if choice is None or message is None:
                error = f"the server's reply has no message: {reply!r:.200}"
                return Completion(error=error, is_permanent=True)
            usage = self._usage(reply.usage)
            text, finish_reason = _text_of(message.content), str(choice.finish_reason)
            # Calls of tools that the model was not given have no reader.
            calls = _checked_calls(getattr(message, "tool_calls", None)) if "tools" in body else []
            if calls:
                text = text or ""
            why = "" if calls else self._why_no_text(reply, text, finish_reason, body)
            if text is None or why:
                return Completion(usage=usage, error=why)
            n_chars = len(text) + sum(map(_n_chars, calls))
            if n_chars > MAX_TEXT_CHARS:
                return Completion(usage=usage, error=f"the server gave {n_chars} characters")
            tokens = getattr(choice.logprobs, "content", None) if choice.logprobs else None
            log_probs = None if tokens is None else [_finite(token.logprob) for token in tokens]
            ids = _checked_ids(getattr(choice, "token_ids", None))
            if ids is not None and log_probs is not None and len(ids) != len(log_probs):
                raise ValueError(f"{len(ids)} token ids with {len(log_probs)} log-probabilities")
            ends = None if tokens is None else _token_ends(text, tokens)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return Completion(error=f"the server's reply is malformed ({error!r:.200})")
        return Completion(
            text,
            ids,
            log_probs,
            usage,
            finish_reason,
            token_ends=ends,
            tool_calls=calls,
        )

    def _read_tokens(self, reply: Any) -> Completion:
        """The completion in a reply to token ids, any part of which may be malformed."""
        try:
            choice = next(iter(getattr(reply, "choices", None) or ()), None)
            if choice is None:
                error = f"the server's reply has no completion: {reply!r:.200}"
                return Completion(error=error, is_permanent=True)
            ids = _checked_ids(getattr(choice, "token_ids", None))
            if ids is None or choice.logprobs is None:
                error = (
                    "the server does not return the sampled tokens and their log-probabilities "
                    "(return_token_ids, logprobs), without which its replies cannot be trained on: "
                    "use vLLM"
                )
                return Completion(error=error, is_permanent=True)
            log_probs = [_finite(value) for value in choice.logprobs.token_logprobs]
            if len(ids) != len(log_probs):
                raise ValueError(f"{len(ids)} token ids with {len(log_probs)} log-probabilities")
            text, reason, usage = str(choice.text), str(choice.finish_reason), reply.usage
            return Completion(text, ids, log_probs, self._usage(usage), reason)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return Completion(error=f"the server's reply is malformed ({error!r:.200})")

    def _why_no_text(
        self, reply: Any, text: str | None, finish_reason: str, body: Mapping[str, Any]
    ) -> str:
        """Why there is no text that can pass for a reply; empty if there is one."""
        message = reply.choices[0].message
        thinks = bool(text and text.strip()) or _has_reasoning(reply)
        is_empty = not without_reasoning(text or "").strip()
        if is_empty and finish_reason == "length" and thinks:
            limit = body.get(self._token_limit)
            return (
                f"the model was still thinking after {limit or 'all'} tokens, and gave no answer: "
                "raise max_tokens"
            )
        refusal = getattr(message, "refusal", None)
        if text is None or (not text and (refusal or finish_reason in _NO_REPLY)):
            why = refusal or f"finish_reason {finish_reason!r}"
            return self._without_secrets(f"the server gave no text: {why}")
        return ""

    def _usage(self, counts: Any) -> dict[str, float]:
        if counts is None:
            return {"unmetered_requests": 1.0}
        usage = {
            "prompt_tokens": _count(counts.prompt_tokens),
            "completion_tokens": _count(counts.completion_tokens),
        }
        if any(price is not None for price in self._prices_usd):
            prompt_usd, completion_usd = (price or 0.0 for price in self._prices_usd)
            cost = usage["prompt_tokens"] * prompt_usd + usage["completion_tokens"] * completion_usd
            usage["cost_usd"] = cost / 1e6
        return usage


def _check_numbers(
    above_0: Mapping[str, float | None], at_least_0: Mapping[str, float | None]
) -> None:
    for name, value in above_0.items():
        if value is not None and not 0 < value < math.inf:
            raise SettingsError(f"{name} must be a finite number above 0, got {value}")
    for name, value in at_least_0.items():
        if value is not None and not 0 <= value < math.inf:
            raise SettingsError(f"{name} must be a finite number of at least 0, got {value}")


def _check_address(address: str) -> str | None:
    """Check a server's address; returns the password in it."""
    try:
        parts = urlsplit(address)
        host, password, _ = parts.hostname, parts.password, parts.port  # a wrong port raises
        is_address = parts.scheme in ("http", "https") and bool(host)
    except ValueError:
        is_address, password = False, None
    if not is_address or any(character.isspace() for character in address):
        shown = address.rpartition("@")[2]  # without user and password
        raise SettingsError(
            f"{shown!r} is not the address of a server: base_url (or the variable "
            "OPENAI_BASE_URL) must be like 'http://localhost:8000/v1'"
        )
    return password


def _is_transient(status: int) -> bool:
    return status in _TRANSIENT_STATUSES or status >= 500


def _is_of_chat(code: object) -> bool:
    return any(words in str(code) for words in _REFUSED_CHAT)


def _error_inside(reply: Any) -> _Failure | None:
    """The error in a reply with status 200: at its top, in its choice, or as its finish reason."""
    choice = next(iter(getattr(reply, "choices", None) or ()), None)
    own = None
    if getattr(reply, "object", None) == "error":  # older releases of vLLM
        own = {name: getattr(reply, name, None) for name in ("message", "code", "type")}
    for error in (getattr(reply, "error", None), getattr(choice, "error", None), own):
        if error:
            return _failure_of(error)
    if getattr(choice, "finish_reason", None) == "error":
        return _Failure("the server's reply has finish_reason 'error'", is_transient=False)
    return None


def _failure_of(error: Any) -> _Failure:
    """What an error object, or a text, inside a reply means."""
    if not isinstance(error, Mapping):
        return _Failure(f"the server's reply is an error: {error}", is_transient=False)
    codes = [error.get(name) for name in ("code", "status", "status_code", "type")]
    numbers = [int(str(code)) for code in codes if str(code).isdecimal() and len(str(code)) < 10]
    words = " ".join(str(code).lower() for code in codes)
    is_transient = (
        _is_transient(numbers[0]) if numbers else any(word in words for word in _TRANSIENT_WORDS)
    )
    message = error.get("message")
    rest = {key: value for key, value in error.items() if key != "message" and value is not None}
    details = json_text(rest, default=str)
    text = f"{message} {details}" if message and rest else str(message or details)
    text = f"the server's reply is an error: {text}"
    return _Failure(text, is_transient, is_of_chat=_is_of_chat(words))


def _pause_named(text: str) -> float | None:
    """The pause of a ``Retry-After`` header, in seconds or as a date; None if it makes no sense."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(timezone.utc)).total_seconds()
        except (TypeError, ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _MAX_PAUSE_S) if math.isfinite(seconds) else None


def _text_of(content: Any) -> str | None:
    """The text of a message, which may be in chunks; None if there is none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [
        chunk if isinstance(chunk, str) else chunk.get("text")
        for chunk in content
        if isinstance(chunk, str) or chunk.get("type") in ("text", "output_text")
    ]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a chunk of the content has no text")
    return "".join(texts) if texts else None


def _has_reasoning(reply: Any) -> bool:
    """Whether the model thought, as far as the server says."""
    message = reply.choices[0].message
    details = getattr(reply.usage, "completion_tokens_details", None)
    return bool(
        getattr(message, "reasoning_content", None)
        or getattr(message, "reasoning", None)
        or (isinstance(message.content, list) and message.content)
        or getattr(details, "reasoning_tokens", None)
    )


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a log-probability")
    return float(value)


def _count(value: Any) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not 0 <= value <= 2**53:  # what a float holds exactly
        raise ValueError(f"{value!r} is not a number of tokens")
    return float(value)


def _checked_ids(ids: Any) -> list[int] | None:
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < 2**31 for i in ids):
        raise ValueError(f"not token ids: {ids!r:.100}")
    return ids


def _checked_calls(calls: Any) -> list[ToolCall]:
    """The tool calls of a message; none if it has none."""
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise TypeError(f"not tool calls: {calls!r:.100}")
    checked = [_checked_call(call) for call in calls]
    if len({call["id"] for call in checked}) < len(checked):
        raise ValueError("two tool calls have the same id")
    return checked


def _checked_call(call: Any) -> ToolCall:
    call_id, name, arguments = call.id, call.function.name, call.function.arguments
    if not all(isinstance(text, str) for text in (call_id, name, arguments)):
        raise TypeError(f"not the call of a function: {call!r:.100}")
    if not call_id or not name:
        raise ValueError(f"a tool call without an id or a name: {call!r:.100}")
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _n_chars(call: ToolCall) -> int:
    function = call["function"]
    return len(call["id"]) + len(function["name"]) + len(function["arguments"])


def _token_ends(text: str, tokens: Sequence[Any]) -> list[int] | None:
    """`Completion.token_ends`; None if the text does not consist of the tokens."""
    raw = [
        bytes(t.bytes) if getattr(t, "bytes", None) else t.token.encode("utf-8", "surrogatepass")
        for t in tokens
    ]
    # The end of turn may be a token without being part of the text.
    if not b"".join(raw).startswith(text.encode("utf-8", "surrogatepass")):
        return None
    return list(itertools.accumulate(map(len, raw)))
