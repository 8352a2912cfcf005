"""Every Python example in the README and the documentation runs; generated pages are current."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def examples(page: Path) -> str:
    """A page's examples as one script: later ones may use names of earlier ones."""
    return "\n".join(BLOCK.findall(page.read_text(encoding="utf-8")))


def trains(page: Path) -> bool:
    return "eto_agents.training" in examples(page)


def marks(page: Path) -> list[pytest.MarkDecorator]:
    if trains(page):
        return [pytest.mark.torch, pytest.mark.slow]
    return [pytest.mark.browser] if "Browser-v0" in examples(page) else []


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=marks(page)) for page in PAGES if examples(page)],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_examples_run(page: Path, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(examples(page), encoding="utf-8")
    strict = [] if trains(page) else ["-W", "error"]  # transformers deprecates what TRL uses
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
