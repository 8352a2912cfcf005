"""Where things usually are: how often a receptacle of a type holds an object of a type.

`priors.json` is what `learn` makes of the 3,553 training games, looking only at the objects that
their tasks are about; no seen or unseen game entered it. The explorer searches by it.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from eto_envs.alfworld.engine.problem import Problem

Priors = Mapping[str, Mapping[str, float]]
"""Object type to receptacle type to the share of such receptacles that hold such an object."""

_N_IMAGINED = 2  # empty receptacles of each type added to the count, so that few do not mean much


@functools.cache
def load() -> Priors:
    """The table that comes with the package."""
    folder = importlib.resources.files("eto_envs.alfworld.experts")
    table: Priors = json.loads(folder.joinpath("priors.json").read_text(encoding="utf-8"))
    return table


def learn(problems: Iterable[Problem]) -> dict[str, dict[str, float]]:
    """Count in problems, and round to two digits; what rounds to 0 is left out."""
    n_all: defaultdict[str, Counter[str]] = defaultdict(Counter)
    n_holding: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for problem in problems:
        kind, object_type, target_type = problem.goal
        for thing in {object_type, target_type} if kind == "look" else {object_type}:
            mask = sum(1 << i for i, name in enumerate(problem.object_types) if name == thing)
            rows = zip(
                problem.receptacle_types,
                problem.receptacle_locations,
                problem.contents,
                strict=True,
            )
            for receptacle, location, contents in rows:
                if location >= 0:
                    n_all[thing][receptacle] += 1
                    n_holding[thing][receptacle] += bool(contents & mask)
    return {thing: _shares(n_holding[thing], n_all[thing]) for thing in sorted(n_all)}


def _shares(n_holding: Mapping[str, int], n_all: Mapping[str, int]) -> dict[str, float]:
    shares = {kind: n_holding[kind] / (n_all[kind] + _N_IMAGINED) for kind in sorted(n_all)}
    return {kind: round(share, 2) for kind, share in shares.items() if share >= 0.005}
