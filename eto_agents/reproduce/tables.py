"""The paper's table from all worlds and seeds, and the difference between ETO and its control.

A cell is the mean final reward x 100 over the tasks of a split, where each task is a mean over the
training seeds, with an interval from resampling tasks. ETO minus SFT-more is a paired test over
tasks (`eto_agents.evaluation.statistics`); its average weights all columns equally. These intervals
take the trained models as given. The variation between training seeds shows in the differences by
seed, with a t interval over them if there are at least three.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eto_agents.evaluation.comparison import ENV_IDS
from eto_agents.evaluation.published import COLUMNS, PublishedRow, load_published
from eto_agents.evaluation.runs import read_run
from eto_agents.evaluation.statistics import Estimate, Paired, clustered_mean, paired
from eto_agents.markdown import markdown_table
from eto_agents.report.sections import NO_WIDTH, NO_WIDTH_NOTE
from eto_agents.worlds.base import title_of

if TYPE_CHECKING:
    from eto_agents.reproduce.run import Outcome

Scores = list[tuple[str, float]]
"""Pairs of a task and its final score in [0, 1]; each task occurs once per seed."""

Key = tuple[str, str]
"""A column: environment id and split."""


class Entry(NamedTuple):
    """The runs of a row.

    Attributes:
        label: the row's label.
        runs: seeds and folders of the runs.
    """

    label: str
    runs: Sequence[tuple[int, Path]]


class Difference(NamedTuple):
    """One row minus another.

    Attributes:
        title: the column's title, or "average".
        result: the paired test over tasks.
        by_seed: mean difference for each seed that both rows have.
    """

    title: str
    result: Paired
    by_seed: dict[int, float]

    @property
    def over_seeds(self) -> Estimate | None:
        """Mean of the differences by seed, with a 95 % t interval; None for fewer than three."""
        values = list(self.by_seed.values())
        if len(values) < 3:
            return None
        from scipy.stats import t

        mean = statistics.fmean(values)
        half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values)
        half /= math.sqrt(len(values))
        return Estimate(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Table:
    """The scores of a table.

    Attributes:
        columns: the columns, in order.
        rows: scores by label, column and seed.
        notes: notes to print below the table.
    """

    columns: list[Key]
    rows: dict[str, dict[Key, dict[int, Scores]]]
    notes: list[str]

    def cell(self, label: str, column: Key) -> Estimate | None:
        """Mean and interval in [0, 1]; None if there are no scores."""
        by_seed = self.rows[label].get(column)
        return None if not by_seed else clustered_mean(_pooled(by_seed))

    def average(self, label: str) -> float | None:
        """Mean of the columns with equal weights, in [0, 1]; None if a column is missing."""
        cells = [self.cell(label, column) for column in self.columns]
        means = [cell.mean for cell in cells if cell is not None]
        return math.fsum(means) / len(cells) if means and len(means) == len(cells) else None

    def differences(self, first: str, second: str) -> list[Difference]:
        """The first row minus the second in each column that both have, and on average."""
        if not {first, second} <= set(self.rows):
            return []
        ours, theirs = self.rows[first], self.rows[second]
        common: dict[Key, list[int]] = {}
        for column in self.columns:
            seeds = [s for s in ours.get(column, {}) if s in theirs.get(column, {})]
            if seeds:
                common[column] = seeds
        differences = []
        for column, seeds in common.items():
            mine, other = ({s: row[column][s] for s in seeds} for row in (ours, theirs))
            by_seed = {s: paired(mine[s], other[s]).difference.mean for s in seeds}
            result = paired(_pooled(mine), _pooled(other))
            differences.append(Difference(title(column), result, by_seed))
        if len(differences) > 1:
            differences.append(_average(differences, common, ours, theirs))
        return differences


def build_table(entries: Iterable[Entry], notes: Iterable[str] = ()) -> Table:
    """Read the runs of all rows.

    Raises:
        DataNotFoundError: a run is missing.
        CorruptDataError: a run is damaged.
    """
    rows: dict[str, dict[Key, dict[int, Scores]]] = {}
    for label, runs in entries:
        row = rows.setdefault(label, {})
        for seed, folder in runs:
            for split_run in read_run(folder).splits:
                row.setdefault(split_run.column, {})[seed] = list(split_run.scores)
    columns = {column for row in rows.values() for column in row}
    return Table(sorted(columns, key=_order), rows, list(notes))


def table_of(outcomes: Sequence[Outcome], labels: Mapping[str, str]) -> Table:
    """The table of a reproduction, with one row for each method of `labels`."""
    entries = []
    notes = []
    for method, label in labels.items():
        runs = [(o.seed, run) for o in outcomes if (run := o.run(method)) is not None]
        entries.append(Entry(label, runs))
        places: dict[str, list[str]] = {}
        for outcome in outcomes:
            if method in outcome.notes:
                where = f"{outcome.world} seed {outcome.seed}"
                places.setdefault(outcome.notes[method], []).append(where)
        notes += [f"{label} ({', '.join(where)}): {note}." for note, where in places.items()]
    return build_table(entries, notes)


def markdown(table: Table, published: Sequence[PublishedRow] = ()) -> str:
    """Format the table as Markdown, with published rows below it if any are given."""
    head = ["", *(title(column) for column in table.columns), "average"]
    lines = []
    for label in table.rows:
        cells = [show(table.cell(label, column)) for column in table.columns]
        lines.append([label, *cells, _points(table.average(label))])
    names = {key: name for name, key in COLUMNS.items()}
    for row in published:
        numbers = [row.values.get(names.get(column, "")) for column in table.columns]
        values = ["–" if value is None else f"{value:.1f}" for value in numbers]
        average = "–" if math.isnan(row.average) else f"{row.average:.1f}"
        where = " ".join(filter(None, (row.source, row.table)))
        about = "; ".join(filter(None, (where, "as quoted" if row.is_quoted else "", row.note)))
        lines.append([f"*{row.method}, {row.model} ({about})*", *values, average])
    text = markdown_table(head, lines)
    if published:
        text += (
            "\n\nRows in italics are published results of other models; their average is over all "
            "five columns of the paper. Results on a mini dataset are not comparable with them."
        )
    notes = [f"- {note}" for note in table.notes]
    if NO_WIDTH in text:
        notes.append(f"- {NO_WIDTH_NOTE}")
    return "\n\n".join([text, "\n".join(notes)] if notes else [text])


def markdown_differences(differences: Sequence[Difference], first: str, second: str) -> str:
    """Format the differences between two rows: mean, interval and p over tasks, and by seed."""
    head = ["", f"{first} − {second}", "p", "tasks", "by seed", "over seeds"]
    lines = []
    for title_, result, by_seed in differences:
        seeds = ", ".join(f"{100 * value:+.1f}" for value in by_seed.values())
        over = Difference(title_, result, by_seed).over_seeds
        p = "–" if math.isnan(result.p) else f"{result.p:.3f}"
        cells = [title_, show(result.difference, "+"), p, str(result.n_tasks), seeds]
        lines.append([*cells, "–" if over is None else show(over, "+")])
    return markdown_table(head, lines)


def record(table: Table, differences: Sequence[Difference]) -> dict[str, Any]:
    """The table and the differences as JSON-able values."""
    return {
        "rows": {
            label: {title(c): table.cell(label, c) for c in table.columns} for label in table.rows
        },
        "average": {label: table.average(label) for label in table.rows},
        "differences": [
            {
                "column": d.title,
                "mean": d.result.difference.mean,
                "interval": d.result.difference[1:],
                "p": d.result.p,
                "n_tasks": d.result.n_tasks,
                "by_seed": d.by_seed,
                "over_seeds": d.over_seeds,
            }
            for d in differences
        ],
        "notes": table.notes,
    }


def published_rows(methods: Iterable[str], model: str = "Llama-2-7B-Chat") -> list[PublishedRow]:
    """The paper's rows for some methods, in the order of `methods`."""
    rows = [row for row in load_published().rows if row.source == "eto"]
    return [
        row
        for method in methods
        for row in rows
        if row.method == method and row.model == model and row.metric == "reward"
    ]


def title(column: Key) -> str:
    """A column's title: the world's title and the split."""
    return f"{title_of(column[0])} {column[1]}"


def show(estimate: Estimate | None, sign: str = "") -> str:
    """Format an estimate x 100, such as ``63.1 [60.0, 66.2]``."""
    if estimate is None or math.isnan(estimate.mean):
        return "–"
    mean, low, high = (None if x is None else f"{100 * x:{sign}.1f}" for x in estimate)
    if low is None or high is None:
        return f"{mean}"
    # If all values are equal, resampling says nothing about the interval.
    return f"{mean} {NO_WIDTH}" if estimate.low == estimate.high else f"{mean} [{low}, {high}]"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _pooled(by_seed: Mapping[int, Scores]) -> Scores:
    return [pair for scores in by_seed.values() for pair in scores]


def _average(
    differences: Sequence[Difference],
    common: Mapping[Key, Sequence[int]],
    ours: Mapping[Key, Mapping[int, Scores]],
    theirs: Mapping[Key, Mapping[int, Scores]],
) -> Difference:
    """The mean difference over columns with equal weights.

    All tasks are pooled, each weighted so that the columns contribute equally to the mean whatever
    their number of tasks.
    """
    n_all = sum(difference.result.n_tasks for difference in differences)
    mine: list[tuple[tuple[Key, str], float]] = []
    other: list[tuple[tuple[Key, str], float]] = []
    for (column, seeds), difference in zip(common.items(), differences, strict=True):
        weight = n_all / (len(differences) * difference.result.n_tasks)
        for rows, target in ((ours, mine), (theirs, other)):
            for seed in seeds:
                target += [((column, task), weight * x) for task, x in rows[column][seed]]
    shared = set.intersection(*(set(d.by_seed) for d in differences))
    by_seed = {s: statistics.fmean(d.by_seed[s] for d in differences) for s in sorted(shared)}
    return Difference("average", paired(mine, other), by_seed)


def _order(column: Key) -> tuple[int, str]:
    worlds = ENV_IDS
    return (worlds.index(column[0]) if column[0] in worlds else len(worlds)), column[1]
