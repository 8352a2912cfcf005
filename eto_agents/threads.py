"""Threads that nothing waits for: a call with a time limit, and many calls at once.

`concurrent.futures` joins its threads when the interpreter exits, so that an interrupted run
would go on until the last request has its reply. These are daemon threads, which nothing joins.

Python cannot kill a thread, so one that hangs is abandoned: an exception is raised in it
asynchronously, which ends a loop in Python (a call into C that never returns runs until the process
exits). What it returns later is discarded.
"""

from __future__ import annotations

import ctypes
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple


class ActionTimeoutError(Exception):
    """A call did not return in time; `place` is the stack where it hung, as text."""

    def __init__(self, seconds: float, place: str = "") -> None:
        """Make the message from the time limit in seconds."""
        super().__init__(f"no answer within {seconds:g} s")
        self.place = place


class _Abandoned(SystemExit):
    """Raised in an abandoned thread; as a `SystemExit` it ends the thread without a message."""


class Worker:
    """Calls functions in its own thread, one at a time, with a time limit.

    All calls are made from the same thread until one hangs, so an agent may hold objects that are
    bound to a thread (an event loop, a database connection).
    """

    def __init__(self) -> None:
        """The thread starts with the first call."""
        self._thread: threading.Thread | None = None

    def call(self, seconds: float | None, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``function(*arguments)``.

        Args:
            seconds: how long to wait; None sets no limit.
            function: the function to call.
            *arguments: its positional arguments.

        Raises:
            ActionTimeoutError: the function did not return in time; the next call gets a new
                thread.
            BaseException: whatever the function raised.
        """
        if self._thread is None:
            self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
            self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
            self._thread = _start(self._calls, self._outcomes)
        self._calls.put((0, function, arguments))
        try:
            outcome = self._outcomes.get(timeout=seconds)
        except queue.Empty:
            raise ActionTimeoutError(seconds or 0.0, self._abandon()) from None
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def _abandon(self) -> str:
        """Abandon the thread, and return its current stack as text."""
        thread, self._thread = self._thread, None
        if thread is None or thread.ident is None:
            return ""
        frame = sys._current_frames().get(thread.ident)
        place = "".join(traceback.format_stack(frame)) if frame is not None else ""
        self._calls.put(None)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(_Abandoned)
        )
        return place

    def __del__(self) -> None:
        """End the idle thread."""
        if self._thread is not None:
            self._calls.put(None)


class Outcome(NamedTuple):
    """What came of a call: its value, or what it raised."""

    key: int
    value: Any
    error: BaseException | None


class Threads:
    """Makes many calls at once, each in the thread of its key.

    All calls with a key are made from the same thread, so an agent that has a key of its own may
    hold objects that are bound to a thread.
    """

    def __init__(self) -> None:
        """A key's thread starts with its first call."""
        self._calls: dict[int, queue.SimpleQueue[Any]] = {}
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

    def start(self, key: int, function: Callable[..., Any], *arguments: Any) -> None:
        """Start ``function(*arguments)``, after the key's earlier calls."""
        if key not in self._calls:
            self._calls[key] = queue.SimpleQueue()
            _start(self._calls[key], self._outcomes)
        self._calls[key].put((key, function, arguments))

    def wait(self) -> list[Outcome]:
        """Wait until a call has ended, and return all that have; at least one must be under way."""
        outcomes = [self._outcomes.get()]
        while not self._outcomes.empty():
            outcomes.append(self._outcomes.get())
        return outcomes

    def close(self) -> None:
        """Let each thread end after its call; this does not wait for it."""
        for calls in self._calls.values():
            calls.put(None)
        self._calls.clear()

    def __del__(self) -> None:
        """End the idle threads."""
        self.close()


def _start(calls: queue.SimpleQueue[Any], outcomes: queue.SimpleQueue[Outcome]) -> threading.Thread:
    thread = threading.Thread(target=_serve, args=(calls, outcomes), name="eto-agent", daemon=True)
    thread.start()
    return thread


def _serve(calls: queue.SimpleQueue[Any], outcomes: queue.SimpleQueue[Outcome]) -> None:
    while True:
        call = calls.get()
        if call is None:
            return
        key, function, arguments = call
        try:
            outcomes.put(Outcome(key, function(*arguments), None))
        except _Abandoned:
            return
        except BaseException as error:  # noqa: BLE001 (the caller gets it)
            outcomes.put(Outcome(key, None, error))
        del call, function, arguments
