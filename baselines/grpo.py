"""GRPO on whole episodes (DeepSeekMath, arXiv 2402.03300); not in the paper.

    repeat: episodes  <- play(policy), a group of episodes for each of several training tasks
            advantage <- an episode's score minus the mean of its group
            policy    <- the clipped surrogate, with a KL penalty to the SFT policy

    python baselines/grpo.py --smoke
    python baselines/grpo.py --grpo.env ETO-ALFWorld-v0 --policy runs/sft/sft/checkpoint

Rerun the command to resume.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from common import SMOKE_PLAY, published, score, smoke_start

from eto_agents.console import Display, show
from eto_agents.models.checkpoint import load_checkpoint
from eto_agents.settings import GRPO
from eto_agents.training.grpo import grpo


@dataclass
class Args:
    """GRPO on whole episodes.

    Attributes:
        grpo: Settings of playing and training.
        policy: Initial policy, trained with SFT: a checkpoint's folder or name.
        splits: Splits on which the trained policy is evaluated.
        out: Folder of the run.
        smoke: Run a smoke test with the smallest model, in a minute.
    """

    grpo: GRPO = field(default_factory=GRPO)
    policy: str = "runs/sft/sft/checkpoint"
    splits: tuple[str, ...] = ("seen", "unseen")
    out: Path = Path("runs/grpo")
    smoke: bool = False


def main(args: Args) -> None:
    """Train and evaluate."""
    settings, policy, n_tasks = args.grpo, args.policy, None
    with Display():
        if args.smoke:
            args.out /= "smoke"
            start = smoke_start(args.out)
            settings = GRPO(**SMOKE_PLAY, n_updates=2, n_episodes=8, n_samples=4, device="cpu")
            policy, n_tasks = str(start.policy), 3
        trained = grpo(policy, settings, out=args.out / "grpo")
        result = trained.result
        show(
            f"{result['n_episodes']} episodes in {result['n_updates']} updates: "
            f"mean score {result['first_score']:.3f} to {result['last_score']:.3f}"
        )
        agent = load_checkpoint(trained.checkpoint).policy(settings)
        row = score(agent, settings.env, args.splits, args.out / "evaluation",
                    dataset=settings.dataset, n_tasks=n_tasks)  # fmt: skip
        show(f"GRPO: {row}")
    show(published("GRPO"))


if __name__ == "__main__":
    main(tyro.cli(Args))
