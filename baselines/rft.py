"""Rejection-sampling fine-tuning: explore, keep successes, fine-tune again (the paper's RFT row).

    python baselines/rft.py --smoke
    python baselines/rft.py --env ETO-ALFWorld-v0 --data data/alfworld --out runs/rft \
        --explorer runs/sft/checkpoint --model meta-llama/Llama-2-7b-chat-hf --n-samples 4

The same command goes on after a kill.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from eto_agents.cli.train import evaluate_checkpoint
from eto_agents.collect import collect
from eto_agents.console import Display
from eto_agents.training.rft import RFTSettings, rft
from eto_agents.training.sft import SFTSettings, sft


def main(
    settings: Annotated[RFTSettings, tyro.conf.OmitArgPrefixes],
    splits: tuple[str, ...] = ("seen", "unseen"),
    play: bool = True,
    smoke: bool = False,
    quiet: bool = False,
) -> None:
    """Explore, train, then play the task sets with the trained model.

    Args:
        settings: of exploration and training.
        splits: task sets to evaluate on.
        play: whether to evaluate.
        smoke: 12 expert episodes of the embedded shop and the smallest model, in two minutes.
        quiet: show no progress.
    """
    with Display(quiet):
        _run(settings, splits, play, smoke)


def _run(settings: RFTSettings, splits: tuple[str, ...], play: bool, smoke: bool) -> None:
    n_tasks = None
    if smoke:
        n_tasks, splits = 3, ("seen",)
        settings = _prepare_smoke(settings)
    result = rft(settings)
    print(
        f"{result['n_successes']} of {result['n_explored']} episodes succeeded, "
        f"{result['n_added']} were added to {result['n_expert']}; "
        f"loss {result['first_loss']:.3f} to {result['last_loss']:.3f}"
    )
    if play:
        evaluate_checkpoint(
            settings,
            settings.env,
            splits,
            dataset=settings.dataset,
            n_tasks=n_tasks,
            max_tokens=settings.max_turn_tokens,
        )


def _prepare_smoke(settings: RFTSettings) -> RFTSettings:
    """Expert episodes and a model cloned from them, below the folder that was chosen."""
    root = settings.out / "smoke"
    settings = dataclasses.replace(
        settings,
        data=(root / "data",),
        out=root / "model",
        model="tiny:nano",
        vocab_size=800,
        epochs=2,
        batch_size=4,
        micro_batch_size=4,
        learning_rate=3e-3,
        log_every=2,
        device="cpu",
        explorer=str(root / "cloned" / "checkpoint"),
        env="ETO-WebShop-v0",
        dataset="mini",
        n_tasks=3,
        n_samples=2,
        max_turn_tokens=16,
        min_sampled_score=0.0,  # so that something is added, whatever it plays
    )
    arguments = {"dataset": "mini"}
    collect(
        "expert", settings.env, out=root / "data", thoughts="brief", n_tasks=12, env_args=arguments
    )
    fields = {
        field.name: getattr(settings, field.name) for field in dataclasses.fields(SFTSettings)
    }
    sft(SFTSettings(**fields | {"out": root / "cloned"}))
    return settings


if __name__ == "__main__":
    tyro.cli(main)
