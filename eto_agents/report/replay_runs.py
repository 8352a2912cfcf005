"""Reading runs for the replay page: every value that the page shows is checked, line by line.

`eto_agents.evaluation.runs` reads for figures and wants an evaluation's whole folder; here a run
that has just begun, a collection, or an episode log alone will do. Nothing here writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eto_agents.evaluation.runs import named
from eto_agents.runs import EPISODES, RunRecord, read_record
from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import Trajectory
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError

STEP_TEXTS = ("action", "observation", "text", "thought")
"""The texts of a step."""


@dataclass(frozen=True)
class Run:
    """A run as far as it has been played.

    Attributes:
        folder: where it is.
        label: its name on the page.
        record: what `run.json` says; None if there is none.
        n_planned: episodes there will be; None if the run does not say.
        episodes: the last record of every episode, in the order of the log.
        is_finished: the run wrote its results.
        has_unfinished_line: the log ends in the middle of a line, which was left out.
    """

    folder: Path
    label: str
    record: RunRecord | None
    n_planned: int | None
    episodes: Sequence[Trajectory]
    is_finished: bool
    has_unfinished_line: bool


def read_run(folder: str | Path, label: str = "") -> Run:
    """Read a run's folder, or its episode log alone; a run that still goes on is read so far.

    Args:
        folder: the run.
        label: what the page calls the agent, by default the policy's name.

    Raises:
        DataNotFoundError: there is no run, or it has no episode yet.
        CorruptDataError: a file is damaged, of another schema, or has a number that is none;
            names the file and the line.
    """
    path = Path(folder)
    log = path / "episodes.jsonl" if path.is_dir() else path
    if not log.is_file():
        raise DataNotFoundError(
            f"no run at {path}: {log} is not there; `eto eval --out {path}` makes one"
        )
    try:
        record = read_record(path) if path.is_dir() else None
        ends_whole = _ends_with_newline(log)
        latest = {trajectory.key: trajectory for trajectory in _checked(log, record)}
    except OSError as error:
        raise DataError(f"cannot read {log}: {error.strerror}") from error
    if not latest:
        raise DataNotFoundError(f"{log} has no whole episode yet: wait for the first, or run it")
    episodes = list(latest.values())
    return Run(
        folder=path,
        label=label or episodes[0].policy,
        record=record,
        n_planned=_n_planned(record),
        episodes=episodes,
        is_finished=(log.parent / "results.json").is_file(),
        has_unfinished_line=not ends_whole,
    )


def read_runs(names: Iterable[str | Path]) -> list[Run]:
    """Read runs given as a folder or as ``AGENT=FOLDER``, which names the agent.

    Raises:
        DataError: as `read_run`.
    """
    return [read_run(*named(str(name))) for name in names]


def _checked(log: Path, record: RunRecord | None) -> Iterator[Trajectory]:
    """The log's trajectories, each one fit to be shown."""
    number = 0
    try:
        for number, trajectory in enumerate(TrajectoryStore(log).read(), start=1):
            if problem := _problem(trajectory) or _stranger(trajectory, record):
                raise CorruptDataError(f"{log}, line {number}: {problem}")
            yield trajectory
    except UnicodeDecodeError as error:
        line = 1 + log.read_bytes()[: _first_bad_byte(log)].count(b"\n")
        raise CorruptDataError(f"{log}, line {line}: not UTF-8 ({error.reason})") from error


def _first_bad_byte(log: Path) -> int:
    try:
        log.read_bytes().decode()
    except UnicodeDecodeError as error:
        return error.start
    return 0


def _problem(t: Trajectory) -> str:
    """What is wrong with the values of a record that has the right fields; empty if nothing is."""
    texts = (
        "env_id",
        "world",
        "split",
        "tasks_sha256",
        "task_id",
        "kind",
        "goal",
        "policy",
        "error",
    )
    problems = [*_wrong_texts(t, (*texts, "initial_observation"), "")]
    problems += _wrong_numbers({"score": t.score, "wall_s": t.wall_s, "seed": t.seed}, "")
    problems += _wrong_numbers({"sample": t.sample}, "")
    if not problems and not 0 <= t.score <= 1:
        problems.append(f"the score is {t.score}, which is not in [0, 1]")
    for number, step in enumerate(t.steps, start=1):
        where = f"step {number}: "
        if not isinstance(step.reward_terms, dict) or not isinstance(step.usage, dict):
            problems.append(f"{where}reward_terms and usage must be objects")
            continue
        numbers = {name: getattr(step, name) for name in ("reward", "task_reward", "score")}
        numbers |= {"latency_s": step.latency_s, **step.reward_terms, **step.usage}
        problems += [*_wrong_texts(step, STEP_TEXTS, where), *_wrong_numbers(numbers, where)]
    return next(iter(problems), "")


def _stranger(t: Trajectory, record: RunRecord | None) -> str:
    """Why the episode is none of the run that `run.json` describes; empty if it is one."""
    if record is None or record.kind != EPISODES:
        return ""
    expected = {name: record.settings.get(name) for name in ("env_id", "policy")}
    expected["tasks_sha256"] = record.inputs.get(t.split)
    for name, value in expected.items():
        if value is not None and value != getattr(t, name):
            return (
                f"its {name} is {getattr(t, name)!r:.80}, run.json says {value!r:.80}: two runs "
                "are mixed here"
            )
    return ""


def _wrong_texts(record: object, names: Iterable[str], where: str) -> Iterator[str]:
    for name in names:
        value = getattr(record, name)
        if not isinstance(value, str):
            yield f"{where}{name} is {value!r:.60}, not a text"


def _wrong_numbers(numbers: Mapping[str, Any], where: str) -> Iterator[str]:
    for name, value in numbers.items():
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            yield f"{where}{name} is {value!r:.60}, not a finite number"


def _ends_with_newline(log: Path) -> bool:
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return file.read() in (b"", b"\n")


def _n_planned(record: RunRecord | None) -> int | None:
    planned = None if record is None else record.facts.get("n_planned")
    if not isinstance(planned, dict) or not all(isinstance(n, int) for n in planned.values()):
        return None
    return sum(planned.values())
