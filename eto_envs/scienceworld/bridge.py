"""The Java process that simulates ScienceWorld, and the communication with it.

This is the only Python module that deals with Java. One process (`Host`) serves all environments of
this Python process. It is started when it is first needed and exits when its standard input is
closed, so it never outlives us. It runs ``host.jar`` (source in ``java/``) and the simulator of the
`scienceworld` wheel. Not here: finding these (`installed`), worlds, and what happens to them when
the process dies (`world`).
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import logging
import os
import selectors
import struct
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from eto_envs.errors import BackendError
from eto_envs.scienceworld.installed import count_workers, find_simulator

logger = logging.getLogger(__name__)

HOST_JAR = Path(__file__).with_name("host.jar")
TIMEOUT_S = 60.0
"""The maximum time for one response; the slowest one observed (a gold path) took 4 s."""

HEAP_MB = 256
"""The maximum heap size; 64 worlds need a tenth of it. Initially the heap is much smaller."""
SOLVER_HEAP_MB = 768
"""The maximum heap size of the process that generates gold paths, whose peak demand is high."""

_START_TIMEOUT_S = 60.0
_OPTIONS = (
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",  # a crash is better than a world in an inconsistent state
    "-XX:-UsePerfData",
    "-XX:+DisplayVMOutputToStderr",  # standard output carries the protocol
    "-Dfile.encoding=UTF-8",
)
_OPTION_VARIABLES = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")
"""Variables from which Java takes options. They could make it write to standard output, as
``-Xlog:gc`` does, or change the heap or the order of sets: it does not get to see them."""

_N_ERROR_CHARS = 2000
_MAX_ANSWER_BYTES = 1 << 28  # as a length, any four letters of a text are more


class HostLostError(BackendError):
    """The process ended before it reached this request; another process can handle it."""


class Pending:
    """A request that was sent; `result` waits for the response."""

    def __init__(self, host: Host, what: str) -> None:
        """Make a pending request of `host`, described as `what` in errors."""
        self._host = host
        self.what = what
        self.answer: bytes | None = None
        self.error: BackendError | None = None

    def result(self) -> bytes:
        """The response, as written by ``Server.java``.

        Raises:
            HostLostError: the process ended before it reached this request.
            BackendError: it died during this request, took too long, or the simulator failed.
        """
        self._host.wait_for(self)
        if self.error is not None:
            raise self.error
        if self.answer is None:
            raise BackendError(f"no response to {self.what}")
        # One byte of status (1 for success); after a failure, the length (int32) and the message.
        if self.answer[0] != 1:
            text = self.answer[5:].decode("utf-8", "replace")
            raise BackendError(f"ScienceWorld failed at {self.what}: {text[:_N_ERROR_CHARS]}")
        return self.answer[1:]


class Host:
    """One Java process that hosts worlds."""

    def __init__(
        self,
        java: str,
        *,
        timeout_s: float = TIMEOUT_S,
        heap_mb: int = HEAP_MB,
        n_workers: int | None = None,
        plain: bool = False,
        same_hash: bool = False,
    ) -> None:
        """Start the process.

        Args:
            java: the executable.
            timeout_s: the maximum time for one response.
            heap_mb: the maximum size of Java's heap.
            n_workers: the number of simulating threads (by default `count_workers`); each is
                responsible for every `n_workers`-th world and is started with its first one.
            plain: omit the changes to the simulator that only make it faster.
            same_hash: iterate over sets in the order that ``-XX:hashCode=2`` gives.

        Raises:
            MissingExtraError: the simulator is not installed.
            BackendError: the process does not start.
        """
        simulator = find_simulator()
        self.n_workers = count_workers() if n_workers is None else n_workers
        self.timeout_s = timeout_s
        self._lock = threading.RLock()
        self._waiting = collections.deque[Pending]()
        self._dropped = collections.deque[int]()
        self._unsent, self._buffer = bytearray(), bytearray()
        self._ending = "ScienceWorld's Java process belongs to another process"
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process runs)
        heap = [f"-Xmx{heap_mb}m", f"-Xms{heap_mb // 4}m", f"-Xmn{heap_mb // 8}m"]
        command = [java, *_OPTIONS, *heap, "-cp", str(HOST_JAR), "eto.scienceworld.Main"]
        command += [str(simulator), str(self.n_workers)]
        command += ["plain"] * plain + ["same-hash"] * same_hash
        try:
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                cwd=simulator.parent,  # the simulator reads a table from this folder
                env={k: v for k, v in os.environ.items() if k not in _OPTION_VARIABLES},
                start_new_session=True,  # Ctrl-C must not reach it; it exits when its input closes
            )
        except OSError as error:
            self._stderr.close()
            raise BackendError(f"cannot start {java}: {error}") from error
        self.pid = self._process.pid
        self._selector = self._listen()
        self.is_alive = True
        try:
            self._fill(1, _START_TIMEOUT_S)
            mode = bytes(self._buffer[:1])
            if mode not in (b"F", b"P"):
                raise self._other_output()
            del self._buffer[:1]
            self.is_fast = mode == b"F"
        except (OSError, EOFError) as error:
            raise BackendError(f"{java} did not start: {self._end(error)}") from error
        if not (self.is_fast or plain):
            logger.warning("%s is not the expected build: running without speed-ups", simulator)

    def _listen(self) -> selectors.BaseSelector | None:
        if os.name != "posix":  # elsewhere one cannot wait for pipes, so there are no timeouts
            return None
        selector = selectors.DefaultSelector()
        selector.register(self._stdout, selectors.EVENT_READ)
        return selector

    @property
    def _stdin(self) -> int:
        return self._process.stdin.fileno()  # type: ignore[union-attr]

    @property
    def _stdout(self) -> int:
        return self._process.stdout.fileno()  # type: ignore[union-attr]

    def send(self, requests: Sequence[tuple[int, str, bytes, str]]) -> list[Pending]:
        """Queue requests; they are written together when the first response is awaited.

        Args:
            requests: the world, operation, arguments and description (for errors) of each.
        """
        with self._lock:
            dropped = [self._dropped.popleft() for _ in range(len(self._dropped))]
            pending = [Pending(self, what) for *_, what in requests]
            self._waiting.extend(Pending(self, "dropping a world") for _ in dropped)
            self._waiting.extend(pending)
            self._unsent += b"".join(_frame(world, "X", b"") for world in dropped)
            self._unsent += b"".join(_frame(*request[:3]) for request in requests)
            return pending

    def call(self, world: int, operation: str, arguments: bytes, what: str) -> bytes:
        """Send one request and wait for the response; raises the errors of `Pending.result`."""
        return self.send([(world, operation, arguments, what)])[0].result()

    def drop(self, world: int) -> None:
        """Release a world with the next request (safe to call from a finalizer at any time)."""
        self._dropped.append(world)

    def wait_for(self, pending: Pending) -> None:
        """Read responses until `pending` has one, or an error."""
        with self._lock:
            while pending.answer is None and pending.error is None:
                try:
                    self._flush()
                    self._fill(4, self.timeout_s)
                    (size,) = struct.unpack(">i", self._buffer[:4])
                    if not 0 < size <= _MAX_ANSWER_BYTES:
                        raise self._other_output()
                    # Nothing is taken out of the buffer before the whole response is in it: after
                    # an interruption (Ctrl-C in a notebook) the next call would read the rest of
                    # this one as its own.
                    self._fill(4 + size, self.timeout_s)
                    answer = bytes(self._buffer[4 : 4 + size])
                    del self._buffer[: 4 + size]
                    self._waiting.popleft().answer = answer
                except (OSError, ValueError) as error:  # ValueError: closed by us
                    self._fail_pending(error if isinstance(error, TimeoutError) else EOFError())
                except EOFError as error:
                    self._fail_pending(error)

    def _flush(self) -> None:
        while self._unsent:
            del self._unsent[: os.write(self._stdin, self._unsent)]

    def close(self) -> None:
        """Terminate the process; pending requests get errors."""
        with self._lock:
            if self.is_alive:
                self._fail_pending(EOFError("was closed"))

    def forget(self) -> None:
        """Disown the process, in a forked child: it belongs to the parent, as do its pipes."""
        self.is_alive = False
        self._process.returncode = 0  # so that we do not wait for it
        self._close_pipes()
        self._stderr.close()

    def _fail_pending(self, error: Exception) -> None:
        """Fail all requests: the process died during the first one and did not begin the others."""
        if self.is_alive:
            self._ending = f"ScienceWorld's Java process {self._end(error)}"
            if self._waiting:
                first = self._waiting.popleft()
                first.error = BackendError(f"at {first.what}, {self._ending}")
        for pending in self._waiting:
            pending.error = HostLostError(f"{pending.what} was not carried out: {self._ending}")
        self._waiting.clear()

    def _end(self, error: Exception) -> str:
        """Stop the process; returns a description of what happened to it."""
        self.is_alive = False
        if isinstance(error, TimeoutError):
            self._process.kill()
            happened = f"did not respond for {self.timeout_s:g} s and was killed"
        else:
            happened = str(error) or "ended"
        self._close_pipes()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.seek(0)
        output = self._stderr.read()[-_N_ERROR_CHARS:].decode("utf-8", "replace").strip()
        self._stderr.close()
        text = f"{happened} (exit status {self._process.returncode})"
        return f"{text}: {output}" if output else text

    def _close_pipes(self) -> None:
        if self._selector is not None:
            self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _other_output(self) -> EOFError:
        """The error for something on standard output that is not the protocol."""
        output = bytes(self._buffer[:200]).decode("utf-8", "replace").strip()
        return EOFError(f"wrote something else to its standard output: {output!r}")

    def _fill(self, size: int, timeout_s: float) -> None:
        """Read until the buffer has at least `size` bytes."""
        while len(self._buffer) < size:
            if self._selector is not None and not self._selector.select(timeout_s):
                raise TimeoutError
            chunk = os.read(self._stdout, 1 << 16)
            if not chunk:
                raise EOFError
            self._buffer += chunk


_hosts: dict[tuple[str, float, int, bool], Host] = {}
_hosts_lock = threading.Lock()


def shared_host(
    java: str, timeout_s: float = TIMEOUT_S, heap_mb: int = HEAP_MB, same_hash: bool = False
) -> Host:
    """The host of this Python process; started if there is none, or if it has died.

    There is one host for each combination of arguments; see `Host`.

    Raises:
        MissingExtraError: the simulator is not installed.
        BackendError: the process does not start.
    """
    with _hosts_lock:
        kind = (java, timeout_s, heap_mb, same_hash)
        host = _hosts.get(kind)
        if host is None or not host.is_alive:
            host = Host(java, timeout_s=timeout_s, heap_mb=heap_mb, same_hash=same_hash)
            _hosts[kind] = host
        return host


def _frame(world: int, operation: str, arguments: bytes) -> bytes:
    """A request: length of the rest (int32), world (int32), operation (one byte), arguments."""
    return struct.pack(">iic", 5 + len(arguments), world, operation.encode()) + arguments


@atexit.register
def _close_hosts() -> None:
    for host in _hosts.values():
        host.close()


def _forget_hosts() -> None:
    """Disown all hosts, in a forked child: they belong to the parent."""
    global _hosts_lock
    for host in _hosts.values():
        host.forget()
    _hosts.clear()
    _hosts_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_hosts)
