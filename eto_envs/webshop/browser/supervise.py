"""A script: runs a browser's driver and lets nothing of it outlive the process that started it.

`python supervise.py COMMAND …` starts the command with a temporary folder of its own, writes the
port that it announces to standard output, and waits. When standard input ends (the starter closed
it, or died in whatever way, SIGKILL included) or the command ends, every process that came of it
is killed, re-parented ones too, and the folder is removed. Started by path with Python's bare
standard library, never imported by the library; see `chromium`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
ANNOUNCEMENT = re.compile(rb"successfully on port (\d+)")
LOOK_EVERY_S = 1.0
KILL_TIMEOUT_S = 5.0


def main(command: list[str]) -> int:
    """Run the command until it or standard input ends; its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Ctrl-C is for the starter, which closes the browser in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    folder = tempfile.mkdtemp(prefix="eto-browser-")
    driver = None
    try:
        driver = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": folder},
            start_new_session=True,
        )
        wait(driver)
    finally:
        kill_all(driver)
        shutil.rmtree(folder, ignore_errors=True)
    return driver.returncode or 0


def wait(driver: subprocess.Popen[bytes]) -> None:
    """Announce the driver's port, then wait until it or standard input ends."""
    starter = os.getppid()
    said, is_announced = b"", False
    output = driver.stdout.fileno()  # type: ignore[union-attr]  # it is a pipe
    while os.getppid() == starter:
        ready, _, _ = select.select([0, output], [], [], LOOK_EVERY_S)
        if 0 in ready and not os.read(0, 1024):
            return
        if output not in ready:
            continue
        chunk = os.read(output, 65536)
        if not is_announced:
            said += chunk
            port = ANNOUNCEMENT.search(said)
            if port or not chunk:
                # Without a port, what it said instead: the starter makes an error of it.
                os.write(1, (port[1] if port else said[-2000:]) + b"\n")
                is_announced = True
        if not chunk:
            return


def kill_all(driver: subprocess.Popen[bytes] | None) -> None:
    """Kill and reap everything that came of this process."""
    deadline_s = time.monotonic() + KILL_TIMEOUT_S
    while time.monotonic() < deadline_s:
        pids = descendants()
        if driver is not None and driver.poll() is None:
            pids.append(driver.pid)  # where there is no /proc, its group is all we know
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(driver.pid, signal.SIGKILL)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not pids:
            return
        time.sleep(0.01)


def descendants() -> list[int]:
    """The processes below this one, as /proc has them; ended ones are left out."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # it has ended in between
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
    found: list[int] = []
    level = {os.getpid()}
    while level := {pid for pid, parent in parents.items() if parent in level}:
        found += level
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
