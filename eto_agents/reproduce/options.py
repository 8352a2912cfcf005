"""`Options`: the flags of `eto reproduce` and of the baselines' table and figure scripts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from eto_agents.reproduce.recipe import Recipe, read_recipe
from eto_agents.settings import key_values


@dataclass(frozen=True)
class Options:
    """The recipe to run, and which parts of it.

    Attributes:
        recipe: Recipe to run: smoke (a minute), cpu (a quarter of an hour on two cores), cpu-full,
            1gpu, paper, or the path of a TOML file.
        out: Folder of the reproduction.
        worlds: Run only these worlds of the recipe. By default all.
        methods: Run only these methods, out of base, sft, sft-more, best-of-n, rft, ppo, grpo and
            eto. By default the recipe's.
        seeds: Seeds to use instead of the recipe's.
        set: Further settings, such as sft.epochs=3 or alfworld.dpo.beta=0.5; values are JSON or
            plain text.
        quiet: Show no progress.
    """

    recipe: str = "cpu"
    out: Path = Path("runs/reproduce")
    worlds: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    set: Annotated[tuple[str, ...], arg(name="set", metavar="KEY=VALUE …")] = ()
    quiet: bool = False

    def for_smoke_test(self) -> Options:
        """The same options for the recipe smoke, in a folder of its own."""
        return replace(self, recipe="smoke", out=self.out / "smoke")

    def load(self) -> Recipe:
        """Read the recipe and apply the options.

        Raises:
            EtoError: see `read_recipe` and `Recipe.narrowed`.
        """
        recipe = read_recipe(self.recipe, key_values(self.set))
        return recipe.narrowed(self.worlds, self.methods, self.seeds)
