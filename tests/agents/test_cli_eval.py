"""`eto eval`: its flags, invalid arguments, agents that hang, and the display in a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from eto_agents.best_of_n import BestOfN
from eto_agents.cli.evaluation import AgentFlags, key_values
from eto_agents.models.scripted import ScriptedModel
from eto_agents.policies.react import ReActPolicy
from eto_envs.errors import EtoError, UnknownNameError
from tests.toy import CORRIDOR

ROOT = Path(__file__).resolve().parents[2]
AGENT = """
import time


class Sleepy:
    def reset(self, task, seed):
        self.sleeps = task.id == "room3"

    def act(self, observation, info):
        if self.sleeps:
            time.sleep(600)
        return "east"
"""
TASK = ("eval", "--env", CORRIDOR, "--splits", "seen", "--out", "run")


def eto(*arguments: str, cwd: Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    code = "import tests.toy; from eto_agents.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        text=True,
        timeout=60,
        check=False,
        **kwargs,
    )


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "script.json"
    path.write_text(json.dumps(["Action: east"]))
    return f"scripted:{path}"


def test_a_model_implies_react(script: str) -> None:
    policy = AgentFlags(model=script, prompts="own", policy_args=("temperature=0.5",)).load()
    assert isinstance(policy, ReActPolicy)
    assert isinstance(policy.model, ScriptedModel)
    assert policy.provenance["prompts"] == "own"
    assert policy.sampling.temperature == 0.5
    wrapped = AgentFlags(model=script, best_of=3, policy_args=("temperature=0.5",)).load()
    assert isinstance(wrapped, BestOfN)
    assert wrapped.name == "best-of-3 (react (scripted))"
    arguments = ("policy=react", "n=2", "temperature=1")
    named = AgentFlags(policy="best-of-n", model=script, policy_args=arguments).load()
    assert named.name == "best-of-2 (react (scripted))"  # type: ignore[attr-defined]


def test_runs_of_different_agents_have_different_folders() -> None:
    names = [
        AgentFlags(policy="random").folder_name(),
        AgentFlags(policy="my.module:Agent").folder_name(),
        AgentFlags(model="hf:runs/sft/checkpoint").folder_name(),
        AgentFlags(model="openai:gpt-4o", best_of=10).folder_name(),
    ]
    assert names == [
        "random",
        "my.module.Agent",
        "react-hf.runs.sft.checkpoint",
        "best-of-10-react-openai.gpt-4o",
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (AgentFlags(), "--policy NAME or --model KIND:NAME"),
        (AgentFlags(policy="random", best_of=0), "--best-of must be at least 1"),
        (AgentFlags(policy="random", action_timeout=0.0), "--action-timeout must be more than 0"),
        (AgentFlags(policy="random", policy_args=("x=1",)), "random: .*unexpected keyword"),
        (AgentFlags(policy="random", model="hf:x"), "random: .*unexpected keyword"),
        (AgentFlags(model="a:b", policy_args=("model=c:d",)), "already says model=c:d"),
        (AgentFlags(policy="tests.agents.test_cli_eval:TASK"), "is not a policy"),
    ],
)
def test_invalid_flags(flags: AgentFlags, message: str) -> None:
    with pytest.raises(EtoError, match=message):
        flags.load()


def faulty() -> None:
    raise TypeError("a mistake inside the agent's own code")


def test_an_error_inside_the_agent_keeps_its_traceback() -> None:
    with pytest.raises(TypeError, match="own code"):
        AgentFlags(policy="tests.agents.test_cli_eval:faulty").load()


def test_key_values() -> None:
    values = key_values(("a=1", "b=[2]", "c=x=y", "d=", "e=true"))
    assert values == {"a": 1, "b": [2], "c": "x=y", "d": "", "e": True}
    with pytest.raises(UnknownNameError, match="KEY=VALUE"):
        key_values(("a",))


def test_an_agent_that_hangs_loses_only_its_episode(tmp_path: Path) -> None:
    (tmp_path / "sleepy.py").write_text(AGENT)
    started_s = time.monotonic()
    command = (*TASK, "--policy", "sleepy:Sleepy", "--action-timeout", "5")
    done = eto(*command, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started_s < 250  # the sleeping thread does not keep the process
    assert "(agent_error 1, completed 4)" in done.stderr
    assert "1 (1 agent_error)" in done.stdout
    log = [json.loads(line) for line in (tmp_path / "run/episodes.jsonl").read_text().splitlines()]
    (failed,) = [record for record in log if record["status"] == "agent_error"]
    assert failed["task_id"] == "room3"
    assert "time.sleep(600)" in failed["error"]
    report = (tmp_path / "run" / "report.md").read_text()
    assert "time.sleep(600)" not in report


def read_all(descriptor: int, parts: list[bytes]) -> None:
    try:
        while part := os.read(descriptor, 65_536):
            parts.append(part)
    except OSError:  # how Linux says that the other end is closed
        return


def test_a_terminal_gets_progress_bars(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    shown: list[bytes] = []
    reader = threading.Thread(target=read_all, args=(ours, shown))
    reader.start()
    done = eto(*TASK, "--policy", "expert", cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    reader.join(timeout=10)
    os.close(ours)
    text = b"".join(shown).decode()
    assert done.returncode == 0
    assert "5/5 episodes" in text
    assert "\x1b[" in text
    assert "5/5" not in done.stdout  # stdout is for the table
    quiet = eto(*TASK, "--policy", "expert", "--quiet", cwd=tmp_path, capture_output=True)
    assert quiet.stderr == ""
