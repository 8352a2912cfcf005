"""`eto reproduce`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes

from eto_agents.cli.evaluation import resumable
from eto_agents.console import clock, show
from eto_agents.reproduce.options import Options

if TYPE_CHECKING:
    from eto_agents.reproduce.recipe import Recipe


def run(options: Annotated[Options, OmitArgPrefixes], dry_run: bool = False) -> None:
    """Reproduce the paper's main table: train and evaluate every method in every world.

    Rerun the command to resume.

    For example:
        eto reproduce --recipe smoke --out runs/smoke

    Args:
        options: The recipe, and which parts of it to run.
        dry_run: Only print the steps: what they read and how long they took when measured.
    """
    recipe = options.load()
    if dry_run:
        show(_plan(recipe, options))
        return
    from eto_agents.console import Display
    from eto_agents.reproduce.all import conclude, run_all

    started_s = time.monotonic()
    with resumable(options.out):
        outcomes = run_all(recipe, options.out, quiet=options.quiet)
        with Display(options.quiet):
            text = conclude(recipe, outcomes, options.out)
    if not options.quiet:
        sys.stderr.write(f"in all: {time.monotonic() - started_s:.0f} s\n")
    show(text)


_READS = {
    "expert": "the tasks of train",
    "base": "a checkpoint, or the demonstrations",
    "sft": "base, demonstrations",
    "sft-more": "sft, demonstrations, the number of eto's updates",
    "sft-more-successes": "sft, successful demonstrations, the number of eto's updates",
    "best-of-n": "sft",
    "rft": "sft, demonstrations",
    "rft-successes": "sft, successful demonstrations",
    "ppo": "sft",
    "grpo": "sft",
    "chosen-nll": "sft, the pairs of eto",
    "eto": "sft, demonstrations",
}


def _plan(recipe: Recipe, options: Options) -> str:
    """List the steps of every world and seed, as Markdown."""
    from eto_agents.markdown import markdown_table

    lines = [f"# Recipe {recipe.name}", "", recipe.about]
    for name, world in recipe.worlds.items():
        for seed in recipe.seeds:
            folder = options.out / name / f"seed-{seed}"
            rows = []
            for step in recipe.steps:
                measured = world.measured.get(step)
                took = "–" if measured is None else clock(measured)
                where = folder / "runs" / step if step == "best-of-n" else folder / step
                rows.append((step, str(where), _READS[step], took))
            table = markdown_table(("step", "folder", "reads", "measured"), rows)
            lines += ["", f"## {name} seed {seed}", "", table]
    return "\n".join(lines)
