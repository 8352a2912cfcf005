"""RFT: the exploration, and the selection of episodes to train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_agents.models.checkpoint import save_checkpoint
from eto_agents.runs import RunFolder, RunMismatchError
from eto_agents.settings import RFT
from eto_agents.store import TrajectoryStore
from eto_agents.training.rft import rft, successes
from eto_agents.training.rows import EmptyDataError
from eto_agents.training.task_splits import split_dev, tasks_of
from eto_agents.training.trl import Trained
from eto_agents.trajectory import Trajectory
from tests.agents.training.episodes import episode
from tests.agents.training.worlds import BANDIT, WORLD, undecided
from tests.agents.training.worlds import episode as letters

pytestmark = pytest.mark.torch

QUICK = RFT(
    env=BANDIT, world=WORLD, n_samples=3, max_new_tokens=6, n_envs=24, epochs=2, batch_size=4,
    micro_batch_size=4, learning_rate=1e-3, save_every=0, log_every=1, device="cpu",
)  # fmt: skip


def test_successes_are_selected_without_duplicates_and_those_of_the_expert() -> None:
    expert = [episode(0)]
    new = replace(episode(0, n_steps=3), policy="agent")
    shouted = replace(new, seed=1, steps=[replace(s, action=s.action.upper()) for s in new.steps])
    elsewhere = episode(1)
    explored = [
        episode(0),  # as the expert
        episode(0, n_steps=4, score=0.5),
        episode(0, n_steps=5, status="agent_error"),
        new,
        shouted,  # the same actions in upper case
        elsewhere,
    ]
    assert successes(explored, expert) == [new, elsewhere]
    assert len(successes(explored, expert, min_score=0.5)) == 3
    assert successes([], expert) == []


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that says a and b with equal probability, on disk."""
    folder = tmp_path_factory.mktemp("rft")
    save_checkpoint(undecided(folder), folder / "checkpoint")
    return folder / "checkpoint"


def learned(trained: Trained) -> tuple[dict[str, Any], list[Trajectory]]:
    """The result, and the episodes that were explored."""
    file = trained.checkpoint.parent / "explored" / "episodes.jsonl"
    return trained.result, list(TrajectoryStore(file).read())


def test_a_run_learns_from_experts_and_successes(start: Path, tmp_path: Path) -> None:
    experts = [letters("b", task_id="t0")]
    trained = rft(start, experts, QUICK, explorer=start, out=tmp_path)
    result, explored = learned(trained)
    assert {(e.task_id, e.seed) for e in explored} == {
        (f"t{i}", seed) for i in range(8) for seed in range(3)
    }
    # In the expert's task only duplicates can succeed; in the others an episode that says b.
    added = {e.task_id for e in explored if e.score == 1.0} - {"t0"}
    assert added
    assert result["n_expert"] == 1
    assert result["n_explored"] == 24
    assert result["n_successes"] == sum(e.score == 1.0 for e in explored)
    assert result["n_added"] == len(added)
    assert result["n_trajectories"] == 1 + len(added)
    assert result["explored_score"] == pytest.approx(sum(e.score for e in explored) / 24)
    assert not (tmp_path / "work").exists()
    written = (trained.checkpoint / "model.safetensors").stat().st_mtime_ns
    assert rft(start, experts, QUICK, explorer=start, out=tmp_path) == trained
    assert (trained.checkpoint / "model.safetensors").stat().st_mtime_ns == written


def test_development_tasks_are_never_explored(start: Path, tmp_path: Path) -> None:
    tasks = tasks_of(BANDIT, "train")
    experts = [letters("b", task_id=task.id) for task in tasks]
    for seed in (0, 1):
        dev = {task.id for task in split_dev(tasks, 3, seed).dev}
        assert len(dev) == 3
        settings = replace(QUICK, dev_tasks=3, dev_seed=seed)
        trained = rft(start, experts, settings, explorer=start, out=tmp_path / f"{seed}")
        _, explored = learned(trained)
        assert {e.task_id for e in explored} == {task.id for task in tasks} - dev


def test_max_tasks_also_limits_the_expert_trajectories(start: Path, tmp_path: Path) -> None:
    experts = [letters("b", task_id=f"t{i}") for i in range(8)]
    settings = replace(QUICK, max_tasks=3, dev_tasks=2)
    result, explored = learned(rft(start, experts, settings, explorer=start, out=tmp_path))
    assert len({e.task_id for e in explored}) == 3
    assert (result["n_explored"], result["n_expert"], result["n_added"]) == (9, 3, 0)
    first = replace(QUICK, n_tasks=2)
    _, explored = learned(rft(start, experts, first, explorer=start, out=tmp_path / "first"))
    assert {e.task_id for e in explored} == {"t0", "t1"}


def test_an_interrupted_run_resumes(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(QUICK, save_every=1)
    experts = [letters("b", task_id="t0")]
    whole = rft(start, experts, settings, explorer=start, out=tmp_path / "whole")
    log = RunFolder.log

    def stop(run: RunFolder, record: Mapping[str, Any]) -> None:
        log(run, record)
        if record["step"] == 3:
            raise KeyboardInterrupt

    out = tmp_path / "cut"
    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "log", stop)
        with pytest.raises(KeyboardInterrupt):
            rft(start, experts, settings, explorer=start, out=out)
    assert not (out / "result.json").exists()  # explored, but not trained
    episodes = (out / "explored" / "episodes.jsonl").read_bytes()
    again = rft(start, experts, settings, explorer=start, out=out)
    assert (out / "explored" / "episodes.jsonl").read_bytes() == episodes
    assert again.result | {"wall_s": 0} == whole.result | {"wall_s": 0}
    name = "model.safetensors"
    assert (again.checkpoint / name).read_bytes() == (whole.checkpoint / name).read_bytes()


def test_other_experts_and_explorers_are_refused(start: Path, tmp_path: Path) -> None:
    experts = [letters("b", task_id="t0")]
    rft(start, experts, QUICK, explorer=start, out=tmp_path / "out")
    with pytest.raises(RunMismatchError, match="different inputs: experts"):
        rft(start, [letters("b", task_id="t1")], QUICK, explorer=start, out=tmp_path / "out")
    save_checkpoint(undecided(tmp_path, n_steps=1), tmp_path / "other")
    with pytest.raises(RunMismatchError, match="different inputs: explorer"):
        rft(start, experts, QUICK, explorer=tmp_path / "other", out=tmp_path / "out")
    with pytest.raises(EmptyDataError, match="no trajectories to train on"):
        rft(start, [], QUICK, explorer=start, out=tmp_path / "empty")
