"""One HTML file with every episode of one or more runs: a page that needs nothing but itself.

Here runs are read and checked, and put into the page `replay.html` as one gzipped JSON value in
which equal texts are stored once; `replay.js` shows it. What agents and worlds wrote is data to the
page, never markup: it is packed in base64, the script puts it into text nodes only, and the content
security policy allows the page's own script and style and no network at all. Why an episode
failed is `eto_agents.evaluation.failures`' part; figures with intervals are the report's.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from eto_agents.evaluation import failures
from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import STATUSES, Step, Trajectory
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError
from eto_envs.files import write_whole

PAYLOAD_VERSION = 1
MARK = "<!doctype html>\n<!-- eto replay -->\n"
"""How every page begins: a file that does not is never overwritten."""

_STRING_FIELDS = ("action", "observation", "text", "thought")


@dataclass(frozen=True)
class Run:
    """A run as far as it has been played.

    Attributes:
        folder: where it is.
        label: its name on the page.
        record: what `run.json` says; empty if there is none.
        episodes: the last record of every episode, in the order of the log.
        is_finished: the run wrote its results.
        has_unfinished_line: the log ends in the middle of a line, which was left out.
    """

    folder: Path
    label: str
    record: Mapping[str, Any]
    episodes: Sequence[Trajectory]
    is_finished: bool
    has_unfinished_line: bool


def read_run(folder: str | Path) -> Run:
    """Read a run's folder, or its episode log alone; a run that still goes on is read so far.

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
        ends_whole = _ends_with_newline(log)
        latest = {trajectory.key: trajectory for trajectory in _checked(log)}
    except OSError as error:
        raise DataError(f"cannot read {log}: {error.strerror}") from error
    if not latest:
        raise DataNotFoundError(f"{log} has no whole episode yet: wait for the first, or run it")
    episodes = list(latest.values())
    return Run(
        folder=path,
        label=episodes[0].policy,
        record=_read_record(log.parent / "run.json"),
        episodes=episodes,
        is_finished=(log.parent / "results.json").is_file(),
        has_unfinished_line=not ends_whole,
    )


def write_replay(folders: Sequence[str | Path], out: str | Path) -> int:
    """Write the page of one or more runs; nothing is written if anything is wrong.

    Args:
        folders: the runs' folders.
        out: the page's file; an earlier page is replaced.

    Returns:
        The page's size in bytes.

    Raises:
        DataNotFoundError: a run is not there or empty.
        CorruptDataError: a run is damaged.
        DataError: runs of different panels, or `out` is something else than a page.
    """
    path = Path(out)
    _refuse_to_overwrite(path)
    content = page([read_run(folder) for folder in folders]).encode()
    try:
        write_whole(path, content)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    return len(content)


def page(runs: Sequence[Run]) -> str:
    """The page as text; the same runs give the same text.

    Raises:
        DataError: no runs, or two of them played different tasks under one name.
    """
    _check_panels(runs)
    text = json.dumps(_payload(runs), allow_nan=False, separators=(",", ":"))
    packed = base64.b64encode(gzip.compress(text.encode(), compresslevel=9, mtime=0)).decode()
    style, script = _asset("replay.css"), _asset("replay.js")
    policy = (
        f"default-src 'none'; script-src '{_csp_hash(script)}'; style-src '{_csp_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    filled = _asset("replay.html")
    for name, value in (("policy", policy), ("style", style), ("script", script), ("data", packed)):
        filled = filled.replace("{{" + name + "}}", value, 1)
    return MARK + filled


def _payload(runs: Sequence[Run]) -> dict[str, Any]:
    """All that the page shows; texts are positions in ``strings``."""
    strings = _Strings()
    labels = _distinct_labels(runs)
    return {
        "version": PAYLOAD_VERSION,
        "runs": [_run_record(run, label) for run, label in zip(runs, labels, strict=True)],
        "kinds": [
            {"name": kind, "label": failures.RULES[kind][0], "rule": failures.RULES[kind][1]}
            for kind in failures.KINDS
        ],
        "statuses": list(STATUSES),
        "option_names": sorted(failures.OPTION_NAMES),
        "episodes": [
            _episode_record(number, episode, strings)
            for number, run in enumerate(runs)
            for episode in run.episodes
        ],
        "strings": strings.texts,
    }


class _Strings:
    """Texts by position, each one once."""

    def __init__(self) -> None:
        self.texts: list[str] = [""]
        self._positions = {"": 0}

    def position(self, text: str) -> int:
        position = self._positions.setdefault(text, len(self.texts))
        if position == len(self.texts):
            self.texts.append(text)
        return position


def _run_record(run: Run, label: str) -> dict[str, Any]:
    first = run.episodes[0]
    return {
        "label": label,
        "folder": run.folder.name,
        "env_id": first.env_id,
        "dataset": first.dataset,
        "policy": first.policy,
        "is_finished": run.is_finished,
        "has_unfinished_line": run.has_unfinished_line,
        "provenance": json.dumps(run.record.get("policy_provenance", {}), ensure_ascii=False),
    }


def _episode_record(run: int, t: Trajectory, strings: _Strings) -> dict[str, Any]:
    record = {
        "run": run,
        "env_id": t.env_id,
        "split": t.split,
        "task_id": t.task_id,
        "kind": t.kind,
        "seed": t.seed,
        "sample": t.sample,
        "status": t.status,
        "score": _rounded(t.score),
        "success": t.success,
        "wall_s": _rounded(t.wall_s),
        "goal": strings.position(t.goal),
        "observation": strings.position(t.initial_observation),
        "error": strings.position(t.error),
        "failures": [[f.kind, f.detail, list(f.steps)] for f in failures.failures(t)],
        "steps": [_step_record(step, strings) for step in t.steps],
    }
    return {name: value for name, value in record.items() if value not in (0, "", [])}


def _step_record(step: Step, strings: _Strings) -> dict[str, Any]:
    """The step without what is 0, false or empty."""
    record: dict[str, Any] = {
        name: strings.position(getattr(step, name)) for name in _STRING_FIELDS
    }
    record |= {
        "reward": _rounded(step.reward),
        "task_reward": _rounded(step.task_reward),
        "score": _rounded(step.score),
        "terms": {name: _rounded(value) for name, value in step.reward_terms.items()},
        "usage": {name: _rounded(value) for name, value in step.usage.items() if value},
        "latency_s": _rounded(step.latency_s),
        "is_invalid": not step.is_valid,
    }
    return {name: value for name, value in record.items() if value}


def _rounded(value: float) -> float:
    return round(value, 6)


def _checked(log: Path) -> Iterator[Trajectory]:
    """The log's trajectories, each one fit to be shown."""
    number = 0
    try:
        for number, trajectory in enumerate(TrajectoryStore(log).read(), start=1):
            if problem := _problem(trajectory):
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
    texts = ("env_id", "split", "panel_sha256", "task_id", "kind", "goal", "policy", "error")
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
        problems += [*_wrong_texts(step, _STRING_FIELDS, where), *_wrong_numbers(numbers, where)]
    return next(iter(problems), "")


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


def _read_record(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise CorruptDataError(f"{path}, line {line}: damaged ({error})") from error
    if not isinstance(record, dict):
        raise CorruptDataError(f"{path}, line 1: not a JSON object")
    return record


def _check_panels(runs: Sequence[Run]) -> None:
    """Refuse to put episodes side by side that are of different tasks."""
    if not runs:
        raise DataError("no runs: name at least one folder")
    known: dict[tuple[str, str], tuple[str, Path]] = {}
    for run in runs:
        for t in run.episodes:
            sha256, folder = known.setdefault((t.env_id, t.split), (t.panel_sha256, run.folder))
            if sha256 != t.panel_sha256:
                raise DataError(
                    f"{folder} and {run.folder} played different panels under the name "
                    f"{t.env_id} {t.split} ({sha256[:12]}… and {t.panel_sha256[:12]}…): their "
                    "tasks cannot be compared; make one page for each"
                )


def _distinct_labels(runs: Sequence[Run]) -> list[str]:
    """The policies' names, with the folders' where those are not distinct."""
    labels = [run.label for run in runs]
    if len(set(labels)) < len(labels):
        labels = [f"{run.label} · {run.folder.resolve().name}" for run in runs]
    if len(set(labels)) < len(labels):
        labels = [f"{label} #{number}" for number, label in enumerate(labels, start=1)]
    return labels


def _refuse_to_overwrite(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path} is a folder: name a file, such as {path / 'replay.html'}")
    if path.exists():
        with path.open("rb") as file:
            if file.read(len(MARK)) != MARK.encode():
                raise DataError(f"{path} is there and no replay page: choose another name")


def _asset(name: str) -> str:
    return (files("eto_agents.evaluation") / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
