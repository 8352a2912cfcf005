"""`World`: one simulated world in the shared Java process, which it can survive.

The state of a world is determined by its task and its actions. To restore a snapshot, or after the
process has died, the actions are therefore replayed in one call, and a checksum of all outcomes is
compared. Not here: communication with the process (`bridge`) and rewards (`env`).
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
"""How the simulator's response to an unknown action begins; such an action has no effect."""

_world_numbers = itertools.count()


class Outcome(NamedTuple):
    """The result of an action.

    Attributes:
        observation: the simulator's response.
        score: the simulator's raw score: in [0, 1], or -1 if the task has failed.
        completed: whether the task is completed.
        ticks: the simulator's clock.
        digest: checksum of all observations, scores and `completed` flags since the start.
    """

    observation: str
    score: float
    completed: bool
    ticks: int
    digest: int


class Setup(NamedTuple):
    """The initial configuration of a world: a task's name, its variation and simplifications."""

    task: str
    variation: int
    simplification: str

    def __str__(self) -> str:
        """The id of the task."""
        return f"{self.task}/{self.variation}"


class World:
    """A simulated world; `load` begins a task, `step` carries out an action.

    Attributes:
        actions: the actions since `load`.
    """

    def __init__(self, java: str, timeout_s: float = TIMEOUT_S, *, same_hash: bool = False) -> None:
        """Make a world in a process of `java`, which is started on demand; see `bridge.Host`."""
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
        """The current task.

        Raises:
            BackendError: no task has been loaded.
        """
        if self._setup is None:
            raise BackendError("no task has been loaded")
        return self._setup

    def load(self, setup: Setup) -> Outcome:
        """Begin a task.

        Raises:
            BackendError: the simulator failed, or its process did.
        """
        return self._load(setup, [])

    def replay(self, setup: Setup, actions: Iterable[str], digest: int) -> Outcome:
        """Begin a task and replay its actions, in one call.

        Args:
            setup: the task.
            actions: all actions of the episode.
            digest: `Outcome.digest` after the last of them.

        Raises:
            BackendError: as for `load`, or the outcomes differ from those of the episode.
        """
        outcome = self._load(setup, list(actions))
        if outcome.digest != digest:
            self._host = None
            raise BackendError(f"replaying {setup} gave different outcomes")
        return outcome

    def send(self, action: str) -> None:
        """Send an action ahead of `step`, so that the simulator can work on it in the meantime.

        If `step` is then called with another action, the world is rebuilt without this one.
        """
        host = self._recover()
        [pending] = host.send([(self._number, "S", _text(action), f"action {action!r:.80}")])
        self._ahead = action, pending

    def step(self, action: str) -> Outcome:
        """Carry out an action.

        If the process has died since the last call, the world is first rebuilt in a new one.

        Raises:
            BackendError: the simulator failed, or its process died during this action.
        """
        if self._ahead is None or self._ahead[0] != action:
            self.send(action)
        _, pending = self._ahead  # type: ignore[misc]  # `send` has set it
        self._ahead = None
        try:
            answer = pending.result()
        except HostLostError:
            return self.step(action)  # another world's action killed it before it reached ours
        except BackendError:
            self._host = None
            raise
        return self._record(action, answer)

    def look(self) -> str:
        """The description of the room; does not advance the clock."""
        return self._query("l")

    def inventory(self) -> str:
        """What the agent carries; does not advance the clock."""
        return self._query("i")

    def valid_actions(self) -> list[str]:
        """The valid actions, sorted; affects neither the clock nor the random generator."""
        return self._query("v").split("\n")

    def progress(self) -> str:
        """The progress towards each goal of the task, as the simulator words it."""
        return self._query("p")

    def close(self) -> None:
        """Release the world; it can be loaded again."""
        if self._drop is not None:
            self._drop()
            self._drop = None
        self._host = self._ahead = None

    def _load(self, setup: Setup, actions: list[str]) -> Outcome:
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
        """The host; rebuilds the world in it first if necessary."""
        setup = self.setup
        is_ahead = self._ahead is not None
        if is_ahead or self._host is not shared_host(*self._kind):
            self.replay(setup, self.actions, self._digest)
        if self._host is None:
            raise BackendError(f"{setup} could not be rebuilt")
        return self._host

    def _query(self, operation: str) -> str:
        answer = self._recover().call(self._number, operation, b"", f"query {operation!r}")
        return answer[4:].decode("utf-8")

    def _record(self, action: str, answer: bytes) -> Outcome:
        outcome = _outcome(answer)
        self.actions.append(action)
        self._digest = outcome.digest
        return outcome


def describe(java: str, task: str, variation: int) -> str:
    """The description of a task, as shown to the agent.

    Raises:
        BackendError: the simulator failed, or has no such task.
    """
    arguments = _text(task) + struct.pack(">i", variation)
    answer = shared_host(java).call(-1, "d", arguments, f"describing {task}/{variation}")
    return answer[4:].decode("utf-8")


def gold_actions(java: str, setup: Setup, host: Host | None = None) -> list[str]:
    """The simulator's own solution of a task; takes up to ten seconds.

    Args:
        java: the Java executable.
        setup: the task.
        host: the process that generates it; by default a shared one that does nothing else, since
            this takes ten times the memory of all worlds.

    Raises:
        BackendError: the simulator failed, or has no such task.
    """
    arguments = _text(setup.task) + struct.pack(">i", setup.variation) + _text(setup.simplification)
    host = host or shared_host(java, heap_mb=SOLVER_HEAP_MB)
    answer = host.call(-1, "g", arguments, f"solving {setup}")
    return answer[4:].decode("utf-8").split("\n")


def count_variations(java: str) -> dict[str, int]:
    """The number of variations of every task, according to the simulator."""
    answer = shared_host(java).call(-1, "n", b"", "counting variations")
    lines = answer[4:].decode("utf-8").splitlines()
    return {name: int(count) for name, count in (line.split(" ") for line in lines)}


def _outcome(answer: bytes) -> Outcome:
    # Big-endian, 21 bytes: score (float64), completed (bool), ticks, digest and the length of the
    # observation (int32 each); then the observation in UTF-8. As `Server.java` writes it.
    score, completed, ticks, digest, _ = struct.unpack_from(">d?iii", answer)
    return Outcome(answer[21:].decode("utf-8"), score, completed, ticks, digest)


def _text(text: str) -> bytes:
    """A string as `Server.java` reads it: its length in bytes (int32), then UTF-8."""
    # An unpaired surrogate cannot be encoded; "?" does not match any command either.
    data = text.encode("utf-8", "replace")
    return struct.pack(">i", len(data)) + data
