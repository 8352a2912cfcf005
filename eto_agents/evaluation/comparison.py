"""Which runs can be compared, and which of their differences are significant.

Runs become rows (agents) and columns (world and split), as in the paper's Table 2. All results of a
column are of one task set under one step limit; others are refused, because means over different
tasks are not comparable. Differences are tested task by task, and the p-values of a table are
corrected together (Holm); only significant differences mark a row as the best.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eto_agents.evaluation.published import COLUMNS
from eto_agents.evaluation.runs import Run, SplitRun
from eto_agents.evaluation.statistics import ALPHA, Paired, holm, paired
from eto_agents.worlds import all_worlds
from eto_agents.worlds.base import title_of
from eto_envs.errors import DataError, UnknownNameError

PAPER_COLUMNS = tuple(COLUMNS.values())
"""Environment id and split of the columns of the paper's Table 2, from left to right."""

ETO_DATASETS = {world.env_id: world.dataset for world in all_worlds() if world.columns}
"""The datasets whose task sets are those of the paper."""

ENV_IDS = tuple(world.env_id for world in all_worlds())
"""Environment ids of all known worlds, in the order of tables."""


class Column(NamedTuple):
    """A task set under a step limit.

    Attributes:
        env_id: the Gymnasium id.
        split: the split's name.
        dataset: the dataset's name.
        sha256: the task set's hash.
        max_steps: the step limit that overrides the protocol's, or None.
    """

    env_id: str
    split: str
    dataset: str
    sha256: str
    max_steps: int | None

    @property
    def key(self) -> tuple[str, str]:
        """Environment id and split."""
        return self.env_id, self.split

    @property
    def title(self) -> str:
        """World and split as a heading."""
        return f"{title_of(self.env_id)} {self.split}"

    @property
    def difference_from_paper(self) -> str:
        """Why published results are not comparable with this column; empty if they are."""
        if self.key not in PAPER_COLUMNS:
            return "the paper has no such task set"
        if self.dataset != ETO_DATASETS[self.env_id]:
            return f"played on the dataset {self.dataset!r}, whose task set is not the paper's"
        if self.max_steps is not None:
            return f"played with a limit of {self.max_steps} steps instead of the paper's"
        return ""


@dataclass(frozen=True, slots=True)
class Row:
    """An agent's row.

    Attributes:
        label: the agent's name in tables.
        splits: its runs by column key.
    """

    label: str
    splits: Mapping[tuple[str, str], SplitRun]


class Difference(NamedTuple):
    """The difference of two agents in one column.

    Attributes:
        first: label of the agent that is compared.
        second: label of the agent whose score is subtracted.
        column: the column.
        result: the difference and its test.
        p_holm: its p-value, corrected for all comparisons of the table.
    """

    first: str
    second: str
    column: Column
    result: Paired
    p_holm: float

    @property
    def is_significant(self) -> bool:
        """Whether the corrected p-value is below `ALPHA`."""
        return self.p_holm < ALPHA


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs that can be compared, as the rows and columns of one table."""

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]

    def row(self, label: str) -> Row:
        """The row of an agent.

        Raises:
            UnknownNameError: there is no such agent.
        """
        for row in self.rows:
            if row.label == label:
                return row
        raise UnknownNameError("agent", label, [row.label for row in self.rows])

    def against(self, label: str) -> list[Difference]:
        """Every other agent minus this one, in all columns that both have."""
        reference = self.row(label)
        others = [row for row in self.rows if row is not reference]
        return self._differences([(row, reference) for row in others])

    def all_pairs(self) -> list[Difference]:
        """The difference of each pair of agents, in all columns that both have."""
        return self._differences(itertools.combinations(self.rows, 2))

    def best(self) -> set[tuple[str, Column]]:
        """Label and column of each agent that is significantly better than every other one.

        P-values are corrected for all pairs of the table, since the winner is picked after the
        fact. A column has no best agent if its means are not over the same tasks.
        """
        wins: dict[tuple[str, Column], int] = {}
        for difference in self.all_pairs():
            if difference.is_significant:
                is_first = difference.result.difference.mean > 0
                winner = difference.first if is_first else difference.second
                key = winner, difference.column
                wins[key] = wins.get(key, 0) + 1
        return {
            (label, column)
            for (label, column), n_wins in wins.items()
            if n_wins == len(self.in_column(column)) - 1 and not self.mismatch(column)
        }

    def in_column(self, column: Column) -> list[tuple[Row, SplitRun]]:
        """The agents that have played a column, with their runs."""
        return [(row, row.splits[column.key]) for row in self.rows if column.key in row.splits]

    def mismatch(self, column: Column) -> str:
        """Why this column's means are not over the same tasks; empty if they are."""
        split_runs = [split_run for _, split_run in self.in_column(column)]
        if not all(split_run.is_complete for split_run in split_runs):
            return "a run is not finished"
        if len({frozenset(e.task_id for e in split_run.counted) for split_run in split_runs}) > 1:
            return "the means are not over the same tasks"
        return ""

    def _differences(self, pairs: Iterable[tuple[Row, Row]]) -> list[Difference]:
        results = [
            (first, second, column, result)
            for first, second in pairs
            for column in self.columns
            if column.key in first.splits and column.key in second.splits
            for result in [
                paired(first.splits[column.key].scores, second.splits[column.key].scores)
            ]
        ]
        corrected = holm([result.p for *_, result in results])
        return [
            Difference(first.label, second.label, column, result, p)
            for (first, second, column, result), p in zip(results, corrected, strict=True)
        ]


def compare(runs: Sequence[Run]) -> Comparison:
    """Put runs into one table.

    Raises:
        DataError: two runs of the same world and split differ in their task set or step limit.
    """
    if not runs:
        raise DataError("nothing to report: name at least one run's folder")
    columns: dict[tuple[str, str], tuple[Column, Run]] = {}
    for run in runs:
        for split_run in run.splits:
            column = Column(
                *split_run.column, split_run.dataset, split_run.sha256, split_run.max_steps
            )
            known, owner = columns.setdefault(split_run.column, (column, run))
            if column != known:
                raise DataError(_refusal(known, owner, column, run))
    return Comparison(_rows(runs), tuple(sorted((c for c, _ in columns.values()), key=_position)))


def average(row: Row) -> float:
    """The paper's average: its five columns with equal weight; NaN if one is missing."""
    means = []
    for key in PAPER_COLUMNS:
        if key not in row.splits or not row.splits[key].is_complete:
            return float("nan")
        means.append(row.splits[key].summary.reward.mean)
    return math.fsum(means) / len(means)


def _rows(runs: Sequence[Run]) -> tuple[Row, ...]:
    """A row for each agent; an agent's runs in several worlds are joined into one row."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.label, run.model), []).append(run)
    n_models = {label: sum(other == label for other, _ in groups) for label, _ in groups}
    rows = []
    for (label, _), members in groups.items():
        keys = [split_run.column for run in members for split_run in run.splits]
        if n_models[label] == 1 and len(set(keys)) == len(keys):
            splits = {split_run.column: split_run for run in members for split_run in run.splits}
            rows.append(Row(label, splits))
            continue
        # One name for two runs of a task set, or for two models: add the folder's name.
        for run in members:
            splits = {split_run.column: split_run for split_run in run.splits}
            rows.append(Row(f"{label} ({run.folder.resolve().name})", splits))
    labels = [row.label for row in rows]
    for label in labels:
        if labels.count(label) > 1:
            raise DataError(f"two runs are called {label!r}: name them, as in NAME=FOLDER")
    return tuple(rows)


def _position(column: Column) -> tuple[int, str]:
    in_paper = column.key in PAPER_COLUMNS
    worlds = ENV_IDS
    if column.env_id not in worlds:
        return len(worlds) * 10, column.title
    within = PAPER_COLUMNS.index(column.key) if in_paper else 9
    return worlds.index(column.env_id) * 10 + within, column.title


def _refusal(known: Column, owner: Run, column: Column, run: Run) -> str:
    where = f"{owner.folder} and {run.folder} cannot share the column {column.title!r}"
    if known.sha256 != column.sha256:
        why = (
            f"they played different task sets (dataset {known.dataset!r}, sha256 "
            f"{known.sha256[:12]}; dataset {column.dataset!r}, sha256 {column.sha256[:12]}), and "
            "means over different tasks are not comparable"
        )
        remedy = "rerun one of them with the other's --dataset"
    elif known.max_steps != column.max_steps:
        limits = [
            f"{limit} steps" if limit else "the protocol's" for limit in _limits(known, column)
        ]
        why = f"their step limits differ ({limits[0]}; {limits[1]})"
        remedy = "rerun one of them with the other's --max-steps"
    else:
        why = f"their datasets have different names ({known.dataset!r}; {column.dataset!r})"
        remedy = "rerun one of them with the other's --dataset"
    return f"{where}: {why}. Report them separately (`eto report {run.folder}`), or {remedy}."


def _limits(*columns: Column) -> list[int | None]:
    return [column.max_steps for column in columns]
