"""Behaviour cloning (ETO, section 3.1; the paper's SFT row).

    experts <- trajectories of an expert on the training tasks
    policy  <- argmax of the log-likelihood of the experts' actions and thoughts

    python baselines/sft.py --smoke
    python baselines/sft.py --env ETO-ALFWorld-v0 --model meta-llama/Llama-2-7b-chat-hf

Rerun the command to resume. On several GPUs, train with `accelerate launch --config_file
baselines/accelerate/fsdp2_8gpu.yaml baselines/sft.py … --no-play` and evaluate without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from common import SHOP, SMOKE_SFT, TINY, published, score

from eto_agents.collect import collect
from eto_agents.console import Display
from eto_agents.models.checkpoint import load_checkpoint
from eto_agents.settings import SFT, Playing
from eto_agents.training.sft import sft


@dataclass
class Args:
    """Flags.

    Attributes:
        env: environment id.
        dataset: mini, an official name, or a folder with the official files.
        model: a checkpoint's folder or name, or "tiny:SIZE" for a new one.
        expert: the policy that is imitated.
        n_tasks: only the first this many tasks of each split.
        sft: how it is trained.
        splits: what the trained policy is evaluated on.
        play: whether it is evaluated.
        out: the folder of the run.
        smoke: everything once, in a minute.
    """

    env: str = SHOP
    dataset: str = "auto"
    model: str = "tiny:small"
    expert: str = "expert"
    n_tasks: int | None = None
    sft: SFT = field(default_factory=SFT)
    splits: tuple[str, ...] = ("seen", "unseen")
    play: bool = True
    out: Path = Path("runs/sft")
    smoke: bool = False


def main(args: Args) -> None:
    """Collect, train, evaluate."""
    if args.smoke:
        out = args.out / "smoke"
        args = Args(SHOP, "mini", TINY, n_tasks=12, sft=SMOKE_SFT, splits=("seen",), out=out)
    env_args = {"dataset": args.dataset}
    with Display():
        experts = collect(
            args.expert, args.env, out=args.out / "experts", thoughts="brief",
            n_tasks=args.n_tasks, env_args=env_args,
        )  # fmt: skip
        trained = sft(args.model, experts.kept, args.sft, out=args.out / "sft")
        found = trained.result
        losses = f"loss {found['first_loss']:.3f} to {found['last_loss']:.3f}"
        print(f"{losses} in {found['n_steps']} steps")
        if args.play:
            play = Playing(env=args.env, dataset=args.dataset, max_new_tokens=64)
            policy = load_checkpoint(trained.checkpoint).policy(play)
            row = score(policy, args.env, args.splits, args.out / "evaluation",
                        dataset=args.dataset, n_tasks=args.n_tasks)  # fmt: skip
            print(f"SFT: {row}")
    print(published("SFT"))


if __name__ == "__main__":
    main(tyro.cli(Args))
