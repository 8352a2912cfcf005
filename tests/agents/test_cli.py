"""The command `eto`, run in a process of its own as a user would run it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from eto_agents.cli import COMMANDS, GROUPS, main


def eto(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    code = "import tests.toy; from eto_agents.cli import main; main()"
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd or root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "COLUMNS": "200", "HOME": str(root)},
        timeout=120,
        check=False,
    )


def test_eval_prints_a_table_and_writes_the_run(tmp_path: Path) -> None:
    command = ("eval", "--env", "eto-test/Corridor-v0", "--policy", "expert")
    command += ("--splits", "seen", "--out", str(tmp_path / "run"), "--seeds", "0", "1")
    done = eto(*command)
    assert done.returncode == 0, done.stderr
    assert "1.000 [0.566, 1.000]" in done.stdout
    assert "seen: 10/10 episodes  reward 1.000" in done.stderr
    assert {p.name for p in (tmp_path / "run").iterdir()} >= {
        "run.json",
        "episodes.jsonl",
        "results.json",
        "report.md",
    }
    record = json.loads((tmp_path / "run" / "results.json").read_text())
    assert record["splits"]["seen"]["n_episodes"] == 10
    again = eto(*command, "--quiet")
    assert again.returncode == 0
    assert again.stderr == ""
    assert "1.000 [0.566, 1.000]" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("eval", "--env", "eto-test/Corridor-v0", "--policy", "expret"), 2, "'expert'"),
        (("eval", "--env", "eto-test/Corridor-v0"), 2, "--policy"),
        (("evla",), 2, "evla"),
    ],
)
def test_misuse_exits_with_2(
    arguments: tuple[str, ...], code: int, message: str, tmp_path: Path
) -> None:
    done = eto(*arguments, *(("--out", str(tmp_path)) if arguments[0] == "eval" else ()))
    assert done.returncode == code
    assert message in done.stderr + done.stdout


def test_help_lists_every_command_in_one_line() -> None:
    done = eto("--help")
    assert done.returncode == 0
    for command in ("eval", "play", "envs", "data"):
        assert f"• {command} " in done.stdout
    assert "For example" not in done.stdout.partition("subcommands")[2]


COMMANDS_WITH_HELP = [
    *((name,) for name in [*COMMANDS, *GROUPS]),
    *((group, name) for group, commands in GROUPS.items() for name in commands),
]


@pytest.mark.parametrize("command", COMMANDS_WITH_HELP, ids=" ".join)
def test_the_help_of_a_command_ends_its_description_with_an_example(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    description = re.split(r"\n\W* (?:options|positional arguments) ", capsys.readouterr().out)[0]
    examples = description.partition("For example:\n")[2].rstrip()
    assert examples.startswith(f"    eto {' '.join(command)}")
    assert all(line.startswith("    ") for line in examples.splitlines())
    assert max(map(len, description.splitlines()[1:])) <= 100  # tyro does not wrap descriptions


def test_audit_prints_shares_and_fails_if_anything_differs(tmp_path: Path) -> None:
    done = eto("audit", "ETO-ALFWorld-v0", "--dataset", "mini", "-n", "1", "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    last = next(line for line in done.stdout.splitlines() if line.split()[1:2] == ["all"])
    assert last.count("100 %") == 3
    recorded = tmp_path / "recorded.jsonl"
    recorded.write_text("", encoding="utf-8")
    command = ("audit", "ETO-WebShop-v0", "--dataset", "mini", "-n", "0")
    done = eto(*command, "--transcripts", str(recorded))
    assert done.returncode == 1  # nothing was compared
    assert "0 episodes" in done.stdout
    done = eto(*command, "--transcripts", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "no file of recorded episodes" in done.stderr
    done = eto("audit", "ETO-WebShop-v0", "--against", "textworld")
    assert done.returncode == 2


def test_a_bridge_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # `main` replaces it
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "mcp", "--env", "ETO-WebShop-v0", "--dataset", "mini"])
    assert stopped.value.code == 1
    assert "pip install 'eto-gym[mcp]'" in capsys.readouterr().err
