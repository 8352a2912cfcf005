"""`write_replay`: one self-contained HTML file with every episode of one or more runs.

The episodes are embedded in `replay.html` as a gzipped JSON value that stores equal strings once;
`replay.js` displays them. The page treats what agents and worlds wrote as data, never as markup: it
is encoded in base64, the script puts it into text nodes only, and the content security policy
allows the page's own script and style but no network access.
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

from eto_agents.episode_log import EpisodeLog, labelled, read_log
from eto_agents.evaluation import failures
from eto_agents.react.tools import uses_tools, with_calls
from eto_agents.trajectory import PLAYED, STEP_TEXTS, Message, Step, Trajectory
from eto_agents.worlds.webshop import OPTION_NAMES
from eto_envs.errors import DataError
from eto_envs.files import write_whole

PAYLOAD_VERSION = 1
MARK = "<!doctype html>\n<!-- eto replay -->\n"
"""How every page begins; a file that begins otherwise is never overwritten."""


def write_replay(runs: Sequence[str | Path], out: str | Path) -> int:
    """Write a page of one or more runs; nothing is written if there is an error.

    Args:
        runs: run folders or files of episodes, or ``AGENT=FOLDER`` to name the agent.
        out: the page's file; an existing page is replaced.

    Returns:
        The size of the page in bytes.

    Raises:
        DataNotFoundError: a run is missing or empty.
        CorruptDataError: a run is damaged.
        DataError: two runs are of different task sets, or `out` exists and is no page.
    """
    path = Path(out)
    _refuse_to_overwrite(path)
    logs = [read_log(*labelled(str(run)), keep_messages=uses_tools) for run in runs]
    content = page(logs).encode()
    try:
        write_whole(path, content)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    return len(content)


def page(runs: Sequence[EpisodeLog]) -> str:
    """The content of the page; the same runs give the same content.

    Raises:
        DataError: there are no runs, or two of them have different task sets of the same name.
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
    """What the page displays; long texts are replaced by their positions in ``strings``."""
    strings = _Strings()
    labels = _distinct_labels(runs)
    return {
        "version": PAYLOAD_VERSION,
        "runs": [_run_record(run, label) for run, label in zip(runs, labels, strict=True)],
        "kinds": [
            {"name": kind, "label": label, "rule": rule}
            for kind, (label, rule) in failures.rules().items()
        ],
        "played": list(PLAYED),  # the statuses that count in means
        "option_names": sorted(OPTION_NAMES),
        "episodes": [
            _episode_record(number, episode, strings)
            for number, run in enumerate(runs)
            for episode in run.episodes
        ],
        "strings": strings.texts,
    }


class _Strings:
    """A table of strings without duplicates."""

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
    replies = t.replies if len(t.replies) == len(t.steps) else [None] * len(t.steps)
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
        "steps": [
            _step_record(step, strings, reply) for step, reply in zip(t.steps, replies, strict=True)
        ],
    }
    return {name: value for name, value in record.items() if value not in (0, "", [])}


def _step_record(step: Step, strings: _Strings, reply: Message | None) -> dict[str, Any]:
    """The step's fields, except those that are 0, false or empty.

    Args:
        step: the step.
        strings: the page's table of strings.
        reply: the agent's message, in conversations with tool calls.
    """
    texts = {name: getattr(step, name) for name in STEP_TEXTS}
    if reply is not None:
        texts["text"] = with_calls(reply)
    record: dict[str, Any] = {name: strings.position(text) for name, text in texts.items()}
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
    """Refuse to compare episodes of different tasks.

    Raises:
        DataError: there are no runs, or two of them have different task sets of the same name.
    """
    if not runs:
        raise DataError("no runs: name at least one run's folder")
    task_sets: dict[tuple[str, str], tuple[str, Path]] = {}
    for run in runs:
        for t in run.episodes:
            sha256, folder = task_sets.setdefault((t.env_id, t.split), (t.tasks_sha256, run.path))
            if sha256 != t.tasks_sha256:
                raise DataError(
                    f"{folder} and {run.path} have different task sets of the name "
                    f"{t.env_id} {t.split} ({sha256[:12]}… and {t.tasks_sha256[:12]}…), which are "
                    "not comparable: write a page for each"
                )


def _distinct_labels(runs: Sequence[EpisodeLog]) -> list[str]:
    """The runs' labels, with the names of their folders if the labels are not distinct."""
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
                raise DataError(f"{path} exists and is no replay page: choose another name")


def _asset(name: str) -> str:
    return (files("eto_agents.report") / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
