"""Training in two processes gives the same result as in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from eto_agents.models.checkpoint import save_checkpoint
from eto_envs.files import read_json_object
from tests.agents.training.worlds import BANDIT, WORLD, undecided

pytestmark = [pytest.mark.torch, pytest.mark.slow]

WEBSHOP = ("--env", "ETO-WebShop-v0", "--dataset", "mini")


def eto(*words: object, processes: int = 1) -> None:
    program = ["-m", "tests.agents.training.cli"]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        program = [*launcher, str(processes), *program]
    done = subprocess.run(
        [sys.executable, *program, *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not done.returncode, done.stderr[-3000:]


def same_weights(a: Path, b: Path) -> bool:
    one, other = (load_file(f / "checkpoint" / "model.safetensors") for f in (a, b))
    gap = max(float((one[name] - other[name]).abs().max()) for name in one)
    return one.keys() == other.keys() and gap < 1e-5


def losses(stage: Path) -> list[float]:
    lines = (stage / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    data, start = tmp_path / "data", tmp_path / "of-1" / "sft" / "checkpoint"
    eto("collect", *WEBSHOP, "--policy", "expert", "--n-tasks", 16, "--out", data, "--quiet")
    for n in (1, 2):
        out = tmp_path / f"of-{n}"
        model = ("--model", "tiny:nano", "--vocab-size", 600, "--learning-rate", 5e-3)
        size = ("--epochs", 6, "--batch-size", 4, "--micro-batch-size", 2)
        eto(
            *("train", "sft", "--data", data, "--out", out / "sft", *model, *size),
            *("--optimizer", "muon+adamw", "--quiet"),
            processes=n,
        )
        loop = ("--iterations", 1, "--dev-tasks", 2, "--n-tasks", 16, "--temperature", 1)
        dpo = ("--dpo.learning-rate", 1e-3, "--dpo.batch-size", 4, "--dpo.epochs", 1)
        eto(
            *("train", "eto", *WEBSHOP, "--data", data, "--out", out / "eto", "--model", start),
            *(*loop, *dpo, "--max-new-tokens", 24, "--quiet"),
            *("--splits", "seen", "--n-eval-tasks", 2),
            processes=n,
        )
    assert same_weights(tmp_path / "of-1" / "sft", tmp_path / "of-2" / "sft")
    first = Path("eto", "iteration-1")
    files = [tmp_path / f"of-{n}" / first / "pairs" / "pairs.jsonl" for n in (1, 2)]
    assert files[0].read_bytes() == files[1].read_bytes()
    # The last update has fewer pairs; with two processes accelerate fills it up with others.
    one, other = (losses(tmp_path / f"of-{n}" / first / "dpo")[:-1] for n in (1, 2))
    assert len(one) > 1
    assert one == pytest.approx(other, abs=1e-4)
    for n in (1, 2):
        evaluation = tmp_path / f"of-{n}" / first / "evaluation"
        assert len((evaluation / "episodes.jsonl").read_bytes().splitlines()) == 2


@pytest.mark.parametrize(
    ("method", "more"), [("ppo", ("--n-minibatches", 1)), ("grpo", ("--n-samples", 8))]
)
def test_two_processes_play_and_learn_like_one(
    method: str, more: tuple[object, ...], tmp_path: Path
) -> None:
    save_checkpoint(undecided(tmp_path), tmp_path / "checkpoint")
    play = ("--env", BANDIT, "--world", WORLD, "--n-updates", 1, "--n-episodes", 16)
    for n in (1, 2):
        eto(
            *("train", method, *play, "--max-new-tokens", 8, "--learning-rate", 1e-3, *more),
            *("--model", tmp_path / "checkpoint", "--out", tmp_path / f"of-{n}"),
            processes=n,
        )
    # The same episodes, half of them in each process.
    results = [read_json_object(tmp_path / f"of-{n}" / "result.json") for n in (1, 2)]
    for name in ("n_episodes", "first_score"):
        assert results[0][name] == pytest.approx(results[1][name], abs=1e-6)
    assert 0 < results[0]["first_score"] < 1
    assert same_weights(tmp_path / "of-1", tmp_path / "of-2")
    assert not same_weights(tmp_path / "of-1", tmp_path)
