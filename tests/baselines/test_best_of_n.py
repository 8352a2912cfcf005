"""The Best-of-N script, run as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_smoke(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "baselines" / "best_of_n.py", "--smoke", "--out", tmp_path],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cells = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines()]
    rows = {row[1]: row[2:4] for row in cells if len(row) == 5}
    figures = json.loads((tmp_path / "smoke" / "results.json").read_text())["splits"]
    for column, split in enumerate(("seen", "unseen")):
        one, ten = (float(rows[f"best@{k}"][column]) for k in (1, 10))
        assert 0 < one < ten < 1
        assert rows["reward, best of N"][column].startswith(f"{ten:.3f}")
        assert f"{figures[split]['reward'][0]:.3f}" == f"{ten:.3f}"
    log = (tmp_path / "smoke" / "episodes.jsonl").read_text().splitlines()
    assert len(log) == 2 * 20 * 10
