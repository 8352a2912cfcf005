"""The paper's Figure 3: the score after each step, for SFT and ETO.

    python baselines/figure3.py --smoke
    python baselines/figure3.py --recipe cpu --out runs/reproduce

An episode that has ended keeps its score. The paper's figure is an image without numbers, so no
published values are printed. With the extra ``plot``, the figure is drawn, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import tyro

from eto_agents.console import show
from eto_agents.evaluation.runs import read_run
from eto_agents.markdown import markdown_table
from eto_agents.report.curves import score_by_step
from eto_agents.report.full_report import write_report
from eto_agents.reproduce.all import run_all
from eto_agents.reproduce.options import Options
from eto_agents.reproduce.outcome import Outcome
from eto_agents.reproduce.tables import title
from eto_envs.errors import MissingExtraError

METHODS = {"sft": "SFT", "eto": "ETO"}


def main(options: Annotated[Options, tyro.conf.OmitArgPrefixes], smoke: bool = False) -> None:
    """Run SFT and ETO of a recipe and print the score after each step, x 100.

    Args:
        options: The recipe, and which parts of it to run.
        smoke: Run a smoke test with the smallest model, in a minute.
    """
    options = replace(options.for_smoke_test() if smoke else options, methods=tuple(METHODS))
    for outcome in run_all(options.load(), options.out, quiet=options.quiet):
        show(table(outcome))
        runs = {label: run for m, label in METHODS.items() if (run := outcome.run(m)) is not None}
        folder = options.out / "figure3" / f"{outcome.world}-seed-{outcome.seed}"
        try:
            write_report([f"{label}={run}" for label, run in runs.items()], folder)
            show(f"figures: {folder}/figures/reward-by-step.svg\n")
        except MissingExtraError as error:
            show(f"no figure: {error}\n")


def table(outcome: Outcome) -> str:
    """A table with a row per step and a column per split and agent."""
    split_runs = {
        (label, split_run.column): split_run
        for method, label in METHODS.items()
        if (run := outcome.run(method)) is not None
        for split_run in read_run(run).splits
    }
    n_steps = max((len(e.steps) for p in split_runs.values() for e in p.counted), default=0)
    curves = {
        key: score_by_step(split_run, sorted({e.task_id for e in split_run.counted}), n_steps)
        for key, split_run in split_runs.items()
    }
    headings = ["step", *(f"{title(column)}: {label}" for label, column in curves)]
    rows = [
        [str(step), *(f"{100 * curve[step]:.1f}" for curve in curves.values())]
        for step in range(n_steps + 1)
    ]
    caption = f"{outcome.world} seed {outcome.seed}: reward × 100 after each step"
    return f"{caption}\n\n{markdown_table(headings, rows)}\n"


if __name__ == "__main__":
    tyro.cli(main)
