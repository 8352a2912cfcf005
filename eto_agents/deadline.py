"""`Worker`: a thread that calls a stranger's code and is left behind when it does not answer.

Python cannot end a thread, so one that hangs is abandoned: it is a daemon, which does not keep the
process from exiting, and an exception is set in it, which ends a loop in Python (a call into C
that never returns goes on until the process ends). What it says later reaches nobody.
"""

from __future__ import annotations

import ctypes
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any


class ActionTimeoutError(Exception):
    """An agent did not answer in time; `place` is the stack it was at, as text."""

    def __init__(self, seconds: float, place: str = "") -> None:
        """Say how long was waited, and where the agent was then."""
        super().__init__(f"no answer within {seconds:g} s")
        self.place = place


class _Abandoned(SystemExit):
    """Set in a thread that nobody waits for; as a `SystemExit` it ends without a message."""


class Worker:
    """Calls functions in a thread of its own, one at a time, with a time limit.

    All calls are made from the same thread until one hangs, so an agent may keep what belongs to
    a thread (an event loop, a database connection).
    """

    def __init__(self) -> None:
        """Start nothing yet."""
        self._thread: threading.Thread | None = None

    def call(self, seconds: float | None, function: Callable[..., Any], *arguments: Any) -> Any:
        """What ``function(*arguments)`` returns.

        Args:
            seconds: how long to wait; None waits for ever.
            function: what to call.
            *arguments: with what.

        Raises:
            ActionTimeoutError: it did not return in time; the next call gets a new thread.
            BaseException: what it raised.
        """
        if self._thread is None:
            self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
            self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
            self._thread = threading.Thread(
                target=_serve, args=(self._calls, self._answers), name="eto-agent", daemon=True
            )
            self._thread.start()
        self._calls.put((function, arguments))
        try:
            answer, error = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise ActionTimeoutError(seconds or 0.0, self._abandon()) from None
        if error is not None:
            raise error
        return answer

    def _abandon(self) -> str:
        """Leave the thread behind; the stack it is at."""
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
        """Let an idle thread end."""
        if self._thread is not None:
            self._calls.put(None)


def _serve(calls: queue.SimpleQueue[Any], answers: queue.SimpleQueue[Any]) -> None:
    while True:
        call = calls.get()
        if call is None:
            return
        function, arguments = call
        try:
            answers.put((function(*arguments), None))
        except _Abandoned:
            return
        except BaseException as error:  # noqa: BLE001 (raised again where it is waited for)
            answers.put((None, error))
        del call, function, arguments
