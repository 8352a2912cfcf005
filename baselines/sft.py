"""Behaviour cloning (ETO, section 3.1; the paper's SFT row).

    experts <- trajectories of an expert on the training tasks
    policy  <- argmax of the log-likelihood of the experts' actions and thoughts

    python baselines/sft.py --smoke
    python baselines/sft.py --env ETO-ALFWorld-v0 --model meta-llama/Llama-2-7b-chat-hf

Rerun the command to resume. On several GPUs, train with `eto train sft` (docs/methods/sft.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from common import SHOP, SMOKE_SFT, TINY, published, score

from eto_agents.collect import collect
from eto_agents.console import Display, show
from eto_agents.models.checkpoint import load_checkpoint
from eto_agents.settings import SFT, Playing
from eto_agents.training.sft import sft


@dataclass
class Args:
    """Behaviour cloning.

    Attributes:
        env: Environment id.
        dataset: Dataset: mini, an official name such as full, or a folder that holds the official
            files. By default (auto) the official data if downloaded, else mini.
        model: Model to train: a checkpoint's folder or name, or tiny:SIZE for a new one.
        expert: Policy to imitate.
        n_tasks: Play only the first N tasks of each split. By default all.
        sft: Settings of the training.
        splits: Splits on which the trained policy is evaluated.
        max_new_tokens: Maximum number of tokens in a reply, in the evaluation.
        out: Folder of the run.
        smoke: Run a smoke test with the smallest model, in a minute.
    """

    env: str = SHOP
    dataset: str = "auto"
    model: str = "tiny:small"
    expert: str = "expert"
    n_tasks: int | None = None
    sft: SFT = field(default_factory=SFT)
    splits: tuple[str, ...] = ("seen", "unseen")
    max_new_tokens: int = 512
    out: Path = Path("runs/sft")
    smoke: bool = False


def main(args: Args) -> None:
    """Collect, train and evaluate."""
    if args.smoke:
        out = args.out / "smoke"
        args = Args(SHOP, "mini", TINY, "expert", 12, SMOKE_SFT, ("seen",), 16, out)
    env_args = {"dataset": args.dataset}
    with Display():
        experts = collect(
            args.expert, args.env, out=args.out / "experts", thoughts="brief",
            n_tasks=args.n_tasks, env_args=env_args,
        )  # fmt: skip
        trained = sft(args.model, experts.selected, args.sft, out=args.out / "sft")
        result = trained.result
        losses = f"loss {result['first_loss']:.3f} to {result['last_loss']:.3f}"
        show(f"{losses} in {result['n_steps']} steps")
        play = Playing(env=args.env, dataset=args.dataset, max_new_tokens=args.max_new_tokens)
        policy = load_checkpoint(trained.checkpoint).policy(play)
        row = score(policy, args.env, args.splits, args.out / "evaluation",
                    dataset=args.dataset, n_tasks=args.n_tasks)  # fmt: skip
        show(f"SFT: {row}")
    show(published("SFT"))


if __name__ == "__main__":
    main(tyro.cli(Args))
