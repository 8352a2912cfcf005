"""Tests that the changes in docs/add_a_training_method.md add a working method."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "add_a_training_method.md"
BLOCK = re.compile(r'^```(py|diff) title="([^"]+)"\n(.*?)^```', re.MULTILINE | re.DOTALL)


def changed(text: str, diff: str) -> str:
    """Apply the hunks of a diff, which are located by their lines, not by line numbers."""
    for hunk in re.split(r"(?m)^@@\n", diff):
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(old) == 1, f"found {text.count(old)} times instead of once:\n{old}"
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the changes of the page applied."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("eto_agents", "baselines"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "eto_envs").symlink_to(ROOT / "eto_envs")
    for kind, name, content in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        file = copy / name
        is_new = not file.exists()
        assert is_new == (kind == "py"), name
        file.write_text(content if is_new else changed(file.read_text(), content))
    return copy


def eto(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from eto_agents.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        cwd=root,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_page_changes_at_most_six_files(root: Path) -> None:
    assert root.is_dir()  # so that a hunk that no longer fits is noticed without the slow tests
    files = {name for _, name, _ in BLOCK.findall(PAGE.read_text(encoding="utf-8"))}
    assert len(files) <= 6


@pytest.mark.torch
@pytest.mark.slow
def test_reproduce_shows_the_method_and_resumes(root: Path) -> None:
    arguments = ["reproduce", "--recipe", "smoke", "--methods", "sft", "reinforce"]
    arguments += ["--out", str(root / "out")]
    rows = [line for line in eto(root, *arguments).splitlines() if line.startswith("| REINFORCE")]
    assert re.fullmatch(r"\| REINFORCE( \| \d[\d.,]*[^|]*)+ \|", rows[0])
    metrics = (root / "out/webshop/seed-0/reinforce/metrics.jsonl").read_text().splitlines()
    assert len(metrics) == 2
    again = eto(root, *arguments)  # the second run is complete and trains nothing
    assert rows[0] in again


@pytest.mark.torch
@pytest.mark.slow
def test_train_command_has_the_settings_as_options(root: Path) -> None:
    shown = " ".join(eto(root, "train", "reinforce", "--help").split())
    assert "--n-updates" in shown
    assert "each of a different task" in shown


def test_hunk_that_does_not_match_once_is_an_error() -> None:
    with pytest.raises(AssertionError, match="found 0 times"):
        changed("a\nb\n", " a\n+x\n c\n")
    with pytest.raises(AssertionError, match="found 2 times"):
        changed("a\na\n", " a\n+x\n")
