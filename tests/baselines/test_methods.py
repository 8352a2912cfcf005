"""The scripts of the methods that train, run as a user would run them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.baselines.scripts import row_of, run

pytestmark = [pytest.mark.torch, pytest.mark.slow]

if importlib.util.find_spec("trl") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)


def record(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def scores_of(evaluation: Path) -> dict[str, float]:
    """Mean rewards x 100 by split, rounded as they are printed."""
    splits = record(evaluation / "results.json")["splits"]
    return {name: round(100 * split["reward"][0], 1) for name, split in splits.items()}


def test_sft(tmp_path: Path) -> None:
    printed = run("sft.py", "--smoke", "--out", tmp_path)
    result = record(tmp_path / "smoke" / "sft" / "result.json")
    assert result["n_trajectories"] == 12
    assert result["last_loss"] < result["first_loss"]
    losses = f"loss {result['first_loss']:.3f} to {result['last_loss']:.3f}"
    assert f"{losses} in {result['n_steps']} steps" in printed
    evaluation = tmp_path / "smoke" / "evaluation"
    assert record(evaluation / "results.json")["splits"]["seen"]["n_episodes"] == 12
    assert row_of(printed, "SFT") == scores_of(evaluation)
    assert "published, SFT of Llama-2-7B-Chat: {'webshop': 63.1" in printed


def test_rft(tmp_path: Path) -> None:
    printed = run("rft.py", "--smoke", "--out", tmp_path)
    folder = tmp_path / "smoke" / "rft"
    result = record(folder / "result.json")
    assert result["n_expert"] == 12
    assert result["n_explored"] == 6
    assert result["n_trajectories"] == 12 + result["n_added"] - result["n_too_long"]
    assert f"{result['n_added']} were added to the expert's 12" in printed
    assert len((folder / "explored" / "episodes.jsonl").read_bytes().splitlines()) == 6
    assert row_of(printed, "RFT") == scores_of(tmp_path / "smoke" / "evaluation")
    assert "published, RFT of Llama-2-7B-Chat: {'webshop': 63.6" in printed


def test_ppo(tmp_path: Path) -> None:
    printed = run("ppo.py", "--smoke", "--out", tmp_path)
    result = record(tmp_path / "smoke" / "ppo" / "result.json")
    assert result["n_updates"] == 2
    assert f"{result['n_episodes']} episodes in 2 updates" in printed
    assert row_of(printed, "PPO") == scores_of(tmp_path / "smoke" / "evaluation")
    assert "published, PPO of Llama-2-7B-Chat: {'webshop': 64.2" in printed


def test_grpo(tmp_path: Path) -> None:
    printed = run("grpo.py", "--smoke", "--out", tmp_path)
    folder = tmp_path / "smoke" / "grpo"
    result = record(folder / "result.json")
    assert (result["n_updates"], result["n_episodes"]) == (2, 16)
    scores = f"mean score {result['first_score']:.3f} to {result['last_score']:.3f}"
    assert f"16 episodes in 2 updates: {scores}" in printed
    assert (folder / "checkpoint" / "model.safetensors").is_file()
    assert row_of(printed, "GRPO") == scores_of(tmp_path / "smoke" / "evaluation")
    assert "published, GRPO of Llama-2-7B-Chat: not in the paper" in printed


def test_eto(tmp_path: Path) -> None:
    printed = run("eto.py", "--smoke", "--out", tmp_path)
    table = record(tmp_path / "smoke" / "eto" / "iterations.json")["iterations"]
    assert [row["number"] for row in table] == [0, 1]
    n_pairs = table[1]["counts"]["pairs"]
    assert n_pairs == table[1]["learning"]["n_pairs"] > 0
    for number, label in enumerate(("iteration 0 (0 pairs)", f"iteration 1 ({n_pairs} pairs)")):
        scores = scores_of(tmp_path / "smoke" / "evaluation" / str(number))
        assert set(scores) == {"seen", "unseen"}
        assert row_of(printed, label) == scores
    assert "published, ETO of Llama-2-7B-Chat: {'webshop': 67.4" in printed


def test_a_real_run_can_follow_a_smoke_test_in_the_same_folder(tmp_path: Path) -> None:
    """Both commands of a script's docstring work one after the other, with the same folder."""
    run("sft.py", "--smoke", "--out", tmp_path)
    small = ("--dataset", "mini", "--model", "tiny:nano", "--n-tasks", "4", "--sft.epochs", "1")
    small += ("--sft.batch-size", "4", "--sft.micro-batch-size", "4", "--splits", "seen")
    run("sft.py", *small, "--out", tmp_path)
    assert record(tmp_path / "sft" / "result.json")["n_trajectories"] == 4
