"""`SloppyExpertPolicy`: an expert with the flaws of a person, for imitation data.

ETO's demonstrations are people's and heuristics', with rewards between 0.7 and 1 (the paper's
Section 4.1); a perfect expert leaves exploration nothing to better. This one follows the world's
own expert, which plans anew from wherever it is led, and on the way looks around, goes to the wrong
place, leaves out a step, or settles for the wrong thing. How often is in the fields of each world's
habits. Not here: the experts, which are the worlds' (`info["expert_plan"]`).
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
    """Plays one episode at a time as a person who knows the way might; the seed draws the flaws."""

    name = "sloppy-expert"
    reveal = ("admissible_actions", "expert_plan")

    def __init__(self, **rates: float) -> None:
        """Set how often the flaws are; see `eto_agents.worlds`.

        Raises:
            TypeError: no world has such a flaw.
        """
        known = {name for flaws in _flaws().values() for name in flaws.__dataclass_fields__}
        for name in rates:
            if name == "rng" or name not in known:
                raise TypeError(f"no flaw {name!r}; there are {sorted(known - {'rng'})}")
        self._rates = rates
        self._seed = 0
        self._flaws: Flaws | None = None
        self.provenance: dict[str, Any] = {"flaws": _all_rates(rates)}

    def reset(self, task: Task, seed: int) -> None:
        """Begin an episode; which world it is of is in its first `info`."""
        self._seed, self._flaws = seed, None

    def act(self, observation: str, info: Info) -> str:
        """The next action.

        Raises:
            UnknownNameError: nobody has described how this world is played with flaws.
        """
        if self._flaws is None:
            self._flaws = self._flaws_of(str(info["world"]))
        return self._flaws.choose(observation, info)

    def _flaws_of(self, world: str) -> Flaws:
        flaws = find_world(world).flaws
        if flaws is None:
            raise UnknownNameError("flaws for world", world, _flaws())
        own = {n: r for n, r in self._rates.items() if n in flaws.__dataclass_fields__}
        made: Flaws = flaws(random.Random(self._seed), **own)
        return made


def _all_rates(rates: dict[str, float]) -> dict[str, dict[str, float]]:
    made = {name: asdict(flaws(random.Random(0))) for name, flaws in _flaws().items()}
    return {
        name: {n: rates.get(n, r) for n, r in fields.items() if n != "rng"}
        for name, fields in made.items()
    }


def _flaws() -> dict[str, type[Any]]:
    """The flaws of each world that has some."""
    return {world.name: world.flaws for world in all_worlds() if world.flaws is not None}
