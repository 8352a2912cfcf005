"""The paper's Figure 4: the reward by iteration of ETO; iteration 0 is SFT.

    python baselines/figure4.py --smoke
    python baselines/figure4.py --tier cpu --out runs/figure4 --iterations 4

The paper's figure is an image without numbers. Its text says that WebShop and ScienceWorld improve
for two iterations and decline from the third, and that ALFWorld improves at the first alone and is
below SFT after the second and third.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from eto_agents.cli.reproduce import TierFlags, open_tracks
from eto_agents.evaluation.full_report import write_report
from eto_agents.reproduce.tables import Entry, build_table, markdown
from eto_agents.reproduce.tracks import Track
from eto_envs.errors import MissingExtraError


def main(
    flags: Annotated[TierFlags, tyro.conf.OmitArgPrefixes],
    iterations: int = 3,
    smoke: bool = False,
) -> None:
    """Iterate from a tier's SFT model and print the reward of every iteration.

    Args:
        flags: which tier, and what of it.
        iterations: how many.
        smoke: two iterations with the smallest model, in a minute.
    """
    if smoke:
        flags, iterations = flags.smoked(), 2
    rows: dict[str, list[tuple[int, Path]]] = {}
    notes = []
    for track in open_tracks(flags):
        names, note = iterate(track, iterations)
        notes += [f"{track.recipe.name} seed {track.seed}: {note}"] if note else []
        for number, name in enumerate(names):
            label = f"iteration {number}" if number else "SFT"
            rows.setdefault(label, []).append((track.seed, track.run_folder(name)))
        draw(track, names, flags)
    print(markdown(build_table((Entry(*row) for row in rows.items()), notes)))


def iterate(track: Track, iterations: int) -> tuple[list[str], str]:
    """Names of the runs in order, and why there are fewer than were asked for."""
    track.sft()
    settings = track.eto_settings(track.sft_checkpoint, track.folder / "figure4")
    told = replace(settings, iterations=iterations, keep_best=False)
    learned = track.eto(told, prefix="figure4")
    names = ["sft" if i.number == 0 else f"figure4-{i.number}" for i in learned.iterations]
    return names, learned.note


def draw(track: Track, names: list[str], flags: TierFlags) -> None:
    """The figure, if matplotlib is there."""
    folder = flags.out / "figure4" / f"{track.recipe.name}-seed-{track.seed}"
    try:
        write_report((), folder, iterations=[f"{n}={track.run_folder(n)}" for n in names])
        print(f"figure: {folder}/figures/reward-by-iteration.svg")
    except MissingExtraError as error:
        print(f"no figure: {error}")


if __name__ == "__main__":
    tyro.cli(main)
