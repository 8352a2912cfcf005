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
    """Which recipe is run, and what of it.

    Attributes:
        recipe: cpu (a quarter of an hour on two cores), cpu-full, 1gpu, paper, smoke, or the path
            of a TOML file.
        out: the folder of the reproduction; the same command on it resumes.
        worlds: only these of the recipe's worlds.
        methods: only these rows: base, sft, sft-more, best-of-n, rft, ppo, grpo, eto.
        seeds: in place of the recipe's.
        set: other settings, such as sft.epochs=3 or alfworld.dpo.beta=0.5, values as JSON or text.
        quiet: show no progress.
    """

    recipe: str = "cpu"
    out: Path = Path("runs/reproduce")
    worlds: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    set: Annotated[tuple[str, ...], arg(name="set", metavar="KEY=VALUE …")] = ()
    quiet: bool = False

    def smoked(self) -> Options:
        """The same for a test of all parts: the recipe smoke, in a folder of its own."""
        return replace(self, recipe="smoke", out=self.out / "smoke")

    def load(self) -> Recipe:
        """The recipe with what the options change.

        Raises:
            EtoError: as `read_recipe`, or the narrowing of it.
        """
        recipe = read_recipe(self.recipe, key_values(self.set))
        return recipe.narrowed(self.worlds, self.methods, self.seeds)
