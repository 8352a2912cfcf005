"""PPO on whole episodes (the paper's PPO baseline, section 4.1).

    repeat: episodes   <- play(policy) on training tasks
            advantages <- GAE of the rewards, minus a KL penalty to the SFT policy
            policy     <- a few epochs of the clipped surrogate

    python baselines/ppo.py --smoke
    python baselines/ppo.py --ppo.env ETO-ALFWorld-v0 --policy runs/sft/sft/checkpoint

Rerun the command to resume.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from common import SMOKE_PLAY, published, score, smoke_start

from eto_agents.console import Display, show
from eto_agents.models.checkpoint import load_checkpoint
from eto_agents.settings import PPO
from eto_agents.training.ppo import ppo


@dataclass
class Args:
    """PPO on whole episodes.

    Attributes:
        ppo: Settings of playing and training; --ppo.shaping terminal_only for terminal rewards.
        policy: Initial policy, trained with SFT: a checkpoint's folder or name.
        splits: Splits on which the trained policy is evaluated.
        out: Folder of the run.
        smoke: Run a smoke test with the smallest model, in a minute.
    """

    ppo: PPO = field(default_factory=PPO)
    policy: str = "runs/sft/sft/checkpoint"
    splits: tuple[str, ...] = ("seen", "unseen")
    out: Path = Path("runs/ppo")
    smoke: bool = False


def main(args: Args) -> None:
    """Train and evaluate."""
    settings, policy, n_tasks = args.ppo, args.policy, None
    with Display():
        if args.smoke:
            args.out /= "smoke"
            start = smoke_start(args.out)
            settings = PPO(**SMOKE_PLAY, n_updates=2, n_episodes=8, device="cpu", save_every=1)
            policy, n_tasks = str(start.policy), 3
        trained = ppo(policy, settings, out=args.out / "ppo")
        result = trained.result
        show(
            f"{result['n_episodes']} episodes in {result['n_updates']} updates: "
            f"mean score {result['first_score']:.3f} to {result['last_score']:.3f}"
        )
        agent = load_checkpoint(trained.checkpoint).policy(settings)
        row = score(agent, settings.env, args.splits, args.out / "evaluation",
                    dataset=settings.dataset, n_tasks=n_tasks)  # fmt: skip
        show(f"PPO: {row}")
    show(published("PPO"))


if __name__ == "__main__":
    main(tyro.cli(Args))
