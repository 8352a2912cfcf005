"""GRPO from the SFT policy, on the training tasks: not in the paper, beside its PPO.

    python baselines/grpo.py --smoke
    python baselines/grpo.py --env ETO-WebShop-v0 --model runs/sft/checkpoint --out runs/grpo

Each task is played several times and an episode is compared with the others of its task; TRL does
the rest (`eto_agents.training.grpo`). A killed run begins anew.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from eto_agents.cli.train import evaluate_checkpoint
from eto_agents.collect import collect
from eto_agents.training.grpo import GRPORun, grpo
from eto_agents.training.sft import SFTSettings, sft

SMOKE = GRPORun(
    env="ETO-WebShop-v0", model="", out=Path("runs/grpo"), dataset="mini", n_tasks=4,
    n_updates=2, n_episodes=8, n_samples=4, n_epochs=1, learning_rate=1e-4, kl_weight=0.0,
    max_new_tokens=16, lockstep=8, device="cpu",
)  # fmt: skip


def main(
    run: Annotated[GRPORun, tyro.conf.OmitArgPrefixes] = SMOKE,
    splits: tuple[str, ...] = ("seen", "unseen"),
    smoke: bool = False,
) -> None:
    """Train by playing in groups, then play the task sets with the trained model.

    Args:
        run: of training.
        splits: task sets to evaluate on.
        smoke: 8 expert episodes of the embedded shop and the smallest model, in a minute.
    """
    n_tasks = None
    if smoke:
        run, n_tasks = _prepare_smoke(run.out / "smoke"), 3
    for record in grpo(run):
        print(f"epoch {record['epoch']:.2f}  mean score {record['reward']:.3f}")
    evaluate_checkpoint(
        SFTSettings(data=(), out=run.out, device=run.device, world=run.world),
        run.env,
        splits,
        dataset=run.dataset,
        n_tasks=n_tasks,
        lockstep=run.lockstep,
        max_tokens=run.max_new_tokens,
    )


def _prepare_smoke(root: Path) -> GRPORun:
    """Expert episodes, and a model cloned from them to begin with."""
    collect(
        "expert", SMOKE.env, out=root / "data", thoughts="brief", n_tasks=8,
        env_args=SMOKE.env_args,
    )  # fmt: skip
    cloned = SFTSettings(
        data=(root / "data",), out=root / "cloned", model="tiny:nano", vocab_size=800, epochs=4,
        batch_size=4, micro_batch_size=4, learning_rate=3e-3, device="cpu",
    )  # fmt: skip
    sft(cloned)
    return dataclasses.replace(SMOKE, model=str(cloned.out / "checkpoint"), out=root / "run")


if __name__ == "__main__":
    tyro.cli(main)
