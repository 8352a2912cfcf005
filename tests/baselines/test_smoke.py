"""The training scripts, run as a user runs them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.baselines.scripts import run

pytestmark = [pytest.mark.torch, pytest.mark.slow]

if importlib.util.find_spec("trl") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)


def test_sft(tmp_path: Path) -> None:
    printed = run("sft.py", "--smoke", "--out", tmp_path, "--quiet")
    model = tmp_path / "smoke" / "model"
    result = json.loads((model / "result.json").read_text())
    assert result["n_trajectories"] == 12
    assert result["last_loss"] < result["first_loss"]
    assert f"in {result['n_steps']} steps" in printed
    evaluation = json.loads((model / "evaluation" / "results.json").read_text())
    assert evaluation["splits"]["seen"]["n_episodes"] == 3
    assert "seen" in printed


def test_rft(tmp_path: Path) -> None:
    printed = run("rft.py", "--smoke", "--out", tmp_path, "--quiet")
    model = tmp_path / "smoke" / "model"
    result = json.loads((model / "result.json").read_text())
    assert result["n_expert"] == 12
    assert result["n_explored"] == 6
    assert result["n_trajectories"] == 12 + result["n_added"] - result["n_too_long"]
    assert f"{result['n_added']} were added to 12" in printed
    assert len((model / "explored" / "episodes.jsonl").read_text().splitlines()) == 6
