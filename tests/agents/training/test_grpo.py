from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from eto_agents.models.checkpoint import load_checkpoint, save_checkpoint
from eto_agents.rollout import Rollouts
from eto_agents.runs import RunFolder, RunMismatchError
from eto_agents.settings import GRPO, SFT, SettingsError
from eto_agents.training.grpo import _scores, grpo
from eto_agents.training.sft import sft
from eto_envs.errors import DataError
from tests.agents.training.test_ppo import greedy_score
from tests.agents.training.worlds import BANDIT, DOORS, WORLD, episode, undecided

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func'"),
]


QUICK = GRPO(
    env=BANDIT, world=WORLD, n_updates=4, n_episodes=16, n_samples=8, learning_rate=1e-3,
    kl_weight=0.0, max_new_tokens=8, save_every=0, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that says a and b with equal probability, on disk."""
    folder = tmp_path_factory.mktemp("grpo")
    save_checkpoint(undecided(folder), folder / "start")
    return folder / "start"


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("env_id", [BANDIT, DOORS])
def test_the_best_policy_is_found(env_id: str, tmp_path: Path) -> None:
    save_checkpoint(undecided(tmp_path, env_id), tmp_path / "start")
    assert greedy_score(load_checkpoint(str(tmp_path / "start"), device="cpu"), env_id) < 1
    settings = replace(QUICK, env=env_id, n_updates=20)
    trained, result = grpo(tmp_path / "start", settings, out=tmp_path / "out")
    log = metrics(tmp_path / "out")
    assert [record["step"] for record in log] == list(range(1, 21))
    assert log[-1]["score"] > log[0]["score"]
    assert (result["first_score"], result["last_score"]) == (log[0]["score"], log[-1]["score"])
    assert greedy_score(load_checkpoint(str(trained), device="cpu"), env_id) == 1.0


def test_a_complete_run_is_not_repeated_and_refuses_changes(start: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, n_updates=1, dev_tasks=2)
    trained, result = grpo(start, settings, out=tmp_path / "out")
    assert trained == tmp_path / "out" / "checkpoint"
    assert (result["n_tasks"], result["n_updates"], result["n_episodes"]) == (6, 1, 16)
    assert not (tmp_path / "out" / "work").exists()
    written = (trained / "model.safetensors").stat().st_mtime_ns
    assert grpo(start, settings, out=tmp_path / "out") == (trained, result)
    assert (trained / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(RunMismatchError, match=r"clip 0\.2 \(now 0\.1\)"):
        grpo(start, replace(settings, clip=0.1), out=tmp_path / "out")
    with pytest.raises(RunMismatchError, match="model"):
        grpo(trained, settings, out=tmp_path / "out")


@pytest.mark.parametrize("epochs", [1, 2])
def test_an_interrupted_run_ends_with_the_same_weights(
    epochs: int, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(QUICK, save_every=2, epochs=epochs, kl_weight=0.1)
    whole = grpo(start, settings, out=tmp_path / "whole")
    log = RunFolder.log

    def stop(run: RunFolder, record: Mapping[str, Any]) -> None:
        log(run, record)
        if record["step"] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "log", stop)
        with pytest.raises(KeyboardInterrupt):
            grpo(start, settings, out=tmp_path / "cut")
    assert [record["step"] for record in metrics(tmp_path / "cut")] == [1, 2, 3]
    again = grpo(start, settings, out=tmp_path / "cut")
    scores = [[m["step"], m["score"]] for m in metrics(tmp_path / "cut")]
    assert scores == [[m["step"], m["score"]] for m in metrics(tmp_path / "whole")]
    assert len(scores) == 4
    assert again.result | {"wall_s": 0} == whole.result | {"wall_s": 0}
    one, other = (load_file(t.checkpoint / "model.safetensors") for t in (whole, again))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_an_update_plays_its_episodes_once_whatever_the_epochs(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    class Spy(Rollouts):
        def __init__(self, policy: Any, env: Any, jobs: Any) -> None:
            seeds.extend(job.seed for job in jobs)
            super().__init__(policy, env, jobs)

    monkeypatch.setattr("eto_agents.training.grpo.Rollouts", Spy)
    _, result = grpo(start, replace(QUICK, n_updates=2, epochs=3), out=tmp_path)
    assert len(seeds) == len(set(seeds)) == 2 * 16 == result["n_episodes"]
    assert [record["step"] for record in metrics(tmp_path)] == [1, 2]


def test_micro_batches_do_not_change_what_is_learned(start: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, n_updates=2, kl_weight=0.1)
    whole = grpo(start, replace(settings, micro_batch_size=16), out=tmp_path / "whole")
    parts = grpo(start, replace(settings, micro_batch_size=4), out=tmp_path / "parts")
    assert parts.result["n_optimizer_steps"] == whole.result["n_optimizer_steps"] == 2
    assert parts.result["n_trained_tokens"] == whole.result["n_trained_tokens"] > 0
    one, other = (load_file(t.checkpoint / "model.safetensors") for t in (whole, parts))
    assert all(torch.allclose(value, other[name], atol=1e-5) for name, value in one.items())


def test_a_failure_of_the_environment_is_no_score() -> None:
    played = [episode("b", score=score, task_id="t0") for score in (1.0, 0.5)]
    broken = episode("b", score=0.0, task_id="t0", status="env_error", error="no shop")
    other = episode("b", score=0.0, task_id="t1")
    assert _scores([*played, broken, other]) == [1.0, 0.5, 0.75, 0.0]
    lonely = episode("b", score=0.0, task_id="t2", status="env_error")
    assert _scores([*played, lonely]) == [1.0, 0.5, 0.75]
    with pytest.raises(DataError, match="the environment failed in all of 1 episodes: no shop"):
        _scores([broken])


def test_the_penalty_is_to_the_initial_policy(start: Path, tmp_path: Path) -> None:
    settings = SFT(
        lora_rank=2, epochs=4, batch_size=1, learning_rate=1e-2, device="cpu", save_every=0
    )
    adapter = sft(start, [episode("b")], settings, out=tmp_path / "sft").checkpoint
    assert (adapter / "adapter_config.json").is_file()
    gaps = {}
    for name, model in (("plain", start), ("adapter", adapter)):
        grpo(model, replace(QUICK, n_updates=2, kl_weight=0.1), out=tmp_path / name)
        gaps[name] = [record["kl"] for record in metrics(tmp_path / name)]
    # The adapter's base model alone would differ from the policy from the start.
    assert [gap[0] for gap in gaps.values()] == pytest.approx([0, 0], abs=1e-6)
    assert gaps["plain"][1] > 1e-5  # after a step


def test_an_update_needs_a_task_for_each_group(start: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"plays 2 tasks 8 times each, but there are only 1: lower"):
        grpo(start, replace(QUICK, n_tasks=1), out=tmp_path / "out")


def test_n_episodes_must_be_a_multiple_of_the_processes(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eto_agents.training.grpo.n_processes", lambda: 3)
    message = r"n_episodes 16 must be a multiple of the number of processes \(3\)"
    with pytest.raises(SettingsError, match=message):
        grpo(start, QUICK, out=tmp_path / "out")
