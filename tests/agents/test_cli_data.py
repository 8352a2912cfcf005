"""`eto data …`, `eto envs` and `eto play`, run as a user would run them on a local mirror."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eto_agents.trajectory import Trajectory

ROOT = Path(__file__).resolve().parents[2]
ETO = [sys.executable, "-c", "from eto_agents.cli import main; main()"]


def environment(**extra: str) -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "COLUMNS": "160"} | extra


def eto(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ETO, *arguments],
        capture_output=True,
        text=True,
        env=environment(**extra),
        timeout=120,
        check=False,
    )


@pytest.mark.data
def test_download_verify_path(shared_data: Path, tmp_path: Path) -> None:
    here = {"ETO_DATA_DIR": str(tmp_path), "ETO_DATA_MIRROR": str(shared_data / "mirror")}
    missing = eto("data", "path", "eto-splits", **here)
    assert missing.returncode == 1
    assert "eto data download eto-splits" in missing.stderr
    done = eto("data", "download", "eto-splits", "--quiet", **here)
    assert done.returncode == 0, done.stderr
    place = eto("data", "path", "eto-splits/webshop/test_indices.json", **here).stdout.strip()
    assert len(json.loads(Path(place).read_text())) == 200
    assert eto("data", "verify", "eto-splits", **here).returncode == 0
    Path(place).write_text("[]")
    wrong = eto("data", "verify", "eto-splits", **here)
    assert wrong.returncode == 1
    assert "corrupt" in wrong.stdout
    listing = eto("data", "list", **here)
    assert listing.returncode == 0
    assert "webshop-small" in listing.stdout


def test_unknown_names_are_misuse(tmp_path: Path) -> None:
    done = eto("data", "download", "webshp", ETO_DATA_DIR=str(tmp_path))
    assert done.returncode == 2
    assert "did you mean" in done.stderr
    done = eto("data", "build", "webshop", "smal", ETO_DATA_DIR=str(tmp_path))
    assert done.returncode == 2
    assert "'small'" in done.stderr
    done = eto("data", "build", "webshop", "small", ETO_DATA_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "eto data download" in done.stderr


@pytest.mark.data
def test_build_then_evaluate(shared_data: Path, tmp_path: Path) -> None:
    source = str(shared_data / "webshop" / "catalogue")
    here = {"ETO_DATA_DIR": str(tmp_path)}
    done = eto("data", "build", "webshop", source, **here)
    assert done.returncode == 0, done.stderr
    assert "function words" in done.stderr or "heuristic" in done.stderr
    assert "seen: 37 goals" in done.stdout
    command = ("eval", "--env", "ETO-WebShop-v0", "--policy", "expert", "--dataset", source)
    done = eto(*command, "--splits", "seen", "--out", str(tmp_path / "run"), **here)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "results.json").read_text())
    assert record["splits"]["seen"]["n_episodes"] == 37
    assert record["splits"]["seen"]["reward"][0] > 0.95
    assert record["dataset"] == "catalogue"


def test_envs_lists_what_can_be_played(tmp_path: Path) -> None:
    done = eto("envs", ETO_DATA_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "ETO-WebShop-v0" in done.stdout
    assert "1000" in done.stdout


def test_play_in_a_terminal(tmp_path: Path) -> None:
    """A person searches, asks for help, opens a product and buys it."""
    out = tmp_path / "episode.jsonl"
    arguments = ["play", "ETO-WebShop-v0", "--dataset", "mini", "--task", "0", "--split", "all"]
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*ETO, *arguments, "--out", str(out)],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment(TERM="xterm"),
    )
    os.close(follower)
    screen = read_until(leader, "> ")
    assert "Instruction:" in screen
    os.write(leader, b":actions\n")
    assert "search[<keywords>]" in read_until(leader, "> ")
    os.write(leader, b"search[wooden lamp]\n")
    screen = read_until(leader, "> ")
    product = next(line for line in screen.split() if line.startswith("B") and len(line) == 10)
    os.write(leader, f"click[{product}]\n".encode())
    assert "Buy Now" in read_until(leader, "> ")
    os.write(leader, b"nonsense\n")
    assert "that did nothing" in read_until(leader, "> ")
    os.write(leader, b"click[Buy Now]\n")
    assert "score" in read_until(leader, "written to")
    assert process.wait(timeout=30) == 0
    os.close(leader)
    trajectory = Trajectory.from_json(out.read_text())
    assert (trajectory.policy, trajectory.status, len(trajectory.steps)) == (
        "human",
        "completed",
        4,
    )


def read_until(leader: int, mark: str) -> str:
    """Read the program's output until it contains `mark` and no more of it arrives."""
    text, ends_s = "", time.monotonic() + 30
    while time.monotonic() < ends_s:
        ready, _, _ = select.select([leader], [], [], 0.4)
        if ready:
            try:
                text += os.read(leader, 65536).decode(errors="replace")
            except OSError:  # the program has ended
                break
        elif mark in text:
            break
    assert mark in text, text
    return text
