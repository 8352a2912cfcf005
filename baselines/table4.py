"""The paper's Table 4: pairs of whole trajectories, of single steps, and both mixed.

    python baselines/table4.py --smoke
    python baselines/table4.py --tier cpu --worlds webshop --out runs/table4

One iteration of ETO from the same SFT model for each kind of pairs. Steps are compared twice: at
the learning rate and beta of the trajectories, where the paper saw the agent break (8.3), and at a
tenth of the rate with beta 0.5, where it did not.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from eto_agents.cli.reproduce import TierFlags, open_tracks
from eto_agents.reproduce.tables import Entry, build_table, markdown, published_rows
from eto_agents.reproduce.tracks import Track
from eto_agents.training.eto import PairKind


class Variant(NamedTuple):
    """A row: the kind of pairs, and what becomes of the tier's learning rate and beta."""

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


def main(flags: Annotated[TierFlags, tyro.conf.OmitArgPrefixes], smoke: bool = False) -> None:
    """Train with each kind of pairs and print the table.

    Args:
        flags: which tier, and what of it.
        smoke: every kind once with the smallest model, in a minute.
    """
    runs: dict[str, list[tuple[int, Path]]] = {"SFT": []}
    notes: list[str] = []
    for track in open_tracks(flags.smoked() if smoke else flags):
        track.sft()
        track.evaluate("sft", track.sft_checkpoint)
        runs["SFT"].append((track.seed, track.run_folder("sft")))
        for name, variant in VARIANTS.items():
            label, run, note = train(track, name, variant)
            runs.setdefault(label, []).extend([] if run is None else [(track.seed, run)])
            notes += [f"{label}, {track.recipe.name} seed {track.seed}: {note}"] if note else []
    print(
        markdown(
            build_table((Entry(*row) for row in runs.items()), notes), published_rows(PUBLISHED)
        )
    )


def train(track: Track, name: str, variant: Variant) -> tuple[str, Path | None, str]:
    """One iteration; the row's label, its run if there is one, and why not."""
    settings = track.eto_settings(track.sft_checkpoint, track.folder / f"pairs-{name}")
    dpo = settings.dpo
    dpo = replace(
        dpo,
        learning_rate=dpo.learning_rate * variant.rate_factor,
        beta=dpo.beta if variant.beta is None else variant.beta,
    )
    label = f"{variant.kind} (rate {dpo.learning_rate:g}, beta {dpo.beta:g})"
    told = replace(settings, pairs=variant.kind, dpo=dpo, iterations=1, keep_best=False)
    learned = track.eto(told, prefix=f"pairs-{name}")
    run = track.run_folder(f"pairs-{name}-1") if len(learned.iterations) > 1 else None
    return label, run, learned.note


if __name__ == "__main__":
    tyro.cli(main)
