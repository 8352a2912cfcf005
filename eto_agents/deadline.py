"""`Worker`: a thread that runs third-party code under a time limit, and is abandoned if it hangs.

Python cannot kill a thread, so one that hangs is abandoned: it is a daemon thread, which does not
keep the process from exiting, and an exception is raised in it asynchronously, which ends a loop in
Python (a call into C that never returns runs until the process exits). What it returns later is
discarded.
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
        except BaseException as error:  # noqa: BLE001 (raised again in `call`)
            answers.put((None, error))
        del call, function, arguments
