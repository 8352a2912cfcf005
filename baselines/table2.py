"""The paper's Table 2: every method in every world, seen and unseen, beside the published rows.

    python baselines/table2.py --smoke
    python baselines/table2.py --tier cpu --out runs/reproduce

It is `eto reproduce` with the published rows below ours. The same command goes on after a kill.
"""

from __future__ import annotations

from typing import Annotated

import tyro

from eto_agents.cli.reproduce import TierFlags, run_tier
from eto_agents.reproduce.tables import markdown, markdown_differences, published_rows, table_of
from eto_agents.reproduce.tiers import METHODS

PUBLISHED = ("untuned", "SFT", "Best-of-10", "RFT", "PPO", "ETO")


def main(flags: Annotated[TierFlags, tyro.conf.OmitArgPrefixes], smoke: bool = False) -> None:
    """Run a tier and print its table.

    Args:
        flags: which tier, and what of it.
        smoke: every stage once with the smallest model, in a minute.
    """
    flags = flags.smoked() if smoke else flags
    tier = flags.load()
    outcomes = run_tier(tier, flags.out, quiet=flags.quiet)
    table = table_of(outcomes, {method: METHODS[method] for method in tier.methods})
    print(markdown(table, [r for r in published_rows(PUBLISHED) if r.table == "Table 2"]))
    for other in ("SFT", "SFT-more"):
        if found := table.differences("ETO", other):
            print("\n" + markdown_differences(found, "ETO", other))


if __name__ == "__main__":
    tyro.cli(main)
