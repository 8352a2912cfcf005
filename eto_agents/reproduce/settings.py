"""What the stages of a track are told: a recipe's sections with what follows from the others.

A tier's file says how SFT or DPO trains; on what, from which checkpoint and into which folder
follows from the track. Running the stages is `eto_agents.reproduce.tracks`' part.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from eto_agents.console import log
from eto_agents.reproduce.tiers import Recipe
from eto_agents.training.eto import ETOSettings
from eto_agents.training.ppo import PPORun
from eto_agents.training.rft import RFTSettings
from eto_agents.training.sft import SFTSettings

_Tuned = TypeVar("_Tuned", SFTSettings, RFTSettings)


@dataclass(frozen=True)
class Told:
    """One world under one seed, and its stages' settings.

    Attributes:
        recipe: what is done in this world.
        seed: of weights, orders and sampling.
        folder: the track's; the data of a world lie beside the tracks.
    """

    recipe: Recipe
    seed: int
    folder: Path

    @property
    def data(self) -> Path:
        """Where the experts' trajectories are that are learnt from."""
        return self.folder / "demonstrations"

    @property
    def sft_checkpoint(self) -> str:
        """Where SFT leaves its model."""
        return str(self.folder / "sft" / "checkpoint")

    @property
    def env_args(self) -> dict[str, Any]:
        """Keyword arguments of the environment that is trained in."""
        return {"dataset": self.dataset}

    @functools.cached_property
    def dataset(self) -> str:
        """What is trained on: the recipe's, or a mini dataset with further train tasks."""
        world = self.recipe.world
        if world.n_rounds == 1:
            return world.dataset
        import filelock

        from eto_envs.alfworld.mini import write_mini
        from eto_envs.webshop.mini import build_mini_bundle

        path = self.folder.parent / f"mini-{world.n_rounds}-rounds"
        path.parent.mkdir(parents=True, exist_ok=True)
        make = build_mini_bundle if "WebShop" in world.env else write_mini
        with filelock.FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                log(f"making {world.n_rounds} rounds of train tasks")
                make(path, world.n_rounds)
        return str(path)

    def sft_settings(self, out: Path, model: str) -> SFTSettings:
        """What SFT is told."""
        return self.filled(self.recipe.sft, out, model)

    def rft_settings(self, out: Path, model: str, explorer: str) -> RFTSettings:
        """What RFT is told."""
        told = self.recipe.model
        return dataclasses.replace(
            self.filled(self.recipe.rft, out, model),
            explorer=explorer,
            env=self.recipe.world.env,
            dataset=self.dataset,
            n_tasks=self.recipe.expert.n_tasks,
            max_turn_tokens=told.max_turn_tokens,
            lockstep=told.lockstep,
        )

    def ppo_run(self, model: str, out: Path) -> PPORun:
        """What PPO is told."""
        recipe = self.recipe
        return dataclasses.replace(
            recipe.ppo,
            model=model,
            out=out,
            dataset=self.dataset,
            n_tasks=recipe.expert.n_tasks,
            dev_tasks=recipe.eto.dev_tasks,
            dev_seed=recipe.eto.dev_seed,
            world=recipe.world.prompt,
            max_new_tokens=recipe.model.max_turn_tokens,
            lockstep=recipe.model.lockstep,
            dtype=recipe.model.dtype,
            device=recipe.model.device,
            seed=self.seed,
        )

    def eto_settings(self, model: str, out: Path) -> ETOSettings:
        """What ETO is told."""
        recipe = self.recipe
        model_of = recipe.model
        return dataclasses.replace(
            recipe.eto,
            data=(self.data,),
            model=model,
            out=out,
            dataset=self.dataset,
            n_tasks=recipe.expert.n_tasks,
            world=recipe.world.prompt,
            seed=self.seed,
            explore=dataclasses.replace(
                recipe.eto.explore,
                max_new_tokens=model_of.max_turn_tokens,
                lockstep=model_of.lockstep,
            ),
            dpo=dataclasses.replace(
                recipe.eto.dpo, dtype=model_of.dtype, device=model_of.device, seed=self.seed
            ),
        )

    def filled(self, settings: _Tuned, out: Path, model: str) -> _Tuned:
        """Settings of SFT or RFT with what follows from the other sections."""
        told = self.recipe.model
        return dataclasses.replace(
            settings,
            data=(self.data,),
            out=out,
            model=model,
            template=told.template,
            prompts=told.prompts,
            with_example=told.with_example,
            world=self.recipe.world.prompt,
            vocab_size=told.vocab_size,
            dtype=told.dtype,
            device=told.device,
            seed=self.seed,
        )
