"""ETO: SFT, then explore, pair, prefer and evaluate (the paper's Table 2 row and its Figure 4).

    python baselines/eto.py --smoke
    python baselines/eto.py --env ETO-WebShop-v0 --data data/webshop --out runs/eto \
        --model meta-llama/Llama-2-7b-chat-hf --sft-epochs 3 --iterations 2

The same command goes on after a kill. Prints the score after every iteration with the published row
beside it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from eto_agents.cli.preference import iteration_table, scorer
from eto_agents.collect import collect
from eto_agents.console import Display
from eto_agents.evaluation.published import load_published
from eto_agents.training.dpo import DPOSettings
from eto_agents.training.eto import ETOSettings, Exploration, eto

PUBLISHED = ("eto", "reward", "Llama-2-7B-Chat")

SMOKE = ETOSettings(
    env="ETO-WebShop-v0",
    data=(Path("data"),),
    model="tiny:nano",
    out=Path("runs/eto"),
    iterations=1,
    dataset="mini",
    n_tasks=8,
    dev_tasks=2,
    keep_best=True,
    sft_epochs=4,
    sft_learning_rate=3e-3,
    sft_batch_size=4,
    explore=Exploration(max_new_tokens=16, lockstep=8),
    dpo=DPOSettings(learning_rate=1e-4, n_epochs=1, batch_size=4, nll_weight=0.3, device="cpu"),
)


def main(
    settings: Annotated[ETOSettings, tyro.conf.arg(name="")] = SMOKE,
    splits: tuple[str, ...] = ("seen", "unseen"),
    smoke: bool = False,
) -> None:
    """Run the loop and print the table by iteration.

    Args:
        settings: of the loop.
        splits: task sets that every iteration is evaluated on.
        smoke: 8 tasks of the embedded shop and the smallest model, in a minute.
    """
    n_tasks = None
    if smoke:
        root = settings.out / "smoke"
        settings = dataclasses.replace(SMOKE, data=(root / "data",), out=root / "run")
        n_tasks = 3
        collect(
            "expert", settings.env, out=root / "data", thoughts="brief", n_tasks=8,
            env_args=settings.env_args,
        )  # fmt: skip
    with Display():
        outcome = eto(settings, evaluate=scorer(settings, splits, n_tasks))
    print_rich(iteration_table(outcome))
    print(f"iteration {outcome.best} is the result: {outcome.checkpoint}")
    for row in load_published().rows:
        if row.method in ("SFT", "ETO") and (row.source, row.metric, row.model) == PUBLISHED:
            print(f"published, {row.method} of {row.model}: {row.values}")


def print_rich(table: object) -> None:
    """A table for a person or a pipe."""
    from rich.console import Console

    Console(highlight=False).print(table)


if __name__ == "__main__":
    tyro.cli(main)
