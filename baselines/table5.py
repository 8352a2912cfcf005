"""The paper's Table 5: without behaviour cloning: untuned, RFT, ETO, and ETO after RFT.

    python baselines/table5.py --smoke
    python baselines/table5.py --tier cpu --worlds webshop --out runs/table5

No expert is imitated: RFT learns from the agent's own successes, ETO from its better episode of a
task against its worse one. A tiny model that was never trained cannot write an action at all, so
here "untuned" is one that has read the episodes of the random agent: it knows the language of the
world and nothing of the task, as an untuned chat model does.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from eto_agents.cli.reproduce import TierFlags, open_tracks
from eto_agents.collect import collect
from eto_agents.reproduce.tables import Entry, build_table, markdown, published_rows
from eto_agents.reproduce.tracks import Track
from eto_agents.training.rft import explore, successes
from eto_agents.training.rows import EmptyDataError
from eto_agents.training.sft import sft, train_on
from eto_agents.training.stage import Stage, hash_input

READ = 1000  # episodes at random that a tiny model reads, at most
PUBLISHED = ("untuned", "RFT without SFT", "ETO without SFT", "RFT and ETO without SFT")


def main(flags: Annotated[TierFlags, tyro.conf.OmitArgPrefixes], smoke: bool = False) -> None:
    """Train without experts and print the table.

    Args:
        flags: which tier, and what of it.
        smoke: every row once with the smallest model, in a minute.
    """
    runs: dict[str, list[tuple[int, Path]]] = {}
    notes: list[str] = []
    for track in open_tracks(flags.smoked() if smoke else flags):
        start = untuned(track)
        checkpoints: dict[str, str | None] = {"untuned": start, "RFT": rft_alone(track, start)}
        checkpoints["ETO"] = eto_alone(track, start, "eto")
        if checkpoints["RFT"] is not None:
            checkpoints["RFT+ETO"] = eto_alone(track, checkpoints["RFT"], "rft-eto")
        for label, checkpoint in checkpoints.items():
            row = runs.setdefault(label, [])
            if checkpoint is None:
                where = f"{track.recipe.name} seed {track.seed}"
                notes.append(f"{label}, {where}: the agent's episodes gave nothing to learn from")
                continue
            name = f"alone-{label.lower().replace('+', '-')}"
            track.evaluate(name, checkpoint)
            row.append((track.seed, track.run_folder(name)))
    table = build_table((Entry(*row) for row in runs.items()), notes)
    print(markdown(table, published_rows(PUBLISHED)))


def untuned(track: Track) -> str:
    """The model that begins: the tier's, or a tiny one that has read random play."""
    model, expert = track.recipe.model, track.recipe.expert
    if not model.is_tiny:
        return model.name
    data = track.folder / "random-play"
    collect(
        "random",
        track.recipe.world.env,
        out=data,
        min_score=0.0,
        seeds=(track.seed,),
        n_tasks=min(expert.n_tasks or READ, READ),
        env_args=track.env_args,
    )
    out = track.folder / "alone" / "base"
    sft(replace(track.sft_settings(out, model.name), data=(data,)))
    return str(out / "checkpoint")


def rft_alone(track: Track, start: str) -> str | None:
    """RFT on the agent's successes alone; None if there are none."""
    settings = track.rft_settings(track.folder / "alone" / "rft", start, start)
    settings = replace(settings, data=())
    inputs = {"model": hash_input(start)} if Path(start).exists() else {}
    with Stage(settings.out, settings, inputs) as stage:
        if stage.result is None:
            kept = successes(explore(settings, stage), (), settings.min_sampled_score)
            try:
                train_on(kept, settings, stage)
            except EmptyDataError:
                return None
    return str(stage.checkpoint)


def eto_alone(track: Track, start: str, name: str) -> str | None:
    """ETO with the agent's own episodes on both sides; None if no two of a task differ."""
    settings = track.eto_settings(start, track.folder / "alone" / name)
    play = settings.explore
    play = replace(play, samples=max(play.samples, 2), temperature=play.temperature or 1.0)
    told = replace(settings, pairs="self", data=(), explore=play, keep_best=False)
    learned = track.eto(told, prefix=f"alone-{name}")
    return learned.iterations[-1].checkpoint if len(learned.iterations) > 1 else None


if __name__ == "__main__":
    tyro.cli(main)
