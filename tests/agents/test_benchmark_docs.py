"""The commands in docs/benchmark_your_agent.md do what the page says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "benchmark_your_agent.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^\$ eto (.*)$", PAGE, re.MULTILINE)


def test_the_template_has_at_most_ten_lines() -> None:
    assert len(CODE[0].splitlines()) <= 10


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(command: str, tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text(CODE[0])
    done = subprocess.run(
        [sys.executable, "-c", "from eto_agents.cli import main; main()", *shlex.split(command)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / command.split("--out ")[1].split()[0]
    assert {p.name for p in folder.iterdir()} >= {"report.md", "results.json", "episodes.jsonl"}


def test_there_are_commands() -> None:
    assert [command.split()[4] for command in COMMANDS] == ["my_agent:MyAgent", "random"]
