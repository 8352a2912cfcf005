"""The paper's Table 3: SFT and ETO with other base models, and the published rows.

    python baselines/table3.py --smoke
    python baselines/table3.py --recipe 1gpu --models Qwen/Qwen2.5-0.5B-Instruct runs/my/checkpoint

A model is a name on the Hugging Face hub, a checkpoint's folder, or tiny:SIZE.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from eto_agents.console import show
from eto_agents.reproduce.all import run_all
from eto_agents.reproduce.options import Options
from eto_agents.reproduce.tables import Entry, build_table, markdown, published_rows

MODELS = ("tiny:nano", "tiny:small")
METHODS = {"sft": "SFT", "sft-more": "SFT-more", "eto": "ETO"}
PUBLISHED = ("Llama-2-13B-Chat", "Mistral-7B")


def main(
    options: Annotated[Options, tyro.conf.OmitArgPrefixes],
    models: tuple[str, ...] = MODELS,
    smoke: bool = False,
) -> None:
    """Run a recipe with each model and print one table.

    Args:
        options: The recipe, and which parts of it to run; by default SFT, SFT-more and ETO.
        models: Base models to use instead of the recipe's.
        smoke: Run a smoke test: the smallest model on a handful of tasks, in a minute.
    """
    if smoke:
        options, models = replace(options.for_smoke_test(), methods=("sft", "eto")), ("tiny:nano",)
    entries = []
    for model in models:
        model_options = replace(
            options,
            out=options.out / model.replace("/", "--").replace(":", "-"),
            methods=options.methods or tuple(METHODS),
            set=(*options.set, f"model.name={model}"),
        )
        recipe = model_options.load()
        outcomes = run_all(recipe, model_options.out, quiet=options.quiet)
        for method in recipe.methods:
            runs = [(o.seed, run) for o in outcomes if (run := o.run(method)) is not None]
            entries.append(Entry(f"{METHODS[method]}, {Path(model).name}", runs))
    rows = [row for model in PUBLISHED for row in published_rows(("SFT", "ETO"), model)]
    show(markdown(build_table(entries), rows))


if __name__ == "__main__":
    tyro.cli(main)
