"""`SloppyExpertPolicy`: an expert with human flaws, for imitation data.

ETO's demonstrations come from people and heuristics, with rewards between 0.7 and 1 (the paper's
section 4.1); a perfect expert leaves nothing for exploration to improve. This one follows the
environment's expert (`info["expert_plan"]`), which replans from any state, but on the way it looks
around, goes to the wrong place, leaves out a step, or settles for the wrong object. The rates are
fields of each world's `Flaws`.
"""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import Any

from eto_agents.worlds import Flaws, all_worlds, find_world
from eto_envs.errors import UnknownNameError
from eto_envs.shaping import Info
from eto_envs.tasks import Task


class SloppyExpertPolicy:
    """An expert that plays with random flaws, which are drawn with the episode's seed."""

    name = "sloppy-expert"
    reveal = ("admissible_actions", "expert_plan")

    def __init__(self, **rates: float) -> None:
        """Set the rates of flaws, in [0, 1]; see the worlds' `Flaws` in `eto_agents.worlds`.

        Raises:
            TypeError: no world has a flaw of that name.
        """
        known = {name for flaws in _flaws().values() for name in flaws.__dataclass_fields__}
        for name in rates:
            if name == "rng" or name not in known:
                raise TypeError(f"there is no flaw {name!r}, only {sorted(known - {'rng'})}")
        self._rates = rates
        self._seed = 0
        self._flaws: Flaws | None = None
        self.provenance: dict[str, Any] = {"flaws": _all_rates(rates)}

    def reset(self, task: Task, seed: int) -> None:
        """Begin an episode; its world is in the first `info`."""
        self._seed, self._flaws = seed, None

    def act(self, observation: str, info: Info) -> str:
        """Return the next action.

        Raises:
            UnknownNameError: the world defines no flaws.
        """
        if self._flaws is None:
            self._flaws = self._flaws_of(str(info["world"]))
        return self._flaws.choose(observation, info)

    def _flaws_of(self, world: str) -> Flaws:
        flaws = find_world(world).flaws
        if flaws is None:
            raise UnknownNameError("flaws for world", world, _flaws())
        rates = {n: r for n, r in self._rates.items() if n in flaws.__dataclass_fields__}
        instance: Flaws = flaws(random.Random(self._seed), **rates)
        return instance


def _all_rates(rates: dict[str, float]) -> dict[str, dict[str, float]]:
    """Each world's rates: the defaults, overridden by `rates`."""
    defaults = {name: asdict(flaws(random.Random(0))) for name, flaws in _flaws().items()}
    return {
        name: {n: rates.get(n, r) for n, r in fields.items() if n != "rng"}
        for name, fields in defaults.items()
    }


def _flaws() -> dict[str, type[Any]]:
    """The class of flaws of each world that defines one."""
    return {world.name: world.flaws for world in all_worlds() if world.flaws is not None}
