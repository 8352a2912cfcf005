"""A run that is killed at random points resumes and ends with the same results."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from eto_agents import Results, TrajectoryStore, evaluate
from eto_envs.errors import DataNotFoundError
from tests.toy import CORRIDOR

ROOT = Path(__file__).resolve().parents[2]
AGENT = """
import random
import time


class Slow:
    def reset(self, task, seed):
        self.rng = random.Random(seed)

    def act(self, observation, info):
        time.sleep(0.002)
        return self.rng.choice(["east", "west", "jump"])
"""
RUN_ETO = "import tests.toy; from eto_agents.cli import main; main()"
TIMES = {"wall_s", "started", "finished", "latency_s"}
N_KILLS = 11


def command(out: str, *more: str) -> list[str]:
    flags = ["--env", CORRIDOR, "--policy", "slow:Slow", "--out", out, "--env-args", "n=20"]
    flags += ["--seeds", "0", "1", "--n-envs", "5", "--quiet", *more]
    return [sys.executable, "-c", RUN_ETO, "eval", *flags]


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own, which can be killed as a whole
    )


def finish(arguments: list[str], folder: Path) -> None:
    process = start(arguments, folder)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def kill_somewhere(process: subprocess.Popen[str], log: Path, rng: random.Random) -> None:
    """Kill the group: one time in four during start-up, else soon after the log has grown."""
    before = size_of(log)
    if rng.random() < 0.25:
        time.sleep(rng.uniform(0.0, 0.8))
    else:
        deadline_s = time.monotonic() + 60
        while size_of(log) == before and process.poll() is None and time.monotonic() < deadline_s:
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.1))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run had ended before it was killed"


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(v) for key, v in value.items() if key not in TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def outcome(folder: Path) -> dict[str, Any]:
    """Everything in a run's folder except times."""
    log = [json.loads(line) for line in (folder / "episodes.jsonl").read_bytes().splitlines()]
    by_key = {(e["split"], e["task_id"], e["seed"], e["sample"]): without_times(e) for e in log}
    assert len(by_key) == len(log), "an episode was played twice"
    return {
        "episodes": by_key,
        "results": without_times(json.loads((folder / "results.json").read_text())),
        "run": json.loads((folder / "run.json").read_text()),
        "report": (folder / "report.md").read_text(),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [(), ("--best-of", "3", "--splits", "seen")], ids=["plain", "best"]
)
def test_a_run_that_is_killed_repeatedly_ends_like_an_uninterrupted_one(
    more: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(AGENT)
    finish(command("whole", *more), tmp_path)
    log = tmp_path / "killed" / "episodes.jsonl"
    rng = random.Random(20 + len(more))
    stored = b""
    n_grown = 0
    for _ in range(N_KILLS):
        kill_somewhere(start(command("killed", *more), tmp_path), log, rng)
        now = log.read_bytes() if log.exists() else b""
        assert now.startswith(stored), "a finished episode was lost"
        n_grown += len(now) > len(stored)
        stored = now[: now.rfind(b"\n") + 1]
    assert n_grown >= N_KILLS // 2  # most kills hit a run that was playing
    assert not (tmp_path / "killed" / "results.json").exists()
    finish(command("killed", *more), tmp_path)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert {p.name for p in (tmp_path / "killed").iterdir()} == {
        p.name for p in (tmp_path / "whole").iterdir()
    }


DIES_WRITING = """
import os, pathlib, signal, sys, tests.toy
from eto_agents import evaluate

victim, moment, out = sys.argv[1:]
whole, move = pathlib.Path.write_bytes, os.replace

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def write_bytes(self, content):
    if victim in self.name and moment == "half":
        whole(self, content[: len(content) // 2])
        die()
    return whole(self, content)

def replace(source, target):
    if victim in str(target) and moment == "before":
        die()
    move(source, target)
    if victim in str(target) and moment == "after":
        die()

pathlib.Path.write_bytes, os.replace = write_bytes, replace
evaluate("random", "eto-test/Corridor-v0", ("seen", "unseen"), seeds=(0, 1), out=out)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["half", "before", "after"])
@pytest.mark.parametrize("victim", ["run.json", "results.json", "report.md"])
def test_files_are_written_atomically(victim: str, moment: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    if moment == "half":  # over an older file
        older = evaluate("random", CORRIDOR, ("seen",), out=out)
    done = subprocess.run(
        [sys.executable, "-c", DIES_WRITING, victim, moment, str(out)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    if victim == "report.md" or (victim, moment) == ("results.json", "after"):
        assert Results.load(out).splits["unseen"].n_episodes == 10
    elif moment == "half":
        assert Results.load(out) == older
    else:
        with pytest.raises(DataNotFoundError):
            Results.load(out)
    again = evaluate("random", CORRIDOR, ("seen", "unseen"), seeds=(0, 1), out=out)
    whole = evaluate("random", CORRIDOR, ("seen", "unseen"), seeds=(0, 1), out=tmp_path / "whole")
    assert outcome(out) == outcome(tmp_path / "whole")
    assert again.splits["seen"].reward == whole.splits["seen"].reward
    assert not list(out.glob(".*.json.*")), "a temporary file was left behind"


def test_complete_lines_survive_wherever_the_file_ends(tmp_path: Path) -> None:
    """At whatever byte the log ends, at most the last episode is played again."""
    evaluate("random", CORRIDOR, ("seen",), out=tmp_path)
    path = tmp_path / "episodes.jsonl"
    whole = path.read_bytes()
    expected = {t.key: t.steps for t in TrajectoryStore(path).read()}
    rng = random.Random(5)
    for n_bytes in sorted(rng.randrange(len(whole)) for _ in range(20)):
        path.write_bytes(whole[:n_bytes])
        n_complete = whole[:n_bytes].count(b"\n")
        played: list[Any] = []
        evaluate("random", CORRIDOR, ("seen",), out=tmp_path, progress=played.append)
        assert sum(p.trajectory is not None for p in played) == 5 - n_complete
        stored = {t.key: t for t in TrajectoryStore(path).read()}
        assert stored.keys() == expected.keys()
        for key, trajectory in stored.items():
            actions = [step.action for step in trajectory.steps]
            assert actions == [step.action for step in expected[key]]
