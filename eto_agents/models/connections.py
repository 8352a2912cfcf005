"""Connections to a server of language models, and the pace of requests, for many threads.

Not here: what is sent, and what an answer means (`eto_agents.models.openai`).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Clients:
    """Clients of a server: one for each request under way, with one connection each.

    A single client could serve them all. But for every request it looks through its connections, in
    one thread at a time: with a thousand of them, that takes longer than everything else.
    """

    def __init__(self, openai: Any, client: Any, n: int) -> None:
        """Take the package, a client to copy, and the most requests under way at once."""
        self._openai = openai
        self._made = [client]
        self._idle = [client]
        self._permits = threading.BoundedSemaphore(n)
        # httpx or its successor, depending on openai's release. To load the certificates takes
        # longer than to make a client, so all share them.
        httpx = sys.modules[type(openai.DEFAULT_CONNECTION_LIMITS).__module__.partition(".")[0]]
        self._certificates = httpx.create_ssl_context()

    @contextmanager
    def one(self) -> Iterator[Any]:
        """A client for one request, as soon as fewer than `n` are under way."""
        while not self._permits.acquire(timeout=1.0):
            pass  # without a timeout, a thread whose call was abandoned would stay in the queue
        client = self._take()
        try:
            yield client
        finally:
            self._idle.append(client)
            self._permits.release()

    def close(self) -> None:
        """Close all connections."""
        for client in self._made:
            client.close()

    def _take(self) -> Any:
        try:
            return self._idle.pop()  # the last one used, whose connection is open
        except IndexError:
            http_client = self._openai.DefaultHttpxClient(verify=self._certificates)
            client = self._made[0].with_options(http_client=http_client)
            self._made.append(client)
            return client


class Pacer:
    """Spaces requests evenly in time."""

    def __init__(self, interval_s: float) -> None:
        """Set the seconds between two requests; 0 sets no pace."""
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
