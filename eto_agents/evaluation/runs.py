"""The run of an agent as reports need it: its episodes by split, with their summary.

`eto eval` writes a run: `run.json`, `episodes.jsonl` (read by `eto_agents.episode_log`) and, once
it is finished, `results.json`. Reports compute everything from the episodes, so that an unfinished
run is read like a finished one.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from eto_agents.episode_log import EpisodeLog, labelled, read_log
from eto_agents.evaluation.results import (
    AgentErrors,
    Results,
    SplitResult,
    counted_scores,
    n_tokens,
    summarise,
)
from eto_agents.evaluation.samples import best_of_each, by_task_and_seed
from eto_agents.runs import EPISODES, RunRecord, read_record
from eto_agents.trajectory import Trajectory
from eto_envs.errors import DataError, DataNotFoundError


@dataclass(frozen=True, eq=False)  # no slots: properties are cached
class SplitRun:
    """The episodes of a run on one task set.

    Attributes:
        env_id: the Gymnasium id.
        dataset: the dataset's name.
        split: the split's name.
        sha256: the task set's hash.
        max_steps: the step limit that overrides the protocol's, or None.
        n_planned: number of samples that are to be played; None if the run does not state it.
        agent_errors: how an episode in which the agent failed counts.
        samples: the last record of each sample, without its conversation.
    """

    env_id: str
    dataset: str
    split: str
    sha256: str
    max_steps: int | None
    n_planned: int | None
    agent_errors: AgentErrors
    samples: tuple[Trajectory, ...]

    @functools.cached_property
    def episodes(self) -> tuple[Trajectory, ...]:
        """One episode for each task and seed: the best one of several samples."""
        return tuple(best_of_each(by_task_and_seed(self.samples)))

    @property
    def n_samples(self) -> int:
        """Number of samples of a task under one seed; 1 except for Best-of-N."""
        return max((sample.sample for sample in self.samples), default=0) + 1

    @property
    def n_ended(self) -> int:
        """Number of samples that have ended; cancelled ones will be played again."""
        return sum(sample.status != "cancelled" for sample in self.samples)

    @property
    def column(self) -> tuple[str, str]:
        """Environment id and split: its column in a table."""
        return self.env_id, self.split

    @property
    def is_complete(self) -> bool:
        """Whether every planned sample has ended."""
        return self.n_planned is not None and self.n_ended >= self.n_planned

    @property
    def counted(self) -> tuple[Trajectory, ...]:
        """The episodes that count in means."""
        return tuple(e for e, _ in counted_scores(self.episodes, self.agent_errors))

    @property
    def scores(self) -> list[tuple[str, float]]:
        """Task and final score of each counted episode."""
        scored = counted_scores(self.episodes, self.agent_errors)
        return [(episode.task_id, score) for episode, score in scored]

    @functools.cached_property
    def kinds(self) -> dict[str, SplitRun]:
        """The episodes by task type, in alphabetical order."""
        names = sorted({e.kind for e in self.samples})
        return {
            name: replace(self, samples=tuple(e for e in self.samples if e.kind == name))
            for name in names
        }

    @functools.cached_property
    def summary(self) -> SplitResult:
        """Means and counts over the episodes so far; tokens and seconds are of all samples."""
        result = summarise(
            self.split,
            self.sha256,
            self.episodes,
            n_planned=len(self.episodes),
            agent_errors=self.agent_errors,
        )
        return replace(
            result,
            tokens=n_tokens(self.samples),
            wall_s=sum(sample.wall_s for sample in self.samples),
        )


@dataclass(frozen=True, slots=True)
class Run:
    """The content of a run's folder.

    Attributes:
        label: what tables call the agent: the policy's name, or what the caller gave.
        folder: the folder.
        policy: the policy's name.
        is_finished: whether the folder has `results.json`.
        splits: the splits in the order of `run.json`, without those that have no episodes.
        provenance: what is needed to repeat the run, as far as it is recorded.
    """

    label: str
    folder: Path
    policy: str
    is_finished: bool
    splits: tuple[SplitRun, ...]
    provenance: Mapping[str, Any]

    @property
    def model(self) -> str:
        """Identifies the agent's model; prompts are left out, as they differ by world."""
        policy = self.provenance.get("policy", {})
        parts = [policy.get(key) for key in ("model", "model_provenance", "sampling")]
        return json.dumps(parts, sort_keys=True, default=str)


def read_run(folder: Path, label: str = "") -> Run:
    """Read a run's folder.

    Args:
        folder: what `eto eval --out` wrote.
        label: what the report calls the agent; by default the policy's name.

    Raises:
        DataNotFoundError: the folder is no run, or no episode has ended yet.
        CorruptDataError: a file is damaged; names the file and the line.
        DataError: a file cannot be read, or another release of eto-gym wrote it.
    """
    record = read_record(folder)
    if record is None or record.kind != EPISODES:
        fault = "it has no run.json" if record is None else f"its kind is {record.kind!r}"
        raise DataNotFoundError(
            f"{folder} is no evaluation: {fault}; name a folder that `eto eval --out` wrote"
        )
    results = Results.load(folder) if (folder / "results.json").exists() else None
    log = read_log(folder, label)
    splits = [_split_run(split, record, results, log) for split in record.inputs]
    return Run(
        label=log.label,
        folder=folder,
        policy=record.settings["policy"],
        is_finished=results is not None,
        splits=tuple(split_run for split_run in splits if split_run.samples),
        provenance={
            "policy": record.settings.get("policy_provenance", {}),
            "env_args": record.settings["env_args"],
        }
        | (results.provenance if results else {}),
    )


def read_runs(names: Sequence[str]) -> list[Run]:
    """Read runs given as ``FOLDER`` or ``AGENT=FOLDER``.

    Raises:
        DataError: as `read_run`; also when a folder is given twice.
    """
    runs: list[Run] = []
    for text in names:
        run = read_run(*labelled(text))
        if any(other.folder.resolve() == run.folder.resolve() for other in runs):
            raise DataError(f"{run.folder} is given twice")
        runs.append(run)
    return runs


def _split_run(split: str, record: RunRecord, results: Results | None, log: EpisodeLog) -> SplitRun:
    episodes = tuple(episode for episode in log.episodes if episode.split == split)
    n_planned = (log.n_planned or {}).get(split)
    agent_errors = "exclude"
    if results is not None and split in results.splits:
        # run.json takes precedence: unlike results.json it is also of a command that has not
        # finished.
        n_finished = results.splits[split].n_planned * results.splits[split].samples.get("n", 1)
        n_planned = n_planned or n_finished
        agent_errors = results.provenance.get("agent_errors", "exclude")
    return SplitRun(
        env_id=record.settings["env_id"],
        dataset=episodes[0].dataset if episodes else "",
        split=split,
        sha256=record.inputs[split],
        max_steps=record.settings["env_args"].get("max_steps"),
        n_planned=n_planned,
        agent_errors=cast(AgentErrors, agent_errors),
        samples=episodes,
    )
