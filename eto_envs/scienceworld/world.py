"""`World`: one simulated world in the shared Java process, and how it outlives that process.

A world is what its task and its actions make it, exactly: when the process has died, or the world
is wanted again (a snapshot), the actions are done anew in one call and a checksum of all that they
gave is compared. Not here: how to reach the process (`bridge`), and what is a reward (`env`).
"""

from __future__ import annotations

import itertools
import struct
import weakref
from collections.abc import Iterable
from typing import NamedTuple

from eto_envs.errors import BackendError
from eto_envs.scienceworld.bridge import (
    HEAP_MB,
    SOLVER_HEAP_MB,
    TIMEOUT_S,
    Host,
    HostLostError,
    Pending,
    shared_host,
)

NO_SUCH_ACTION = "No known action matches that input."
"""How the simulator's answer to what it does not know begins; nothing has happened then."""

_world_numbers = itertools.count()


class Outcome(NamedTuple):
    """What an action gave.

    Attributes:
        observation: the text.
        score: the simulator's raw score: in [0, 1], or -1 when the task has failed.
        completed: the task is done.
        ticks: the simulator's clock.
        digest: checksum of all observations, scores and ends since the start.
    """

    observation: str
    score: float
    completed: bool
    ticks: int
    digest: int


class Setup(NamedTuple):
    """What a world begins with: a task's name, its variation, and the simplifications."""

    task: str
    variation: int
    simplification: str

    def __str__(self) -> str:
        """The task's id."""
        return f"{self.task}/{self.variation}"


class World:
    """A world; `load` begins a task, `step` acts.

    Attributes:
        actions: what was done since `load`.
    """

    def __init__(self, java: str, timeout_s: float = TIMEOUT_S, *, same_hash: bool = False) -> None:
        """A world in a process that `java` runs; nothing is started yet. See `bridge.Host`."""
        self._kind = (java, timeout_s, HEAP_MB, same_hash)
        self._number = next(_world_numbers)
        self._host: Host | None = None
        self._setup: Setup | None = None
        self._digest = 0
        self._ahead: tuple[str, Pending] | None = None
        self._drop: weakref.finalize[[int], World] | None = None
        self.actions: list[str] = []

    @property
    def setup(self) -> Setup:
        """The task that was loaded.

        Raises:
            BackendError: none was.
        """
        if self._setup is None:
            raise BackendError("no task was loaded")
        return self._setup

    def load(self, setup: Setup) -> Outcome:
        """Begin a task.

        Raises:
            BackendError: the simulator failed, or its process did.
        """
        return self._make(setup, [])

    def replay(self, setup: Setup, actions: Iterable[str], digest: int) -> Outcome:
        """Begin a task and do what was done before, in one call.

        Args:
            setup: the task.
            actions: all actions of the episode.
            digest: `Outcome.digest` of the last of them.

        Raises:
            BackendError: as `load`, or the actions gave something else than before.
        """
        outcome = self._make(setup, list(actions))
        if outcome.digest != digest:
            self._host = None
            raise BackendError(f"doing {setup} again gave something else: this is no replay")
        return outcome

    def send(self, action: str) -> None:
        """Send an action ahead of `step`, so that the simulator works while others are served.

        If `step` is then given another one, the world is made anew without it.
        """
        host = self._recover()
        [pending] = host.send([(self._number, "S", _text(action), f"action {action!r:.80}")])
        self._ahead = action, pending

    def step(self, action: str) -> Outcome:
        """Do an action.

        If the process ended since the last call, the world is first made anew in another one.

        Raises:
            BackendError: the simulator failed, or its process did at this action.
        """
        if self._ahead is None or self._ahead[0] != action:
            self.send(action)
        _, pending = self._ahead  # type: ignore[misc]  # `send` has set it
        self._ahead = None
        try:
            answer = pending.result()
        except HostLostError:
            return self.step(action)  # another world's action ended it, before it came to ours
        except BackendError:
            self._host = None
            raise
        return self._note(action, answer)

    def look(self) -> str:
        """The room; takes no time."""
        return self._ask("l")

    def inventory(self) -> str:
        """What the agent carries; takes no time."""
        return self._ask("i")

    def valid_actions(self) -> list[str]:
        """What the simulator lists as valid, sorted; takes no time and draws nothing."""
        return self._ask("v").split("\n")

    def progress(self) -> str:
        """How far each goal of the task is, in the simulator's words."""
        return self._ask("p")

    def close(self) -> None:
        """Let the world go; it can be loaded anew."""
        if self._drop is not None:
            self._drop()
            self._drop = None
        self._host = self._ahead = None

    def _make(self, setup: Setup, actions: list[str]) -> Outcome:
        host = shared_host(*self._kind)
        arguments = _text(setup.task) + struct.pack(">i", setup.variation)
        arguments += _text(setup.simplification) + b"".join(map(_text, actions))
        self._host = self._ahead = None
        answer = host.call(self._number, "R", arguments, f"starting {setup}")
        self._hold(host)
        self._setup, self.actions = setup, actions
        outcome = _outcome(answer)
        self._digest = outcome.digest
        return outcome

    def _hold(self, host: Host) -> None:
        if self._drop is not None:
            self._drop.detach()
        self._host = host
        self._drop = weakref.finalize(self, host.drop, self._number)
        self._drop.atexit = False

    def _recover(self) -> Host:
        """The host, after the world was made anew in it if need be."""
        setup = self.setup
        is_ahead = self._ahead is not None
        if is_ahead or self._host is not shared_host(*self._kind):
            self.replay(setup, self.actions, self._digest)
        if self._host is None:
            raise BackendError(f"{setup} could not be made anew")
        return self._host

    def _ask(self, operation: str) -> str:
        answer = self._recover().call(self._number, operation, b"", f"question {operation!r}")
        return answer[4:].decode("utf-8")

    def _note(self, action: str, answer: bytes) -> Outcome:
        outcome = _outcome(answer)
        self.actions.append(action)
        self._digest = outcome.digest
        return outcome


def describe(java: str, task: str, variation: int) -> str:
    """The description of a task, in the agent's words.

    Raises:
        BackendError: the simulator failed, or has no such task.
    """
    arguments = _text(task) + struct.pack(">i", variation)
    answer = shared_host(java).call(-1, "d", arguments, f"describing {task}/{variation}")
    return answer[4:].decode("utf-8")


def gold_actions(java: str, setup: Setup) -> list[str]:
    """The simulator's own solution of a task; takes up to seconds.

    A process of its own looks for it: the search takes ten times the memory of all worlds.

    Raises:
        BackendError: the simulator failed, or has no such task.
    """
    arguments = _text(setup.task) + struct.pack(">i", setup.variation) + _text(setup.simplification)
    host = shared_host(java, heap_mb=SOLVER_HEAP_MB)
    answer = host.call(-1, "g", arguments, f"solving {setup}")
    return answer[4:].decode("utf-8").split("\n")


def count_variations(java: str) -> dict[str, int]:
    """Every task's number of variations, as the simulator has it."""
    answer = shared_host(java).call(-1, "n", b"", "counting variations")
    lines = answer[4:].decode("utf-8").splitlines()
    return {name: int(count) for name, count in (line.split(" ") for line in lines)}


def _outcome(answer: bytes) -> Outcome:
    score, completed, ticks, digest, _ = struct.unpack_from(">d?iii", answer)
    return Outcome(answer[21:].decode("utf-8"), score, completed, ticks, digest)


def _text(text: str) -> bytes:
    # What is no text in UTF-8 (half of a surrogate pair) matches no command as "?" either.
    data = text.encode("utf-8", "replace")
    return struct.pack(">i", len(data)) + data
