"""The paper's Table 2: every method in every world, seen and unseen, with the published rows.

    python baselines/table2.py --smoke
    python baselines/table2.py --recipe cpu --out runs/reproduce

It is `eto reproduce`, with the published rows below the new ones. Rerun the command to resume.
"""

from __future__ import annotations

from typing import Annotated

import tyro

from eto_agents.console import show
from eto_agents.reproduce.all import run_all
from eto_agents.reproduce.options import Options
from eto_agents.reproduce.recipe import METHODS
from eto_agents.reproduce.tables import markdown, markdown_differences, published_rows, table_of

PUBLISHED = ("untuned", "SFT", "Best-of-10", "RFT", "PPO", "ETO")


def main(options: Annotated[Options, tyro.conf.OmitArgPrefixes], smoke: bool = False) -> None:
    """Run a recipe and print its table.

    Args:
        options: The recipe, and which parts of it to run.
        smoke: Run a smoke test: every method once with the smallest model, in a minute.
    """
    options = options.for_smoke_test() if smoke else options
    recipe = options.load()
    outcomes = run_all(recipe, options.out, quiet=options.quiet)
    table = table_of(outcomes, {method: METHODS[method] for method in recipe.methods})
    show(markdown(table, [r for r in published_rows(PUBLISHED) if r.table == "Table 2"]))
    for other in ("SFT", "SFT-more"):
        if differences := table.differences("ETO", other):
            show("\n" + markdown_differences(differences, "ETO", other))


if __name__ == "__main__":
    tyro.cli(main)
