"""The paper's Figure 4: the reward by iteration of ETO, where iteration 0 is SFT.

    python baselines/figure4.py --smoke
    python baselines/figure4.py --recipe cpu --out runs/figure4 --iterations 4

The paper's figure is an image without numbers. According to its text, WebShop and ScienceWorld
improve for two iterations and decline from the third on; ALFWorld improves in the first iteration
only, and is below SFT after the second and third.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from eto_agents.console import show
from eto_agents.report.full_report import write_report
from eto_agents.reproduce.all import open_runs
from eto_agents.reproduce.options import Options
from eto_agents.reproduce.run import WorldRun
from eto_agents.reproduce.tables import Entry, build_table, markdown
from eto_envs.errors import MissingExtraError


def main(
    options: Annotated[Options, tyro.conf.OmitArgPrefixes],
    iterations: int = 3,
    smoke: bool = False,
) -> None:
    """Run ETO from a recipe's SFT model and print the reward of every iteration.

    Args:
        options: The recipe, and which parts of it to run.
        iterations: Number of iterations.
        smoke: Run a smoke test: two iterations with the smallest model, in a minute.
    """
    if smoke:
        options, iterations = options.for_smoke_test(), 2
    rows: dict[str, list[tuple[int, Path]]] = {}
    notes = []
    for run in open_runs(options):
        names, note = iterate(run, iterations)
        notes += [f"{run.recipe.name} seed {run.seed}: {note}"] if note else []
        for number, name in enumerate(names):
            label = f"iteration {number}" if number else "SFT"
            rows.setdefault(label, []).append((run.seed, run.run_folder(name)))
        draw(run, names, options)
    show(markdown(build_table((Entry(*row) for row in rows.items()), notes)))


def iterate(run: WorldRun, iterations: int) -> tuple[list[str], str]:
    """Run ETO; returns the names of the runs in order, and a note if there are fewer."""
    run.evaluate("sft", run.sft().checkpoint)
    settings = replace(run.eto_settings(), iterations=iterations, keep_best=False)
    result = run.eto(settings, "figure4")
    names = ["sft" if i.number == 0 else f"figure4-{i.number}" for i in result.iterations]
    return names, result.note


def draw(run: WorldRun, names: list[str], options: Options) -> None:
    """Draw the figure, if matplotlib is installed."""
    folder = options.out / "figure4" / f"{run.recipe.name}-seed-{run.seed}"
    try:
        write_report((), folder, iterations=[f"{n}={run.run_folder(n)}" for n in names])
        show(f"figure: {folder}/figures/reward-by-iteration.svg")
    except MissingExtraError as error:
        show(f"no figure: {error}")


if __name__ == "__main__":
    tyro.cli(main)
