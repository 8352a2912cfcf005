"""The paper's Table 5, without behaviour cloning: the untuned model, RFT, ETO, and ETO after RFT.

    python baselines/table5.py --smoke
    python baselines/table5.py --recipe cpu --worlds webshop --out runs/table5

No expert is imitated: RFT learns from the agent's own successes, and ETO from better and worse
episodes of the agent. A tiny model that was never trained cannot write an action at all, so here
the "untuned" one is trained on episodes of the random agent: like an untuned chat model, it knows
the language of the world and nothing about the task.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from eto_agents.collect import collect
from eto_agents.console import show
from eto_agents.reproduce.all import open_runs
from eto_agents.reproduce.options import Options
from eto_agents.reproduce.run import WorldRun
from eto_agents.reproduce.tables import Entry, build_table, markdown, published_rows
from eto_agents.training.exploration import explore
from eto_agents.training.rft import successes
from eto_agents.training.sft import sft
from eto_agents.training.task_splits import tasks_of

N_RANDOM = 1000  # maximum number of random episodes that a tiny model is trained on
PUBLISHED = ("untuned", "RFT without SFT", "ETO without SFT", "RFT and ETO without SFT")


def main(options: Annotated[Options, tyro.conf.OmitArgPrefixes], smoke: bool = False) -> None:
    """Train without experts and print the table.

    Args:
        options: The recipe, and which parts of it to run.
        smoke: Run a smoke test: every row once with the smallest model, in a minute.
    """
    runs: dict[str, list[tuple[int, Path]]] = {}
    notes: list[str] = []
    for run in open_runs(options.for_smoke_test() if smoke else options):
        start = untuned(run)
        checkpoints: dict[str, str | None] = {"untuned": start, "RFT": rft_alone(run, start)}
        checkpoints["ETO"] = eto_alone(run, start, "eto")
        if checkpoints["RFT"] is not None:
            checkpoints["RFT+ETO"] = eto_alone(run, checkpoints["RFT"], "rft-eto")
        for label, checkpoint in checkpoints.items():
            row = runs.setdefault(label, [])
            if checkpoint is None:
                where = f"{run.recipe.name} seed {run.seed}"
                notes.append(f"{label}, {where}: the agent's episodes offer nothing to learn from")
                continue
            name = f"alone-{label.lower().replace('+', '-')}"
            run.evaluate(name, checkpoint)
            row.append((run.seed, run.run_folder(name)))
    table = build_table((Entry(*row) for row in runs.items()), notes)
    show(markdown(table, published_rows(PUBLISHED)))


def untuned(run: WorldRun) -> str:
    """The initial model: the recipe's, or a tiny one that is trained on random episodes."""
    model, expert = run.recipe.model, run.recipe.expert
    if not model.is_tiny:
        return model.name
    played = collect(
        "random",
        run.recipe.world.env,
        out=run.folder / "random-play",
        min_score=0.0,
        seeds=(run.seed,),
        n_tasks=min(expert.n_tasks or N_RANDOM, N_RANDOM),
        env_args={"dataset": run.dataset},
    )
    out = run.folder / "alone" / "base"
    return str(sft(model.name, played.selected, run.tuned(run.recipe.sft), out=out).checkpoint)


def rft_alone(run: WorldRun, start: str) -> str | None:
    """Fine-tune on the agent's successes only; None if there are none."""
    settings = run.playing(run.tuned(run.recipe.rft))
    tasks = tasks_of(settings.env, settings.split, settings.env_args)[: settings.n_tasks]
    folder = run.folder / "alone" / "explored"
    explored = explore(start, tasks, settings, folder, seeds=range(settings.n_samples))
    added = successes(explored, (), settings.min_score)
    if not added:
        return None
    return str(sft(start, added, settings, out=run.folder / "alone" / "rft").checkpoint)


def eto_alone(run: WorldRun, start: str, name: str) -> str | None:
    """Run ETO on pairs of the agent's own episodes; None if there are no pairs."""
    settings = run.eto_settings()
    settings = replace(
        settings,
        pairs="self",
        n_samples=max(settings.n_samples, 2),
        temperature=settings.temperature or 1.0,
        keep_best=False,
    )
    result = run.eto(settings, f"alone-{name}", start)
    return result.iterations[-1].model if len(result.iterations) > 1 else None


if __name__ == "__main__":
    tyro.cli(main)
