"""What training keeps of the episodes in a folder.

A collection (`eto collect`) and an evaluation are folders of the same form: `run.json` and
`episodes.jsonl`. The log has every episode; which of them are good enough is decided on reading,
by the `min_score` that `run.json` states. Playing the episodes is `eto_agents.collect`'s part.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from eto_agents.episode_log import read_log
from eto_agents.runs import episodes_file, read_record
from eto_agents.trajectory import PLAYED, Trajectory
from eto_envs.errors import CorruptDataError, UnknownNameError


class Collection(NamedTuple):
    """The episodes of a folder.

    Attributes:
        kept: those to learn from, in the log's order.
        scores: final score of every episode that was played to its end, kept or not.
        dropped: how many were left out, by reason: ``below min_score``, ``no steps``, or the status
            of an episode that was not played to its end.
        min_score: the least score in [0, 1] that is kept.
    """

    kept: list[Trajectory]
    scores: list[float]
    dropped: dict[str, int]
    min_score: float


def read_collection(path: str | Path, *, min_score: float | None = None) -> Collection:
    """Read a run's folder, or its episodes file.

    Args:
        path: the folder, or a file of trajectories.
        min_score: the least final score that is kept; by default what ``run.json`` states, 0 if it
            states nothing.

    Raises:
        DataNotFoundError: there are no episodes.
        CorruptDataError: a file is damaged; names the line.
        UnknownNameError: `min_score` is not in [0, 1].
    """
    path = Path(path)
    log = read_log(path, may_mix=True, with_messages=True)
    if min_score is None:
        min_score = stated_min_score(episodes_file(path).parent)
    check_min_score(min_score)
    kept, scores, dropped = [], [], Counter[str]()
    for trajectory in log.episodes:
        if trajectory.status not in PLAYED:
            dropped[trajectory.status] += 1
            continue
        scores.append(trajectory.score)
        if not trajectory.steps:
            dropped["no steps"] += 1
        elif trajectory.score < min_score:
            dropped["below min_score"] += 1
        else:
            kept.append(trajectory)
    return Collection(kept, scores, dict(dropped), min_score)


def stated_min_score(folder: Path) -> float:
    """What a run's folder states, 0 if nothing.

    Raises:
        CorruptDataError: ``run.json`` is damaged.
    """
    record = read_record(folder)
    stated = 0.0 if record is None else record.facts.get("min_score", 0.0)
    if not isinstance(stated, int | float):
        raise CorruptDataError(f"{folder / 'run.json'} is damaged: min_score is {stated!r}")
    return float(stated)


def check_min_score(min_score: float) -> None:
    """See that a least score is one.

    Raises:
        UnknownNameError: it is not in [0, 1].
    """
    if not 0.0 <= min_score <= 1.0:
        raise UnknownNameError("min_score", min_score, (), "It is a number from 0 to 1.")
