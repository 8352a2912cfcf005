"""ETO (arXiv 2403.02502, Algorithm 1).

    policy <- SFT on the experts' trajectories
    repeat: explored <- play(policy) on the training tasks
            pairs    <- (better, worse) of explored and expert trajectories, where rewards differ
            policy   <- trajectory DPO(policy, pairs), the reference being the policy itself

    python baselines/eto.py --smoke
    python baselines/eto.py --eto.env ETO-ALFWorld-v0 --experts runs/sft/experts \
        --policy runs/sft/sft/checkpoint --eto.dpo.beta 0.5 --eto.iterations 1

Rerun the command to resume. The loop itself is `eto_agents/training/eto.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from common import SMOKE_PLAY, published, score, smoke_start

from eto_agents.collection import read_collection
from eto_agents.console import Display, show
from eto_agents.models.checkpoint import load_checkpoint
from eto_agents.settings import DPO, ETO
from eto_agents.training.eto import eto

SMOKE = DPO(learning_rate=1e-4, epochs=1, batch_size=4, nll_weight=0.3, device="cpu")


@dataclass
class Args:
    """ETO: explore, pair and learn, in iterations.

    Attributes:
        eto: Settings of exploration, pairs and DPO.
        experts: Folder of the expert's trajectories.
        policy: Initial policy, trained with SFT: a checkpoint's folder or name.
        splits: Splits on which every iteration is evaluated.
        out: Folder of the run.
        smoke: Run a smoke test: one iteration with the smallest model, in a minute.
    """

    eto: ETO = field(default_factory=ETO)
    experts: Path = Path("runs/sft/experts")
    policy: str = "runs/sft/sft/checkpoint"
    splits: tuple[str, ...] = ("seen", "unseen")
    out: Path = Path("runs/eto")
    smoke: bool = False


def main(args: Args) -> None:
    """Run ETO, and evaluate every iteration."""
    settings, policy, n_tasks = args.eto, args.policy, None
    with Display():
        if args.smoke:
            args.out /= "smoke"
            start = smoke_start(args.out)
            settings = ETO(**SMOKE_PLAY, iterations=1, dpo=SMOKE)
            experts, policy, n_tasks = start.experts, str(start.policy), 3
        else:
            experts = read_collection(args.experts).selected
        for iteration in eto(policy, experts, settings, out=args.out / "eto"):
            agent = load_checkpoint(iteration.model).policy(settings)
            folder = args.out / "evaluation" / str(iteration.number)
            row = score(agent, settings.env, args.splits, folder,
                        dataset=settings.dataset, n_tasks=n_tasks)  # fmt: skip
            pairs = iteration.counts.get("pairs", 0)
            show(f"iteration {iteration.number} ({pairs} pairs): {row}")
    show(published("SFT"), published("ETO"))


if __name__ == "__main__":
    main(tyro.cli(Args))
