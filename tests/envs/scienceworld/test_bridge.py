"""The Java process: finding it, starting it, and every way in which it can end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eto_envs.errors import BackendError, MissingExtraError, UnknownNameError
from eto_envs.scienceworld import installed
from eto_envs.scienceworld.bridge import Host, HostLostError
from eto_envs.scienceworld.installed import count_workers, find_java, find_simulator

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def start(java: str) -> Iterator[Callable[..., Host]]:
    started: list[Host] = []

    def make(**kwargs: object) -> Host:
        started.append(Host(java, **kwargs))  # type: ignore[arg-type]
        return started[-1]

    yield make
    for host in started:
        host.close()


def has_ended(pid: int) -> bool:
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def halt(pid: int) -> None:
    """Stop a process; the signal alone does not wait until every thread has stopped."""
    os.kill(pid, signal.SIGSTOP)
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        threads = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/stat")]
        if all(thread.rsplit(")", 1)[1].split()[0] == "T" for thread in threads):
            return
        time.sleep(0.01)
    raise TimeoutError(f"process {pid} does not stop")


def test_a_java_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable = tmp_path / "java"
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)
    assert find_java(str(executable)) == str(executable)
    monkeypatch.setenv("ETO_JAVA", str(executable))
    assert find_java() == str(executable)
    with pytest.raises(MissingExtraError, match="no-such-java"):
        find_java("no-such-java")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ETO_JAVA", raising=False)
    monkeypatch.setattr(installed, "_package_folder", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'eto-gym\[scienceworld\]'"):
        find_java()
    with pytest.raises(MissingExtraError, match=r"pip install 'eto-gym\[scienceworld\]'"):
        find_simulator()


@pytest.mark.java
def test_another_simulator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.1.3")
    with pytest.raises(MissingExtraError, match=r"scienceworld 1\.2\.3, not 1\.1\.3"):
        find_simulator()


@pytest.mark.java
def test_it_starts_fast_and_ends(start: Callable[..., Host]) -> None:
    host = start()
    assert host.is_fast
    assert b"boil 30" in host.call(0, "n", b"", "counting")
    host.close()
    assert has_ended(host.pid)
    with pytest.raises(BackendError, match=r"counting was not carried out: .* was closed"):
        host.call(0, "n", b"", "counting")


@pytest.mark.java
def test_what_the_simulator_refuses_is_an_error_and_no_end(start: Callable[..., Host]) -> None:
    host = start()
    with pytest.raises(BackendError, match="no world 7 is loaded"):
        host.call(7, "l", b"", "looking")
    with pytest.raises(BackendError, match="there is no task boyle/3"):
        host.call(7, "d", b"\0\0\0\5boyle\0\0\0\3", "describing")
    assert host.call(0, "n", b"", "counting")


@pytest.mark.java
def test_only_the_request_it_died_on_fails_for_good(start: Callable[..., Host]) -> None:
    host = start()
    halt(host.pid)
    first, second = host.send([(0, "n", b"", "the first"), (0, "n", b"", "the second")])
    os.kill(host.pid, signal.SIGKILL)
    with pytest.raises(BackendError, match=r"at the first, .* ended \(exit status -9\)") as error:
        first.result()
    assert not isinstance(error.value, HostLostError)
    with pytest.raises(HostLostError):
        second.result()


@pytest.mark.java
def test_an_interruption_leaves_no_half_of_a_response(
    start: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = start()
    expected = host.call(0, "n", b"", "counting")
    read, n_reads = os.read, 0

    def interrupted(file: int, size: int) -> bytes:
        nonlocal n_reads
        n_reads += 1
        if n_reads == 2:
            raise KeyboardInterrupt
        return read(file, 6 if n_reads == 1 else size)  # at first the length and two bytes

    monkeypatch.setattr(os, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        host.call(0, "n", b"", "the first")
    assert host.call(0, "n", b"", "the second") == expected


@pytest.mark.java
def test_a_hanging_call_times_out(start: Callable[..., Host]) -> None:
    host = start(timeout_s=0.5)
    halt(host.pid)
    with pytest.raises(BackendError, match=r"at waiting, .* did not respond for 0\.5 s"):
        host.call(0, "n", b"", "waiting")
    assert has_ended(host.pid)


@pytest.mark.java
@pytest.mark.parametrize(
    ("variable", "options"),
    [
        ("JAVA_TOOL_OPTIONS", "-Xlog:gc"),
        ("JAVA_TOOL_OPTIONS", "-verbose:class"),
        ("JDK_JAVA_OPTIONS", "-Xlog:gc -XX:+PrintFlagsFinal"),
        ("_JAVA_OPTIONS", "-Xlog:gc -Xmx8m"),
    ],
)
def test_options_in_the_environment_do_not_reach_it(
    variable: str, options: str, start: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, options)
    host = start(timeout_s=20)
    assert host.is_fast
    assert b"boil 30" in host.call(0, "n", b"", "counting")


def wrapper(folder: Path, script: str) -> str:
    executable = folder / "java"
    executable.write_text(f"#!/bin/sh\n{script}\n")
    executable.chmod(0o755)
    return str(executable)


@pytest.mark.java
def test_other_output_is_an_error_at_once(tmp_path: Path, java: str) -> None:
    started_s = time.monotonic()
    chatty = wrapper(tmp_path, f'echo "Using {java}"; exec {java} "$@"')
    with pytest.raises(BackendError, match=r"something else to its standard output: 'Using "):
        Host(chatty)
    noisy = wrapper(tmp_path, f'printf F; echo "a warning"; exec {java} "$@"')
    host = Host(noisy)
    with pytest.raises(BackendError, match=r"at counting, .*something else .*: 'a warning"):
        host.call(0, "n", b"", "counting")
    assert has_ended(host.pid)
    assert time.monotonic() - started_s < 30  # and not after the timeouts of a minute each


@pytest.mark.java
def test_what_it_said_last_is_in_the_error(tmp_path: Path) -> None:
    executable = tmp_path / "java"
    executable.write_text("#!/bin/sh\necho no memory >&2\nexit 3\n")
    executable.chmod(0o755)
    with pytest.raises(BackendError, match=r"did not start.*exit status 3.*no memory"):
        Host(str(executable))
    with pytest.raises(BackendError, match="cannot start"):
        Host(str(tmp_path))


def test_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ETO_JAVA_THREADS", raising=False)
    for n_cores, n_workers in ((1, 1), (2, 1), (4, 3), (64, installed.MAX_WORKERS)):
        cores = set(range(n_cores))
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, c=cores: c, raising=False)
        assert count_workers() == n_workers
    monkeypatch.setenv("ETO_JAVA_THREADS", "16")
    assert count_workers() == 16
    for wrong in ("0", "-1", "two"):
        monkeypatch.setenv("ETO_JAVA_THREADS", wrong)
        with pytest.raises(UnknownNameError, match="positive number"):
            count_workers()


@pytest.mark.java
def test_one_thread_serves_while_another_is_not_begun(start: Callable[..., Host]) -> None:
    host = start(n_workers=3)
    answers = host.send([(number, "l", b"", f"world {number}") for number in range(6)])
    for number, answer in enumerate(answers):
        with pytest.raises(BackendError, match=f"world {number}: .*no world {number} is loaded"):
            answer.result()
    assert b"boil 30" in host.call(-1, "n", b"", "counting")


KILLED = """
import os, signal
from eto_envs.scienceworld.bridge import shared_host
from eto_envs.scienceworld.installed import find_java
print(shared_host(find_java()).pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
FORKED = """
import os, time
from eto_envs.scienceworld.installed import find_java
from eto_envs.scienceworld.world import Setup, World
world = World(find_java())
world.load(Setup("boil", 0, "easy"))
mine = world.step("look around")
child = os.fork()
same = world.step("teleport to kitchen") == world.replay(
    world.setup, ["look around", "teleport to kitchen"], world._digest)
if child == 0:
    os._exit(0 if same else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert same and world.step("look around").observation
"""


@pytest.mark.java
def test_it_does_not_outlive_a_killed_python() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert has_ended(int(done.stdout))


@pytest.mark.java
def test_a_forked_child_has_its_own() -> None:
    command = [sys.executable, "-W", "error", "-c", FORKED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
