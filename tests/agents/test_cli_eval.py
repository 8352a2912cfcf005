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
from eto_agents.cli import main
from eto_agents.cli.evaluation import AgentFlags, key_values
from eto_agents.models.scripted import ScriptedModel
from eto_agents.policies.react import ReActPolicy
from eto_agents.settings import SettingsError
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
        (AgentFlags(policy="random", policy_args=("x=1",)), "no argument 'x'. Policy 'random'"),
        (AgentFlags(policy="random", model="hf:x"), "no argument 'model'. Policy 'random'"),
        (AgentFlags(model="a:b", policy_args=("model=c:d",)), "already says model=c:d"),
        (AgentFlags(policy="tests.agents.test_cli_eval:TASK"), "is not a policy"),
    ],
)
def test_invalid_flags(flags: AgentFlags, message: str) -> None:
    with pytest.raises(EtoError, match=message):
        flags.load()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("temprature=1", "no argument 'temprature'; did you mean 'temperature'?"),
        ("bse_url=http://x", "no argument 'bse_url'; did you mean 'base_url'?"),
        ("temperature=hot", "temperature must be a number, got 'hot'"),
        ("temperature=-1", "temperature must be a finite number of at least 0, got -1"),
        ("temperature=Infinity", "temperature must be a finite number"),
        ("max_tokens=many", "max_tokens must be a whole number, got 'many'"),
        ("max_tokens=true", "max_tokens must be a whole number, got True"),
        ("with_example=maybe", "with_example must be true or false or null, got 'maybe'"),
        ("model=3", "must be ChatModel or text, got 3"),
        ("omit=stop,temperature", """written as a list: omit='["stop", "temperature"]'"""),
        ("omit=3", 'omit must be a list, such as ["a", "b"], got 3'),
        ("omit=max_completion_tokens", "no field to omit 'max_completion_tokens'"),
        ("token_limit=max_token", "token_limit must be one of 'max_tokens', 'max_completion_t"),
        ("timeout_s=NaN", "timeout_s must be a finite number above 0"),
        ("concurrency=1.5", "concurrency must be a whole number, got 1.5"),
        ("extra_body=top_k", "extra_body must be an object"),
        ("api_key=12345678", "api_key must be text or null, got int"),
        ("base_url=localhost:8000/v1", "'localhost:8000/v1' is not the address of a server"),
        ("base_url=http://", "'http://' is not the address of a server"),
        ("base_url=http://h:port/v1", "'http://h:port/v1' is not the address of a server"),
        ("base_url=me:hidden@host/v1", "'host/v1' is not the address of a server"),
    ],
)
def test_mistyped_arguments_are_reported_before_the_first_episode(
    argument: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    arguments = [
        "eval",
        "--env",
        "ETO-WebShop-v0",
        "--dataset",
        "mini",
        "--out",
        str(tmp_path / "o"),
    ]
    name = argument.partition("=")[0]
    others = {"model": "openai:m", "base_url": "http://x/v1"}
    arguments += ["--policy", "react", "--policy-args"]
    arguments += [f"{key}={value}" for key, value in others.items() if key != name]
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, argument])
    printed = capsys.readouterr()
    assert stopped.value.code in (1, 2)
    assert printed.err.startswith("eto: ")
    assert "Traceback" not in printed.err
    assert "12345678" not in printed.err
    assert "hidden" not in printed.err
    assert message in printed.err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("key", ["sk-secret\nword", "sk-secret word\r", "sk-sécret-word"])
def test_a_key_that_cannot_be_one_is_refused_and_not_printed(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(SettingsError, match="API key contains a line break") as raised:
        AgentFlags(model="openai:m").load()
    assert "word" not in str(raised.value)


@pytest.mark.parametrize("key", ["", None])
def test_no_key_at_all_is_a_sentence(key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(SettingsError, match="set the variable OPENAI_API_KEY, or name another"):
        AgentFlags(model="openai:m").load()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("gols=human", "no argument 'gols'; did you mean 'goals'?"),
        ("price_seed=cheap", "price_seed must be a whole number or null, got 'cheap'"),
        ("shaping=step_cst=0.01", "did you mean 'step_cost'?"),
        ("reveal=admissible_action", "did you mean 'admissible_actions'?"),
        ("goals=humans", "goals must be one of 'human', 'synthetic', got 'humans'"),
    ],
)
@pytest.mark.parametrize("command", ["eval", "collect", "play", "audit"])
def test_mistyped_arguments_of_environments(
    command: str, argument: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    env = ["ETO-WebShop-v0"] if command in ("play", "audit") else ["--env", "ETO-WebShop-v0"]
    policy = ["--policy", "random"] if command == "eval" else []
    with pytest.raises(SystemExit):
        main([command, *env, *policy, "--dataset", "mini", "--env-args", argument])
    assert message in capsys.readouterr().err


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
    with pytest.raises(SettingsError, match="a is given more than once"):
        key_values(("a=1", "a=2"))


def test_an_agent_that_hangs_loses_only_its_episode(tmp_path: Path) -> None:
    (tmp_path / "sleepy.py").write_text(AGENT)
    started_s = time.monotonic()
    command = (*TASK, "--policy", "sleepy:Sleepy", "--action-timeout", "5")
    done = eto(*command, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started_s < 250  # the sleeping thread does not keep the process
    assert "(agent_error 1, completed 4)" in done.stderr
    assert "1 (1 agent_error)" in done.stdout
    log = [json.loads(line) for line in (tmp_path / "run/episodes.jsonl").read_bytes().splitlines()]
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
