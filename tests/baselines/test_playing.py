"""The scripts that only play, run as a user would run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.baselines.scripts import ROOT, row_of, run

WITHOUT_TORCH = """
import runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "trl", "accelerate"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
sys.path.insert(0, "baselines")
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_best_of_n(tmp_path: Path) -> None:
    printed = run("best_of_n.py", "--smoke", "--out", tmp_path)
    cells = [[cell.strip() for cell in line.split("|")] for line in printed.splitlines()]
    rows = {row[1]: row[2:4] for row in cells if len(row) == 5}
    figures = json.loads((tmp_path / "smoke" / "results.json").read_text())["splits"]
    for column, split in enumerate(("seen", "unseen")):
        one, ten = (float(rows[f"best@{k}"][column]) for k in (1, 10))
        assert 0 < one < ten < 1
        assert rows["reward, best of N"][column].startswith(f"{ten:.3f}")
        assert f"{figures[split]['reward'][0]:.3f}" == f"{ten:.3f}"
    log = (tmp_path / "smoke" / "episodes.jsonl").read_bytes().splitlines()
    assert len(log) == 2 * 20 * 10
    assert "published, Best-of-10 of Llama-2-7B-Chat: {'webshop': 63.8" in printed


def test_prompted(tmp_path: Path) -> None:
    printed = run("prompted.py", "--smoke", "--out", tmp_path)
    assert set(row_of(printed, "random")) == {"seen", "unseen"}
    assert "published, ReAct prompting of GPT-4: {'webshop': 63.2" in printed


@pytest.mark.parametrize("script", ["prompted.py", "best_of_n.py"])
def test_playing_needs_no_torch(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, f"baselines/{script}", "--smoke", "--out", tmp_path],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "published" in done.stdout
