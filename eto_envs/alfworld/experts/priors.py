"""Where things usually are: how often receptacles of a type contain objects of a type.

`priors.json` was computed by `learn` from the 3,553 training games, considering only the objects
that their tasks are about; no seen or unseen games were used. It guides the explorer's search.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from eto_envs.alfworld.engine.problem import Problem

Priors = Mapping[str, Mapping[str, float]]
"""By object type and receptacle type, the fraction of such receptacles with such an object."""

_N_PSEUDO = 2  # empty receptacles of each type added to the counts, as a prior for rare types


@functools.cache
def load() -> Priors:
    """The table that is part of the package."""
    folder = importlib.resources.files("eto_envs.alfworld.experts")
    table: Priors = json.loads(folder.joinpath("priors.json").read_text(encoding="utf-8"))
    return table


def learn(problems: Iterable[Problem]) -> dict[str, dict[str, float]]:
    """Compute the table from problems, rounded to two digits; zeros are omitted."""
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
    return {thing: _fractions(n_holding[thing], n_all[thing]) for thing in sorted(n_all)}


def _fractions(n_holding: Mapping[str, int], n_all: Mapping[str, int]) -> dict[str, float]:
    fractions = {kind: n_holding[kind] / (n_all[kind] + _N_PSEUDO) for kind in sorted(n_all)}
    return {kind: round(value, 2) for kind, value in fractions.items() if value >= 0.005}
