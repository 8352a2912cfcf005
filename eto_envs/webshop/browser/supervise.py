"""A script that runs the driver of a browser and makes sure that it does not outlive its owner.

`python supervise.py COMMAND …` starts the command with its own temporary folder, writes the port
that it announces to standard output, and waits. When standard input is closed (by the owner, or
because it dies for whatever reason, including SIGKILL) or when the command ends, all descendant
processes are killed, including re-parented ones, and the folder is removed. It is run by its path,
uses only the standard library, and is never imported; see `chromium`.
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
    """Run the command until it ends or standard input is closed; returns its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Ctrl-C must only reach the owner, which closes the browser itself.
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
    """Announce the port of the driver, then wait until it ends or standard input is closed."""
    owner = os.getppid()
    text, is_announced = b"", False
    output = driver.stdout.fileno()  # type: ignore[union-attr]  # it is a pipe
    while os.getppid() == owner:
        ready, _, _ = select.select([0, output], [], [], LOOK_EVERY_S)
        if 0 in ready and not os.read(0, 1024):
            return
        if output not in ready:
            continue
        chunk = os.read(output, 65536)
        if not is_announced:
            text += chunk
            port = ANNOUNCEMENT.search(text)
            if port or not chunk:
                # If the driver ends without a port, the owner puts its output into an error.
                os.write(1, (port[1] if port else text[-2000:]) + b"\n")
                is_announced = True
        if not chunk:
            return


def kill_all(driver: subprocess.Popen[bytes] | None) -> None:
    """Kill and reap all descendants of this process."""
    deadline_s = time.monotonic() + KILL_TIMEOUT_S
    while time.monotonic() < deadline_s:
        pids = descendants()
        if driver is not None and driver.poll() is None:
            pids.append(driver.pid)  # without /proc, only its process group is known
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
    """The descendants of this process according to /proc, without zombies."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # it has ended in the meantime
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
    found: list[int] = []
    level = {os.getpid()}
    while level := {pid for pid, parent in parents.items() if parent in level}:
        found += level
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
