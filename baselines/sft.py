"""Behaviour cloning: fine-tune on expert trajectories, then evaluate (the paper's SFT row).

    python baselines/sft.py --smoke
    eto collect --env ETO-ALFWorld-v0 --thoughts --out data/alfworld
    python baselines/sft.py --env ETO-ALFWorld-v0 --data data/alfworld --out runs/sft \
        --model meta-llama/Llama-2-7b-chat-hf --prompts own
    accelerate launch --config_file baselines/accelerate/fsdp2_8gpu.yaml baselines/sft.py \
        --env ETO-ALFWorld-v0 --data data/alfworld --out runs/sft --no-play

The same command goes on after a kill. On several GPUs it trains; a second run without
`accelerate launch` then finds the model trained and evaluates it.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from eto_agents.cli.train import evaluate_checkpoint
from eto_agents.collect import collect
from eto_agents.console import Display
from eto_agents.training.sft import SFTSettings, sft


def main(
    settings: Annotated[SFTSettings, tyro.conf.OmitArgPrefixes],
    env: str = "ETO-WebShop-v0",
    splits: tuple[str, ...] = ("seen", "unseen"),
    dataset: str | None = None,
    n_tasks: int | None = None,
    play: bool = True,
    smoke: bool = False,
    quiet: bool = False,
) -> None:
    """Train, then play the task sets with the trained model.

    Args:
        settings: of the training.
        env: environment id.
        splits: task sets to evaluate on.
        dataset: mini, an official name, or a folder.
        n_tasks: only the first so many tasks of each split.
        play: whether to evaluate.
        smoke: 12 expert episodes of the embedded shop and the smallest model, in a minute.
        quiet: show no progress.
    """
    with Display(quiet):
        _run(settings, env, splits, dataset, n_tasks, play, smoke)


def _run(
    settings: SFTSettings,
    env: str,
    splits: tuple[str, ...],
    dataset: str | None,
    n_tasks: int | None,
    play: bool,
    smoke: bool,
) -> None:
    if smoke:
        env, dataset, n_tasks, splits = "ETO-WebShop-v0", "mini", 3, ("seen",)
        settings = smoke_settings(settings)
        collect(
            "expert",
            env,
            out=settings.data[0],
            thoughts="brief",
            n_tasks=12,
            env_args={"dataset": dataset},
        )
    result = sft(settings)
    print(
        f"loss {result['first_loss']:.3f} to {result['last_loss']:.3f} in {result['n_steps']} steps"
    )
    if play:
        evaluate_checkpoint(
            settings,
            env,
            splits,
            dataset=dataset,
            n_tasks=n_tasks,
            max_tokens=32 if smoke else 512,
        )


def smoke_settings(settings: SFTSettings) -> SFTSettings:
    """The smallest training there is, below the folder that was chosen."""
    root = settings.out / "smoke"
    return dataclasses.replace(
        settings,
        data=(root / "data",),
        out=root / "model",
        model="tiny:nano",
        vocab_size=800,
        epochs=4,
        batch_size=4,
        micro_batch_size=4,
        learning_rate=3e-3,
        log_every=2,
        device="cpu",
    )


if __name__ == "__main__":
    tyro.cli(main)
