"""The scripts that learn from pairs and play, run as a user runs them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.baselines.scripts import run

pytestmark = [pytest.mark.torch, pytest.mark.slow]

if importlib.util.find_spec("trl") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)


def test_eto(tmp_path: Path) -> None:
    printed = run("eto.py", "--smoke", "--out", tmp_path)
    table = json.loads((tmp_path / "smoke" / "run" / "iterations.json").read_text())["iterations"]
    assert [row["number"] for row in table] == [0, 1]
    assert table[1]["counts"]["pairs"] == table[1]["learning"]["n_pairs"] > 0
    assert all(set(row["scores"]) == {"seen", "unseen"} for row in table)
    assert "published, ETO of Llama-2-7B-Chat: {'webshop': 67.4" in printed


def test_grpo(tmp_path: Path) -> None:
    printed = run("grpo.py", "--smoke", "--out", tmp_path)
    assert printed.count("mean score") >= 2
    assert (tmp_path / "smoke" / "run" / "checkpoint" / "model.safetensors").is_file()


def test_ppo(tmp_path: Path) -> None:
    printed = run("ppo.py", "--smoke", "--out", tmp_path)
    result = json.loads((tmp_path / "smoke" / "run" / "result.json").read_text())
    assert result["n_updates"] == 2
    assert f"{result['n_episodes']} episodes in 2 updates" in printed
    assert "published, PPO of Llama-2-7B-Chat: {'webshop': 64.2" in printed
