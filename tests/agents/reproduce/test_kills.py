"""A reproduction that is killed in any step resumes and comes to the same weights and table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_a_killed_reproduction_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kills", "--kills", "6", "--folder", str(tmp_path / "kills")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kills = json.loads(done.stdout.splitlines()[-1])
    assert sum(kills.values()) == 6
