"""Examples in the README and the documentation run, commands exist, generated pages are current."""

from __future__ import annotations

import ast
import functools
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro.extras

from eto_agents.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def examples(page: Path) -> str:
    """A page's examples as one script: later ones may use names of earlier ones."""
    return "\n".join(BLOCK.findall(page.read_text(encoding="utf-8")))


def trains(page: Path) -> bool:
    return "eto_agents.training" in examples(page)


def has_environment_of_its_own(page: Path) -> bool:
    """Whether a test in tests/bridges runs the examples, as the package is not installed here."""
    return page.parent.name == "bridges" and page.stem != "trl"


def marks(page: Path) -> list[pytest.MarkDecorator]:
    if page.parent.name == "bridges":
        return [pytest.mark.torch]
    if trains(page):
        return [pytest.mark.torch, pytest.mark.slow]
    return [pytest.mark.browser] if "Browser-v0" in examples(page) else []


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=marks(page))
        for page in PAGES
        if examples(page) and not has_environment_of_its_own(page)
    ],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_examples_run(page: Path, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(examples(page), encoding="utf-8")
    # Others deprecate what others use, such as transformers what TRL does.
    strict = [] if trains(page) or has_environment_of_its_own(page) else ["-W", "error"]
    done = subprocess.run(
        [sys.executable, *strict, script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"run `python docs/generate.py`: {done.stdout}{done.stderr}"


def test_one_version() -> None:
    stated = [
        re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
        for file, pattern in (
            ("pyproject.toml", r'^version = "(.+)"'),
            ("eto_envs/__init__.py", r'^__version__ = "(.+)"'),
            ("CITATION.cff", r"^version: (.+)"),
        )
    ]
    assert len({found[1] for found in stated if found}) == 1
    assert all(stated)


MESSAGE = re.compile(r"^```text\n(.*?)\n```", re.MULTILINE | re.DOTALL)


def texts_of_code() -> Iterator[str]:
    """Every string in the packages, with `…` in place of values."""
    for package in ("eto_envs", "eto_agents"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
                    yield "".join(map(str, parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def unknown_messages(page: str) -> list[str]:
    """The error messages of a page that have a part that the code does not contain."""
    code = "\n".join(texts_of_code())
    messages = [" ".join(text.split()) for text in MESSAGE.findall(page)]
    # `UnknownNameError` puts "no" before what is unknown.
    parts = {message: message.removeprefix("no ").split("…") for message in messages}
    return [m for m in messages if not all(part.strip() in code for part in parts[m])]


def test_messages_of_the_troubleshooting_page_exist() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert len(MESSAGE.findall(page)) > 15
    assert unknown_messages(page) == []
    assert unknown_messages("```text\nno such … message here\n```\n")


CONSOLE = re.compile(r"^```(?:console|shell)?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every `eto` command on a page, but of those with something left out (`…`)."""
    for block in CONSOLE.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.removeprefix("$ ")
            if command.startswith("eto ") and "…" not in command:
                yield shlex.split(command, comments=True)[1:]


COMMAND_PAGES = [*PAGES, *sorted((ROOT / "baselines").rglob("*.md"))]


@pytest.mark.parametrize(
    "page", [p for p in COMMAND_PAGES if any(commands(p))], ids=lambda p: str(p.relative_to(ROOT))
)
def test_commands_are_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command of a page exists and has the flags that the page gives it; nothing is run."""
    called: list[str] = []

    def stub(command: Callable[..., None]) -> Callable[..., None]:
        return functools.wraps(command)(lambda *_, **__: called.append(command.__name__))

    class Recorder(tyro.extras.SubcommandApp):
        def command(self, func: Any = None, **named: Any) -> Any:
            if func is not None:  # a group of commands
                return super().command(func, **named)
            register = super().command(**named)
            return lambda command: register(stub(command))

    monkeypatch.setattr(tyro.extras, "SubcommandApp", Recorder)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # `main` replaces it
    for words in commands(page):
        if "--help" not in words:
            main(words)
    assert len(called) == len([w for w in commands(page) if "--help" not in w])


def test_a_command_that_is_not_understood_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ eto reproduce --tier cpu \\\n    --out runs/x\n```\n")
    assert list(commands(page)) == [["reproduce", "--tier", "cpu", "--out", "runs/x"]]
    with pytest.raises(SystemExit):
        test_commands_are_understood(page, monkeypatch)
