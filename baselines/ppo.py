"""PPO from the SFT policy, on the training tasks (the paper's PPO row).

    python baselines/ppo.py --smoke
    python baselines/ppo.py --env ETO-ALFWorld-v0 --model runs/sft/checkpoint --out runs/ppo

The same command goes on after a kill. Rewards are the environment's; `--shaping terminal_only` pays
at the end alone, `--shaping step_cost=0.01` and others add to them.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from eto_agents.cli.train import evaluate_checkpoint
from eto_agents.collect import collect
from eto_agents.evaluation.published import load_published
from eto_agents.training.ppo import PPORun, ppo
from eto_agents.training.sft import SFTSettings, sft

PUBLISHED = ("eto", "reward", "Llama-2-7B-Chat")

SMOKE = PPORun(
    env="ETO-WebShop-v0",
    model="",
    out=Path("runs/ppo"),
    dataset="mini",
    n_tasks=4,
    n_updates=2,
    n_episodes=4,
    n_minibatches=2,
    learning_rate=1e-4,
    max_new_tokens=16,
    lockstep=4,
    device="cpu",
)


def main(
    run: Annotated[PPORun, tyro.conf.OmitArgPrefixes] = SMOKE,
    splits: tuple[str, ...] = ("seen", "unseen"),
    smoke: bool = False,
) -> None:
    """Train by playing, then play the task sets with the trained model.

    Args:
        run: of training.
        splits: task sets to evaluate on.
        smoke: 8 expert episodes of the embedded shop and the smallest model, in a minute.
    """
    n_tasks = None
    if smoke:
        run, n_tasks = _prepare_smoke(run.out / "smoke"), 3
    result = ppo(run)
    print(
        f"{result['n_episodes']} episodes in {result['n_updates']} updates; mean score "
        f"{result['first_score']:.3f} in the first, {result['last_score']:.3f} in the last"
    )
    evaluate_checkpoint(
        SFTSettings(data=(), out=run.out, device=run.device, world=run.world),
        run.env,
        splits,
        dataset=run.dataset,
        n_tasks=n_tasks,
        lockstep=run.lockstep,
        max_tokens=run.max_new_tokens,
    )
    for row in load_published().rows:
        if row.method in ("SFT", "PPO") and (row.source, row.metric, row.model) == PUBLISHED:
            print(f"published, {row.method} of {row.model}: {row.values}")


def _prepare_smoke(root: Path) -> PPORun:
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
