"""`eto serve webshop`: people play, a kill loses nothing, records replay to the same score."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import httpx
import pytest

from eto_agents.cli import main
from eto_agents.store import TrajectoryStore
from eto_envs.webshop.engine.engine import parse_action

SERVE = "from eto_agents.cli import main; main()"


class Site:
    """A running `eto serve webshop`."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-W", "error", "-W", "default::UserWarning", "-c", SERVE),
                *("serve", "webshop"),
                *("--dataset", "mini", "--split", "seen", "--port", "0", "--out", str(folder)),
                *flags,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.url = line.split()[0].rstrip("/")
        self.client = httpx.Client(base_url=self.url, follow_redirects=True)

    def begin(self, task_id: str) -> str:
        """Begin a task; the visit's path."""
        answer = self.client.post("/start", data={"task": task_id})
        assert answer.status_code == 200
        return answer.url.path

    def act(self, path: str, action: str) -> httpx.Response:
        page = self.client.get(path)
        assert page.status_code == 200
        turn = re.search(r'data-turn="(\d+)"', page.text)
        assert turn
        name, argument = parse_action(action)
        field = "search_query" if name == "search" else "click"
        return self.client.post(path, data={"turn": turn[1], field: argument or ""})

    def stop(self, number: int) -> str:
        """Send a signal; what the process wrote to standard error."""
        self.client.close()
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=20)
        return errors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def expert_actions() -> Iterator[Any]:
    env = gym.make("ETO-WebShop-v0", dataset="mini", split="seen", reveal=("expert_action",))

    def actions(task: int) -> tuple[str, list[str]]:
        _, info = env.reset(options={"task": task})
        taken, ended = [], False
        while not ended:
            taken.append(info["expert_action"])
            _, _, terminated, truncated, info = env.step(taken[-1])
            ended = terminated or truncated
        return info["task_id"], taken

    yield actions
    env.close()


def test_a_kill_loses_no_session_and_records_replay(folder: Path, expert_actions: Any) -> None:
    site = Site(folder)
    task, actions = expert_actions(0)
    open_one, finished = site.begin(task), site.begin(task)
    for action in actions:
        last = site.act(finished, action)
    assert "<pre>1.0</pre>" in last.text
    assert "✗ missed" not in last.text
    before = site.act(open_one, actions[0]).text
    assert site.stop(signal.SIGKILL) == ""

    site = Site(folder)
    assert site.client.get(open_one).text == before  # as it was, after the kill
    assert "1 finished so far" in site.client.get("/").text
    for action in ("search[nothing of the kind]", *actions):
        last = site.act(open_one, action)
    assert "<pre>1.0</pre>" in last.text
    third = site.begin(task)
    for number in range(10):
        last = site.act(third, f"search[lamp {number}]")
    assert "That was the last step" in last.text
    assert site.stop(signal.SIGINT) == ""

    records = list(TrajectoryStore(folder / "episodes.jsonl").read())
    assert [(r.task_id, r.seed, r.status, r.score) for r in records] == [
        (task, 1, "completed", 1.0),
        (task, 0, "completed", 1.0),
        (task, 2, "truncated", 0.0),
    ]
    assert {r.policy for r in records} == {"human"}
    assert [s.action for s in records[0].steps] == actions
    for record in records:
        replay(record)
    run = json.loads((folder / "run.json").read_text())
    assert run["inputs"] == {"seen": records[0].tasks_sha256}


def replay(record: Any) -> None:
    """The recorded actions do the same in the environment that the record names."""
    env = gym.make(record.env_id, dataset="mini", split=record.split)
    observation, info = env.reset(options={"task": record.task_id})
    assert (observation, info["tasks_sha256"], info["goal"]) == (
        record.initial_observation,
        record.tasks_sha256,
        record.goal,
    )
    for step in record.steps:
        observation, reward, terminated, truncated, info = env.step(step.action)
        assert (observation, reward, info["score"], info["is_valid_action"]) == (
            step.observation,
            step.reward,
            step.score,
            step.is_valid,
        )
        assert step.latency_s >= 0
    ended = {"completed": (True, False), "truncated": (False, True)}[record.status]
    assert (terminated, truncated) == ended


def test_another_host_is_a_warning(folder: Path) -> None:
    site = Site(folder, "--host", "0.0.0.0", "--host-names", "shop.example")
    port = site.url.rpartition(":")[2]
    for name, status in (
        ("shop.example", 200),
        (f"192.0.2.1:{port}", 200),
        (socket.gethostname(), 200),
        ("evil.example", 421),
    ):
        page = httpx.get(f"http://127.0.0.1:{port}/", headers={"Host": name})
        assert page.status_code == status, name
    warning = site.stop(signal.SIGINT)
    assert "eto: warning: listening on 0.0.0.0" in warning
    assert "shop.example (--host-names adds others), because" in warning


def test_a_host_name_with_a_scheme_is_none(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["serve", "webshop", "--dataset", "mini", "--out", str(folder)]
    assert fails([*command, "--host-names", "http://shop.example"]) == 2
    assert "no host name 'http://shop.example'" in capsys.readouterr().err


def test_by_default_it_is_this_machine_only(folder: Path) -> None:
    site = Site(folder)
    assert site.url.startswith("http://127.0.0.1:")
    assert site.client.get("/", headers={"Host": "shop.example"}).status_code == 421
    assert site.stop(signal.SIGINT) == ""


def test_one_folder_holds_one_task_set_and_one_server(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = Site(folder)
    command = ["serve", "webshop", "--dataset", "mini", "--port", "0", "--out", str(folder)]
    assert fails(command) == 1
    assert "another process is using" in capsys.readouterr().err
    assert site.stop(signal.SIGINT) == ""
    assert fails([*command, "--split", "unseen"]) == 1
    error = capsys.readouterr().err
    assert "different inputs: " in error
    assert "Choose another folder" in error


@pytest.mark.filterwarnings("default:listening on")
def test_misuse(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["serve", "webshop", "--dataset", "mini", "--out", str(folder)]
    assert fails([*command, "--split", "sen"]) == 2
    assert "did you mean 'seen'" in capsys.readouterr().err
    assert fails([*command, "--port", "70000"]) == 2
    assert fails([*command, "--max-steps", "0"]) == 2
    assert fails([*command, "--host", "no.such.host.invalid"]) == 1
    assert "cannot listen on no.such.host.invalid" in capsys.readouterr().err


def fails(arguments: list[str]) -> int:
    """The exit code of a command that fails."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)
