"""`read_collection`: select the episodes of a folder that are good enough to train on.

A collection (`eto collect`) and an evaluation are folders of the same form: `run.json` and
`episodes.jsonl`. The file holds every episode; those that score at least the `min_score` recorded
in `run.json` are selected on reading. The episodes are played by `eto_agents.collect`.
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
        selected: the episodes to train on, in the file's order.
        scores: final scores of all episodes that were played to their end, selected or not.
        dropped: number of episodes left out, by reason: ``below min_score``, ``no steps``, or the
            status of an episode that was not played to its end.
        min_score: minimum final score of a selected episode, in [0, 1].
    """

    selected: list[Trajectory]
    scores: list[float]
    dropped: dict[str, int]
    min_score: float


def read_collection(path: str | Path, *, min_score: float | None = None) -> Collection:
    """Read a run's folder, or its episodes file.

    Args:
        path: the folder, or a file of trajectories.
        min_score: minimum final score of an episode to select, in [0, 1]; by default the one
            recorded in ``run.json``, or 0 if there is none.

    Raises:
        DataNotFoundError: there are no episodes.
        CorruptDataError: a file is damaged; names the line.
        UnknownNameError: `min_score` is not in [0, 1].
    """
    path = Path(path)
    log = read_log(path, may_mix=True, keep_messages=lambda _: True)
    if min_score is None:
        min_score = recorded_min_score(episodes_file(path).parent)
    check_min_score(min_score)
    selected, scores, dropped = [], [], Counter[str]()
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
            selected.append(trajectory)
    return Collection(selected, scores, dict(dropped), min_score)


def recorded_min_score(folder: Path) -> float:
    """The minimum score recorded in a folder's ``run.json``; 0 if there is none.

    Raises:
        CorruptDataError: ``run.json`` is damaged.
    """
    record = read_record(folder)
    min_score = 0.0 if record is None else record.facts.get("min_score", 0.0)
    if not isinstance(min_score, int | float):
        raise CorruptDataError(f"{folder / 'run.json'} is damaged: min_score is {min_score!r}")
    return float(min_score)


def check_min_score(min_score: float) -> None:
    """Check that a minimum score is in range.

    Raises:
        UnknownNameError: `min_score` is not in [0, 1].
    """
    if not 0.0 <= min_score <= 1.0:
        raise UnknownNameError("min_score", min_score, (), "It must be a number from 0 to 1.")
