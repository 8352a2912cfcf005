"""Kill `eto reproduce` again and again, and compare what it comes to with an uninterrupted run.

    python -m tests.kills --kills 100 --seed 0

A folder's run is killed with SIGKILL at random moments of every step, several times in each, and
resumed until it ends; then the next folder is begun, until there were enough kills. Episodes,
weights, tables and the names of all files have to be those of a run that nothing interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.frozen import differences, hashes

METHODS = ("base", "sft", "sft-more", "best-of-n", "rft", "ppo", "grpo", "eto")
SETTINGS = ("grpo.n_updates=1", "grpo.n_samples=2", "grpo.n_episodes=8")
KILLS_PER_STEP = 3
POLL_S = 0.02
DEADLINE_S = 900.0


class Step(NamedTuple):
    """A step of the run, and how long it takes."""

    label: str
    wall_s: float


class Attempt:
    """One process that runs the command in a folder."""

    def __init__(self, folder: Path, world: str) -> None:
        self.log = folder.with_name(f"{folder.name}.log")
        self.log.write_bytes(b"")
        arguments = ["reproduce", "--recipe", "smoke", "--worlds", world, "--out", str(folder)]
        arguments += ["--methods", *METHODS, "--set", *SETTINGS]
        self.pid = os.fork()  # of a process that has loaded the libraries, which takes most time
        if not self.pid:
            _run(arguments, self.log)

    def ended(self) -> list[Step]:
        """The steps that have ended in this attempt, in order."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        found = (re.fullmatch(r"\S+ seed \d+  (.+?): (\d+) s.*", line) for line in lines)
        return [Step(match[1], float(match[2])) for match in found if match]

    def kill(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def status(self) -> int | None:
        """The exit status; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def wait_for(self, n_ended: int) -> bool:
        """Wait until this many steps have ended; whether the process still runs then."""
        deadline_s = time.monotonic() + DEADLINE_S
        while len(self.ended()) < n_ended and time.monotonic() < deadline_s:
            status = self.status()
            if status is not None:
                if status:
                    raise SystemExit(f"{self.log}:\n{self.log.read_text(encoding='utf-8')}")
                return False
            time.sleep(POLL_S)
        return True


def _run(arguments: Sequence[str], log: Path) -> None:
    """The child process; never returns."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1)
    from eto_agents.cli import main

    try:
        main(arguments)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except Exception:  # noqa: BLE001 (the exit status is all that a child can return)
        import traceback

        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    os._exit(code)


def outcome(folder: Path) -> dict[str, str]:
    """Hashes of all episodes, weights and tables, and the names of all other files."""
    files = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): "a file" for path in files}
    return names | dict(hashes(folder))


def uninterrupted(folder: Path, world: str) -> list[Step]:
    """Run the command once; the steps with their durations."""
    started_s = time.monotonic()
    attempt = Attempt(folder, world)
    ends_s: list[float] = []
    while attempt.wait_for(len(ends_s) + 1):
        ends_s.append(time.monotonic())
    labels = [step.label for step in attempt.ended()]
    times_s = [started_s, *ends_s]
    durations_s = [after - before for before, after in itertools.pairwise(times_s)]
    return [Step(label, wall_s) for label, wall_s in zip(labels, durations_s, strict=True)]


def killed(
    folder: Path, world: str, steps: Sequence[Step], rng: random.Random, n_kills: int
) -> Counter[str]:
    """Run the command in a folder, killed up to `n_kills` times; the kills by step."""
    kills: Counter[str] = Counter()
    targets = [position for position in range(len(steps)) for _ in range(KILLS_PER_STEP)]
    targets = sorted(rng.sample(targets, min(n_kills, len(targets))))
    for target in targets:
        attempt = Attempt(folder, world)
        is_running = attempt.wait_for(target)
        time.sleep(rng.uniform(0.0, 1.05 * steps[target].wall_s))
        position = len(attempt.ended())
        if not is_running or attempt.status() is not None:
            break  # it was faster than the kill
        attempt.kill()
        kills[steps[min(position, len(steps) - 1)].label] += 1
    attempt = Attempt(folder, world)
    while attempt.wait_for(len(steps) + 1):
        raise SystemExit(f"{folder} did not end within {DEADLINE_S} s")
    return kills


def main() -> None:
    """Kill, resume, compare, and print how often each step was killed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--world", default="webshop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="work here and keep everything")
    options = parser.parse_args()
    _load_libraries()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    steps = uninterrupted(folder / "whole", options.world)
    print("steps:", ", ".join(f"{step.label} {step.wall_s:.1f} s" for step in steps), flush=True)
    expected = outcome(folder / "whole")
    rng = random.Random(options.seed)
    kills: Counter[str] = Counter()
    number = 0
    while kills.total() < options.kills:
        number += 1
        run = folder / f"killed-{number}"
        kills += killed(run, options.world, steps, rng, options.kills - kills.total())
        wrong = differences(expected, outcome(run))
        print(f"run {number}: {kills.total()} kills, {len(wrong)} files differ", flush=True)
        if wrong:
            raise SystemExit("\n".join([f"{run} differs from {folder / 'whole'} in:", *wrong]))
    print(json.dumps(kills))
    if options.folder is None:
        shutil.rmtree(folder)


def _load_libraries() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # a forked process has one thread
    import torch  # noqa: F401
    import transformers  # noqa: F401
    import trl  # noqa: F401

    import eto_agents.reproduce.all
    import eto_agents.training.dpo
    import eto_agents.training.sft  # noqa: F401


if __name__ == "__main__":
    main()
