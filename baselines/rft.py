"""Rejection-sampling fine-tuning (Yuan et al. 2023; the paper's RFT baseline, section 4.1).

    explored  <- play(SFT policy), several episodes of every training task
    successes <- the explored episodes that score enough, without duplicates
    policy    <- SFT of the base model on experts and successes

    python baselines/rft.py --smoke
    python baselines/rft.py --rft.env ETO-ALFWorld-v0 --experts runs/sft/experts \
        --model meta-llama/Llama-2-7b-chat-hf --policy runs/sft/sft/checkpoint

Rerun the command to resume.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from common import SMOKE_PLAY, SMOKE_SFT, TINY, published, score, smoke_start

from eto_agents.collection import read_collection
from eto_agents.console import Display, show
from eto_agents.models.checkpoint import load_checkpoint
from eto_agents.settings import RFT
from eto_agents.training.rft import rft


@dataclass
class Args:
    """Rejection-sampling fine-tuning.

    Attributes:
        rft: Settings of exploration and training.
        experts: Folder of the expert's trajectories.
        model: Model to fine-tune: a checkpoint's folder or name, or tiny:SIZE for a new one.
        policy: Policy that explores, trained with SFT: a checkpoint's folder or name.
        splits: Splits on which the trained policy is evaluated.
        out: Folder of the run.
        smoke: Run a smoke test with the smallest model, in two minutes.
    """

    rft: RFT = field(default_factory=RFT)
    experts: Path = Path("runs/sft/experts")
    model: str = "tiny:small"
    policy: str = "runs/sft/sft/checkpoint"
    splits: tuple[str, ...] = ("seen", "unseen")
    out: Path = Path("runs/rft")
    smoke: bool = False


def main(args: Args) -> None:
    """Explore, train and evaluate."""
    settings, model, policy, n_tasks = args.rft, args.model, args.policy, None
    with Display():
        if args.smoke:
            args.out /= "smoke"
            start = smoke_start(args.out)
            # A minimum score of 0, so that episodes are added whatever the agent does.
            play = {**SMOKE_PLAY, "n_tasks": 3, "n_samples": 2, "min_score": 0.0}
            settings = RFT(**dataclasses.asdict(SMOKE_SFT) | play)
            experts, model, policy, n_tasks = start.experts, TINY, str(start.policy), 3
        else:
            experts = read_collection(args.experts).selected
        trained = rft(model, experts, settings, explorer=policy, out=args.out / "rft")
        result = trained.result
        show(f"{result['n_successes']} of {result['n_explored']} episodes succeeded, "
              f"{result['n_added']} were added to the expert's {result['n_expert']}")  # fmt: skip
        agent = load_checkpoint(trained.checkpoint).policy(settings)
        row = score(agent, settings.env, args.splits, args.out / "evaluation",
                    dataset=settings.dataset, n_tasks=n_tasks)  # fmt: skip
        show(f"RFT: {row}")
    show(published("RFT"))


if __name__ == "__main__":
    main(tyro.cli(Args))
