"""The README can be followed as written: its shell lines run in a fresh clone and an empty home."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SAVED = re.compile(r"Save this as `([\w.]+)`:\s*\Z")
SHORTER = {
    "make quickstart": "make quickstart RECIPE=smoke",
    "make scores": "make scores SCIENCEWORLD_TASKS=2",
    "make test": "make test PYTEST_ARGS=tests/envs/test_spaces.py",
    "eto reproduce --recipe smoke --out runs/all": (
        "eto reproduce --recipe smoke --methods sft --out runs/all"  # as `make quickstart`
    ),
}
"""Commands that would take long, and what is run in their place."""


def script(readme: str) -> str:
    """The console lines as one shell script; a Python block is saved where the text says so."""
    lines = ["set -eux"]
    for block in BLOCK.finditer(readme):
        language, text = block.groups()
        if language == "console":
            commands = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
            lines += [SHORTER.get(command, command) for command in commands]
        elif name := SAVED.search(readme[: block.start()]):
            lines += [f"cat >{name[1]} <<'END_OF_FILE'", text.rstrip("\n"), "END_OF_FILE"]
    return "\n".join(lines) + "\n"


def test_a_script_is_made_of_what_is_there() -> None:
    readme = "A\n\n```python\n1\n```\n\nSave this as `a.py`:\n\n```python\nx = 1\n```\n\n"
    readme += (
        "```shell\nnot this\n```\n\n```console\n$ python a.py\noutput\n$ make quickstart\n```\n"
    )
    assert script(readme).splitlines() == [
        *("set -eux", "cat >a.py <<'END_OF_FILE'", "x = 1", "END_OF_FILE"),
        *("python a.py", "make quickstart RECIPE=smoke"),
    ]


@pytest.mark.slow
@pytest.mark.java
@pytest.mark.torch
@pytest.mark.timeout(1800)
def test_the_shell_lines_run_in_a_fresh_clone(tmp_path: Path) -> None:
    clone, home = tmp_path / "eto-gym", tmp_path / "home"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    home.mkdir()
    passed_on = (
        "PATH",
        "LANG",
        "TORCH",
        "SSL_CERT_FILE",
    )  # and how this machine reaches a registry
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in passed_on or name.startswith(("PIP_", "ETO_"))
    }
    done = subprocess.run(
        ["bash", "-c", script((clone / "README.md").read_text(encoding="utf-8"))],
        cwd=clone,
        env=environment | {"HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "Warning" not in done.stdout
    for file in ("runs/reproduce-smoke/table.md", "runs/replay.html", "runs/report/report.html"):
        assert (clone / file).is_file(), file
    kept = clone / "runs" / "keyword" / "results.json"
    subprocess.run(["make", "clean"], cwd=clone, check=True)
    assert kept.is_file()
    assert not (clone / ".venv").exists()
