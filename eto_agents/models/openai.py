"""`OpenAIModel`: any server with OpenAI's chat completions API, such as vLLM or OpenAI's own.

The requests of a batch are sent concurrently, within a limit on requests under way and one on
requests per minute. Errors that may pass are retried with exponential backoff; all others are the
completion's `error`. With a file of recordings, replies are saved and reused, and a run can be
repeated offline. Prices are not here, because they change: pass them. Conversations are in
`eto_agents.react`.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from eto_agents.models.base import Completion, Sampling
from eto_agents.models.recordings import Recordings, request_key
from eto_agents.trajectory import Message
from eto_envs.errors import require

logger = logging.getLogger(__name__)

MAX_TEXT_CHARS: Final = 2**20
"""A longer text is an error: no real reply is as long, and later requests would repeat it."""

_MAX_PAUSE_S: Final = 60.0
_TRANSIENT_STATUSES: Final = (408, 409, 429)  # and all from 500 on


class OpenAIModel:
    """A chat model behind a server.

    Attributes:
        name: ``"openai:<model>"``.
        provenance: what replies depend on, without the server's address: a run may be resumed
            at another port.
        max_context_tokens: the most tokens of a prompt and its reply, None if not known.
        totals: the usage of all completions so far, summed, with ``requests`` and ``errors``.

    Args:
        model: the model's name on the server.
        base_url: the server's address, up to ``/v1``; by default ``$OPENAI_BASE_URL``, else
            OpenAI's own.
        api_key: by default ``$OPENAI_API_KEY``, else a dummy where there is a `base_url`.
        timeout_s: seconds after which a request counts as failed.
        n_retries: how often a failed request is sent again.
        backoff_s: seconds before the first retry; they double each time, up to a minute, unless
            the server names a pause.
        concurrency: the most requests under way at once.
        requests_per_minute: the most requests sent in a minute, retries included.
        usd_per_million_prompt_tokens: price, for ``cost_usd`` in the usage.
        usd_per_million_completion_tokens: price.
        recordings: a JSONL file of replies, which are reused; new ones are appended.
        offline: send nothing; a request without a recorded reply is an error.
        log_probs: request the tokens' log-probabilities.
        max_context_tokens: the most tokens of a prompt and its reply.
        token_limit: the field for `Sampling.max_tokens`; OpenAI's newer models require
            ``"max_completion_tokens"``.
        omit: fields left out of requests, such as ``"stop"`` for models that refuse it.
        extra_body: further fields of requests, such as vLLM's ``{"return_token_ids": True}``.
    """

    def __init__(  # noqa: PLR0913 (each is one thing that a user decides)
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        n_retries: int = 5,
        backoff_s: float = 1.0,
        concurrency: int = 16,
        requests_per_minute: float | None = None,
        usd_per_million_prompt_tokens: float | None = None,
        usd_per_million_completion_tokens: float | None = None,
        recordings: str | Path | None = None,
        offline: bool = False,
        log_probs: bool = False,
        max_context_tokens: int | None = None,
        token_limit: str = "max_tokens",
        omit: Sequence[str] = (),
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the arguments (see the class); nothing is sent yet.

        Raises:
            CorruptDataError: the file of recordings is damaged.
            MissingExtraError: the package openai is not installed (unless `offline`).
            ValueError: a number is out of range, or `offline` without `recordings`.
        """
        if n_retries < 0 or concurrency < 1 or not timeout_s > 0 or not backoff_s >= 0:
            raise ValueError("n_retries, backoff_s >= 0, concurrency >= 1, timeout_s > 0 must hold")
        if requests_per_minute is not None and not requests_per_minute > 0:
            raise ValueError(f"requests_per_minute must be positive, got {requests_per_minute}")
        if offline and recordings is None:
            raise ValueError("offline=True needs recordings=FILE to take replies from")
        self.name = f"openai:{model}"
        self.max_context_tokens = max_context_tokens
        self.totals: dict[str, float] = {}
        self._model = model
        self._n_retries = n_retries
        self._backoff_s = backoff_s
        self._concurrency = concurrency
        self._prices_usd = (usd_per_million_prompt_tokens, usd_per_million_completion_tokens)
        self._recordings = None if recordings is None else Recordings(recordings)
        self._token_limit = token_limit
        self._omit = frozenset([omit] if isinstance(omit, str) else omit)
        self._extra = dict(extra_body or {}) | ({"logprobs": True} if log_probs else {})
        self._pacer = _Pacer(0.0 if requests_per_minute is None else 60.0 / requests_per_minute)
        self._jitter = random.Random(0)  # spreads retries over time; no result depends on it
        self._lock = threading.Lock()
        self._base_url = base_url or os.environ.get("OPENAI_BASE_URL")
        self._client: Any = None
        if not offline:
            self._openai = require("openai", extra="openai")
            key = (
                api_key or os.environ.get("OPENAI_API_KEY") or ("none" if self._base_url else None)
            )
            self._client = self._openai.OpenAI(
                api_key=key, base_url=self._base_url, timeout=timeout_s, max_retries=0
            )
        self.provenance: dict[str, Any] = {"extra": self._extra, "omit": sorted(self._omit)}

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
    ) -> list[Completion]:
        """Continue each conversation; see `ChatModel.generate`.

        With recordings, equal requests get the same reply: pass seeds where the temperature is
        not 0.
        """
        bodies = [
            self._body(conversation, sampling, None if seeds is None else seeds[i])
            for i, conversation in enumerate(conversations)
        ]
        if not bodies:
            return []
        pool = ThreadPoolExecutor(min(self._concurrency, len(bodies)))
        try:
            completions = list(pool.map(self._complete, bodies))
        finally:
            # After an interruption, requests that were not yet sent never are.
            pool.shutdown(wait=False, cancel_futures=True)
        return completions

    def _body(
        self, conversation: Sequence[Message], sampling: Sampling, seed: int | None
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [dict(message) for message in conversation],
            "temperature": sampling.temperature,
            self._token_limit: sampling.max_tokens,
        }
        if sampling.top_p != 1.0:
            body["top_p"] = sampling.top_p
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if seed is not None and sampling.temperature > 0:
            body["seed"] = seed % 2**31  # some servers take no more
        body |= self._extra
        return {key: value for key, value in body.items() if key not in self._omit}

    def _complete(self, body: dict[str, Any]) -> Completion:
        """The recorded completion of a request, or the server's."""
        key = request_key(body)
        reply = self._recordings.get(key) if self._recordings is not None else None
        if reply is not None:
            completion = Completion(**reply)
            usage = {**completion.usage, "replayed_requests": 1.0}
            return self._counted(dataclasses.replace(completion, usage=usage))
        if self._client is None:
            return self._counted(
                Completion(error=f"offline, and request {key[:12]} is not recorded")
            )
        completion = self._request(body)
        if self._recordings is not None and not completion.error:
            recorded = self._recordings.put(key, dataclasses.asdict(completion))
            completion = Completion(**recorded)
        return self._counted(completion)

    def _request(self, body: dict[str, Any]) -> Completion:
        """Send a request until it succeeds or must not be retried."""
        known = {name: value for name, value in body.items() if name not in self._extra}
        attempt = 0
        while True:
            self._pacer.wait()
            try:
                reply = self._client.chat.completions.create(**known, extra_body=self._extra)
            except (self._openai.OpenAIError, ValueError) as error:
                attempt += 1
                message = f"{type(error).__name__}: {str(error)[:500]}"
                if attempt > self._n_retries or not self._is_transient(error):
                    place = urlsplit(str(self._client.base_url)).netloc.rpartition("@")[2]
                    return Completion(error=f"{message} ({place}, attempt {attempt})")
                pause_s = self._pause_s(attempt, error)
                logger.warning("%s; retrying in %.1f s", message, pause_s)
                time.sleep(pause_s)
                continue
            try:
                return self._read(reply)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                return Completion(error=f"the server's reply is malformed ({error!r:.200})")

    def _is_transient(self, error: Exception) -> bool:
        status = getattr(error, "status_code", None)
        if isinstance(status, int):
            return status in _TRANSIENT_STATUSES or status >= 500
        return isinstance(error, self._openai.APIConnectionError)

    def _pause_s(self, attempt: int, error: Exception) -> float:
        """The pause that the server names, or exponential backoff with up to 50 % of jitter."""
        headers = getattr(getattr(error, "response", None), "headers", {})
        try:
            return min(max(float(headers.get("retry-after", "")), 0.0), _MAX_PAUSE_S)
        except ValueError:
            with self._lock:
                stretch = 1.0 + 0.5 * self._jitter.random()
            return min(self._backoff_s * 2.0 ** (attempt - 1) * stretch, _MAX_PAUSE_S)

    def _read(self, reply: Any) -> Completion:
        """The completion in a server's reply, any part of which may be malformed."""
        choice = next(iter(getattr(reply, "choices", None) or ()), None)
        message = getattr(choice, "message", None)
        if choice is None or message is None:
            return Completion(error=f"the server's reply has no message: {reply!r:.200}")
        text = message.content
        finish_reason = str(choice.finish_reason)
        usage = self._usage(reply.usage)
        if not isinstance(text, str):
            why = getattr(message, "refusal", None) or f"finish_reason {finish_reason!r}"
            return Completion(usage=usage, error=f"the server gave no text: {why!s:.200}")
        if len(text) > MAX_TEXT_CHARS:
            return Completion(usage=usage, error=f"the server gave {len(text)} characters")
        content = getattr(choice.logprobs, "content", None) if choice.logprobs else None
        return Completion(
            text=text,
            token_ids=getattr(choice, "token_ids", None),
            log_probs=None if content is None else [token.logprob for token in content],
            usage=usage,
            finish_reason=finish_reason,
        )

    def _usage(self, counts: Any) -> dict[str, float]:
        if counts is None:
            return {"unmetered_requests": 1.0}
        usage = {
            "prompt_tokens": float(counts.prompt_tokens or 0),
            "completion_tokens": float(counts.completion_tokens or 0),
        }
        if any(price is not None for price in self._prices_usd):
            prompt_usd, completion_usd = (price or 0.0 for price in self._prices_usd)
            cost = usage["prompt_tokens"] * prompt_usd + usage["completion_tokens"] * completion_usd
            usage["cost_usd"] = cost / 1e6
        return usage

    def _counted(self, completion: Completion) -> Completion:
        with self._lock:
            counts = {**completion.usage, "requests": 1.0, "errors": float(bool(completion.error))}
            for name, value in counts.items():
                self.totals[name] = self.totals.get(name, 0.0) + value
        return completion


class _Pacer:
    """Spaces requests evenly in time."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next_s = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when the next request may be sent."""
        if self._interval_s == 0:
            return
        with self._lock:
            now_s = time.monotonic()
            begin_s = max(self._next_s, now_s)
            self._next_s = begin_s + self._interval_s
        time.sleep(begin_s - now_s)
