"""Running the scripts of `baselines` as a user would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: str | Path) -> str:
    """Run a script, which must succeed, and return what it prints."""
    done = subprocess.run(
        [sys.executable, ROOT / "baselines" / script, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def row_of(printed: str, label: str) -> dict[str, float]:
    """Mean rewards x 100 by split, from a line like ``SFT: seen 63.1 [60.0, 66.2], unseen 5 ‡``."""
    (line,) = (line for line in printed.splitlines() if line.startswith(f"{label}: "))
    cells = re.findall(r"(\w+) ([\d.]+)(?: \[([\d.]+), ([\d.]+)\]| ‡)", line)
    row = {}
    for split, mean, low, high in cells:
        assert 0.0 <= float(low or mean) <= float(mean) <= float(high or mean) <= 100.0, line
        row[split] = float(mean)
    return row
