"""One HTML file with every episode of one or more runs: a page that needs nothing but itself.

Here runs are put into the page `replay.html` as one gzipped JSON value in which equal texts are
stored once; `replay.js` shows it. What agents and worlds wrote is data to the page, never markup:
it is packed in base64, the script puts it into text nodes only, and the content security policy
allows the page's own script and style and no network at all. Not here: reading the runs
(`replay_runs`), why an episode failed (`failures`), figures with intervals (the report).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from eto_agents.episode_log import STEP_TEXTS, EpisodeLog, labelled, read_log
from eto_agents.evaluation import failures
from eto_agents.trajectory import PLAYED, Step, Trajectory
from eto_agents.worlds.webshop import OPTION_NAMES
from eto_envs.errors import DataError
from eto_envs.files import write_whole

PAYLOAD_VERSION = 1
MARK = "<!doctype html>\n<!-- eto replay -->\n"
"""How every page begins: a file that does not is never overwritten."""


def write_replay(runs: Sequence[str | Path], out: str | Path) -> int:
    """Write the page of one or more runs; nothing is written if anything is wrong.

    Args:
        runs: the runs' folders, or ``AGENT=FOLDER`` to name the agent.
        out: the page's file; an earlier page is replaced.

    Returns:
        The page's size in bytes.

    Raises:
        DataNotFoundError: a run is not there or empty.
        CorruptDataError: a run is damaged.
        DataError: runs of different task sets, or `out` is something else than a page.
    """
    path = Path(out)
    _refuse_to_overwrite(path)
    content = page([read_log(*labelled(str(run))) for run in runs]).encode()
    try:
        write_whole(path, content)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    return len(content)


def page(runs: Sequence[EpisodeLog]) -> str:
    """The page as text; the same runs give the same text.

    Raises:
        DataError: no runs, or two of them played different tasks under one name.
    """
    _check_task_sets(runs)
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


def _payload(runs: Sequence[EpisodeLog]) -> dict[str, Any]:
    """All that the page shows; texts are positions in ``strings``."""
    strings = _Strings()
    labels = _distinct_labels(runs)
    return {
        "version": PAYLOAD_VERSION,
        "runs": [_run_record(run, label) for run, label in zip(runs, labels, strict=True)],
        "kinds": [
            {"name": kind, "label": label, "rule": rule}
            for kind, (label, rule) in failures.rules().items()
        ],
        "played": list(PLAYED),  # the statuses that enter a mean
        "option_names": sorted(OPTION_NAMES),
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


def _run_record(run: EpisodeLog, label: str) -> dict[str, Any]:
    first = run.episodes[0]
    return {
        "label": label,
        "folder": run.path.name,
        "env_id": first.env_id,
        "dataset": first.dataset,
        "policy": first.policy,
        "n_planned": None if run.n_planned is None else sum(run.n_planned.values()),
        "is_finished": run.is_finished,
        "has_unfinished_line": run.has_unfinished_line,
        "provenance": json.dumps(
            run.record.settings.get("policy_provenance", {}) if run.record else {},
            ensure_ascii=False,
        ),
    }


def _episode_record(run: int, t: Trajectory, strings: _Strings) -> dict[str, Any]:
    record = {
        "run": run,
        "env_id": t.env_id,
        "world": t.world,
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
    record: dict[str, Any] = {name: strings.position(getattr(step, name)) for name in STEP_TEXTS}
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


def _check_task_sets(runs: Sequence[EpisodeLog]) -> None:
    """Refuse to put episodes side by side that are of different tasks."""
    if not runs:
        raise DataError("no runs: name at least one folder")
    known: dict[tuple[str, str], tuple[str, Path]] = {}
    for run in runs:
        for t in run.episodes:
            sha256, folder = known.setdefault((t.env_id, t.split), (t.tasks_sha256, run.path))
            if sha256 != t.tasks_sha256:
                raise DataError(
                    f"{folder} and {run.path} played different task sets under the name "
                    f"{t.env_id} {t.split} ({sha256[:12]}… and {t.tasks_sha256[:12]}…): their "
                    "tasks cannot be compared; make one page for each"
                )


def _distinct_labels(runs: Sequence[EpisodeLog]) -> list[str]:
    """The policies' names, with the folders' where those are not distinct."""
    labels = [run.label for run in runs]
    if len(set(labels)) < len(labels):
        labels = [f"{run.label} · {run.path.resolve().name}" for run in runs]
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
    return (files("eto_agents.report") / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
