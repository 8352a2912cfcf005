from __future__ import annotations

from pathlib import Path

import pytest

from eto_agents.models.checkpoints import load_checkpoint, save_checkpoint
from eto_agents.training.grpo import GRPORun, grpo
from tests.agents.training.test_ppo import greedy_score
from tests.agents.training.worlds import BANDIT, DOORS, WORLD, undecided

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func'"),
]


@pytest.mark.parametrize("env_id", [BANDIT, DOORS])
def test_the_best_end_is_found(env_id: str, tmp_path: Path) -> None:
    save_checkpoint(undecided(tmp_path, env_id), tmp_path / "start")
    assert greedy_score(load_checkpoint(str(tmp_path / "start"), device="cpu"), env_id) < 1
    run = GRPORun(
        env=env_id,
        model=str(tmp_path / "start"),
        out=tmp_path / "out",
        n_updates=12,
        n_episodes=16,
        n_samples=8,
        n_epochs=1,
        learning_rate=1e-3,
        kl_weight=0.0,
        world=WORLD,
        max_new_tokens=8,
        device="cpu",
    )
    log = grpo(run)
    assert len(log) == 12
    assert log[-1]["reward"] > log[0]["reward"]
    trained = load_checkpoint(str(run.out / "checkpoint"), device="cpu")
    assert greedy_score(trained, env_id) == 1.0
