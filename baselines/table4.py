"""The paper's Table 4: pairs of whole trajectories, pairs of single steps, and a mixture of both.

    python baselines/table4.py --smoke
    python baselines/table4.py --recipe cpu --worlds webshop --out runs/table4

One iteration of ETO from the same SFT model for each kind of pairs. Pairs of steps are used twice:
with the learning rate and beta of the trajectories, with which the paper's agent breaks (8.3), and
with a tenth of the learning rate and beta 0.5, with which it does not.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from eto_agents.console import show
from eto_agents.reproduce.all import open_runs
from eto_agents.reproduce.options import Options
from eto_agents.reproduce.run import WorldRun
from eto_agents.reproduce.tables import Entry, build_table, markdown, published_rows
from eto_agents.settings import PairKind


class Variant(NamedTuple):
    """A row: the kind of pairs, and the changes to the recipe's learning rate and beta."""

    kind: PairKind
    rate_factor: float = 1.0
    beta: float | None = None


VARIANTS = {
    "trajectory": Variant("trajectory"),
    "step": Variant("step"),
    "step-slow": Variant("step", 0.1, 0.5),
    "mixture": Variant("mixture"),
}
PUBLISHED = ("SFT", "ETO, trajectory pairs", "ETO, step pairs", "ETO, mixture of pairs")


def main(options: Annotated[Options, tyro.conf.OmitArgPrefixes], smoke: bool = False) -> None:
    """Train with each kind of pairs and print the table.

    Args:
        options: The recipe, and which parts of it to run.
        smoke: Run a smoke test: every kind once with the smallest model, in a minute.
    """
    runs: dict[str, list[tuple[int, Path]]] = {"SFT": []}
    notes: list[str] = []
    for run in open_runs(options.for_smoke_test() if smoke else options):
        run.evaluate("sft", run.sft().checkpoint)
        runs["SFT"].append((run.seed, run.run_folder("sft")))
        for name, variant in VARIANTS.items():
            label, folder, note = train(run, name, variant)
            runs.setdefault(label, []).extend([] if folder is None else [(run.seed, folder)])
            notes += [f"{label}, {run.recipe.name} seed {run.seed}: {note}"] if note else []
    show(
        markdown(
            build_table((Entry(*row) for row in runs.items()), notes), published_rows(PUBLISHED)
        )
    )


def train(run: WorldRun, name: str, variant: Variant) -> tuple[str, Path | None, str]:
    """Run one iteration; returns the row's label, its run, and a note if there is none."""
    settings = run.eto_settings()
    dpo = settings.dpo
    dpo = replace(
        dpo,
        learning_rate=dpo.learning_rate * variant.rate_factor,
        beta=dpo.beta if variant.beta is None else variant.beta,
    )
    label = f"{variant.kind} (rate {dpo.learning_rate:g}, beta {dpo.beta:g})"
    settings = replace(settings, pairs=variant.kind, dpo=dpo, iterations=1, keep_best=False)
    result = run.eto(settings, f"pairs-{name}")
    folder = run.run_folder(f"pairs-{name}-1") if len(result.iterations) > 1 else None
    return label, folder, result.note


if __name__ == "__main__":
    tyro.cli(main)
