"""The paper's table over all worlds and seeds, and the difference between ETO and its control.

A cell is the mean final reward x 100 over the tasks of a split, where each task's reward is first
averaged over the training seeds; its interval resamples tasks. ETO minus SFT-more is tested task by
task (`eto_agents.evaluation.statistics`), and its average gives all columns equal weight. These
intervals take the trained models as given. The variation between training seeds shows in the
differences of the single seeds, with a t interval over them if there are three or more.
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
from eto_agents.markdown import Markdown, escape_markdown, markdown_table
from eto_agents.report.sections import NO_INTERVAL, NO_INTERVAL_NOTE
from eto_agents.worlds.base import title_of

if TYPE_CHECKING:
    from eto_agents.reproduce.outcome import Outcome

Scores = list[tuple[str, float]]
"""Pairs of task and final score; a task occurs once for each seed."""

Key = tuple[str, str]
"""Environment id and split."""


class Entry(NamedTuple):
    """The runs of a row.

    Attributes:
        label: the row's label.
        runs: seeds and run folders.
    """

    label: str
    runs: Sequence[tuple[int, Path]]


class Difference(NamedTuple):
    """One row minus another.

    Attributes:
        title: the column's title, or "average".
        result: the paired test over tasks.
        by_seed: mean difference by seed, of the seeds that both rows have.
    """

    title: str
    result: Paired
    by_seed: dict[int, float]

    @property
    def over_seeds(self) -> Estimate | None:
        """Mean of the seeds' differences with a 95 % t interval; None for fewer than 3 seeds."""
        values = list(self.by_seed.values())
        if len(values) < 3:
            return None
        from scipy.stats import t

        mean = statistics.fmean(values)
        standard_error = statistics.stdev(values) / math.sqrt(len(values))
        half_width = float(t.ppf(0.975, len(values) - 1)) * standard_error
        return Estimate(mean, mean - half_width, mean + half_width)


@dataclass(frozen=True)
class Table:
    """Scores by row and column.

    Attributes:
        columns: the columns in order.
        rows: scores by label, column and seed.
        notes: sentences to print below the table.
    """

    columns: list[Key]
    rows: dict[str, dict[Key, dict[int, Scores]]]
    notes: list[str]

    def cell(self, label: str, column: Key) -> Estimate | None:
        """Mean and interval in [0, 1]; None if nothing was played."""
        by_seed = self.rows[label].get(column)
        return None if not by_seed else clustered_mean(_pooled(by_seed))

    def average(self, label: str) -> float | None:
        """Mean of the columns with equal weight; None if one is missing."""
        cells = [self.cell(label, column) for column in self.columns]
        means = [cell.mean for cell in cells if cell is not None]
        return math.fsum(means) / len(cells) if means and len(means) == len(cells) else None

    def differences(self, first: str, second: str) -> list[Difference]:
        """One row minus another, in all columns that both have and on average over them."""
        if not {first, second} <= set(self.rows):
            return []
        row, other_row = self.rows[first], self.rows[second]
        common: dict[Key, list[int]] = {}
        for column in self.columns:
            seeds = [s for s in row.get(column, {}) if s in other_row.get(column, {})]
            if seeds:
                common[column] = seeds
        differences = []
        for column, seeds in common.items():
            a, b = ({s: scores[column][s] for s in seeds} for scores in (row, other_row))
            by_seed = {s: paired(a[s], b[s]).difference.mean for s in seeds}
            result = paired(_pooled(a), _pooled(b))
            differences.append(Difference(title(column), result, by_seed))
        if len(differences) > 1:
            differences.append(_average(differences, common, row, other_row))
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
    return Table(sorted(columns, key=_position), rows, list(notes))


def table_of(outcomes: Sequence[Outcome], labels: Mapping[str, str]) -> Table:
    """The table of a reproduction.

    Args:
        outcomes: the outcome of each world and seed.
        labels: the methods of the table, with their labels.
    """
    entries = []
    notes = []
    for method, label in labels.items():
        runs = [(o.seed, run) for o in outcomes if (run := o.run(method)) is not None]
        entries.append(Entry(label, runs))
        runs_by_note: dict[str, list[str]] = {}
        for outcome in outcomes:
            if method in outcome.notes:
                run_name = f"{outcome.world} seed {outcome.seed}"
                runs_by_note.setdefault(outcome.notes[method], []).append(run_name)
        notes += [f"{label} ({', '.join(names)}): {note}." for note, names in runs_by_note.items()]
    return build_table(entries, notes)


def markdown(table: Table, published: Sequence[PublishedRow] = ()) -> str:
    """The table in Markdown, with published rows at its end if any are given."""
    headings = ["", *(title(column) for column in table.columns), "average"]
    rows = []
    for label in table.rows:
        cells = [show(table.cell(label, column)) for column in table.columns]
        rows.append([label, *cells, _points(table.average(label))])
    names = {key: name for name, key in COLUMNS.items()}
    for row in published:
        values = [row.values.get(names.get(column, "")) for column in table.columns]
        cells = ["–" if value is None else f"{value:.1f}" for value in values]
        average = "–" if math.isnan(row.average) else f"{row.average:.1f}"
        source = " ".join(filter(None, (row.source, row.table)))
        remarks = "; ".join(filter(None, (source, "as quoted" if row.is_quoted else "", row.note)))
        name = escape_markdown(f"{row.method}, {row.model} ({remarks})")
        rows.append([Markdown(f"*{name}*"), *cells, average])
    text = markdown_table(headings, rows)
    if published:
        text += (
            "\n\nRows in italics are published results of other models; their average is over all "
            "five columns of the paper. Scores on a mini dataset are not comparable with them."
        )
    notes = [f"- {escape_markdown(note)}" for note in table.notes]
    if NO_INTERVAL in text:
        notes.append(f"- {NO_INTERVAL_NOTE}")
    return "\n\n".join([text, "\n".join(notes)] if notes else [text])


def markdown_differences(differences: Sequence[Difference], first: str, second: str) -> str:
    """One row minus another in Markdown: mean, interval and p over tasks, then over seeds."""
    headings = ["", f"{first} − {second}", "p", "tasks", "by seed", "over seeds"]
    rows = []
    for difference in differences:
        result = difference.result
        p = "–" if math.isnan(result.p) else f"{result.p:.3f}"
        by_seed = ", ".join(f"{100 * value:+.1f}" for value in difference.by_seed.values())
        cells = [difference.title, show(result.difference, "+"), p, str(result.n_tasks), by_seed]
        rows.append([*cells, show(difference.over_seeds, "+")])
    return markdown_table(headings, rows)


def to_json(table: Table, differences: Sequence[Difference]) -> dict[str, Any]:
    """Table and differences as JSON-able values."""
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
    """The paper's rows of the given methods, in the order of `methods`."""
    rows = [row for row in load_published().rows if row.source == "eto"]
    return [
        row
        for method in methods
        for row in rows
        if row.method == method and row.model == model and row.metric == "reward"
    ]


def title(column: Key) -> str:
    """World and split as a heading."""
    return f"{title_of(column[0])} {column[1]}"


def show(estimate: Estimate | None, sign: str = "") -> str:
    """An estimate x 100, such as ``63.1 [60.0, 66.2]``."""
    if estimate is None or math.isnan(estimate.mean):
        return "–"
    mean, low, high = (None if x is None else f"{100 * x:{sign}.1f}" for x in estimate)
    if low is None or high is None:
        return f"{mean}"
    # The bootstrap of equal values has no width, which says nothing about the uncertainty.
    return f"{mean} {NO_INTERVAL}" if estimate.low == estimate.high else f"{mean} [{low}, {high}]"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _pooled(by_seed: Mapping[int, Scores]) -> Scores:
    return [pair for scores in by_seed.values() for pair in scores]


def _average(
    differences: Sequence[Difference],
    common: Mapping[Key, Sequence[int]],
    row: Mapping[Key, Mapping[int, Scores]],
    other_row: Mapping[Key, Mapping[int, Scores]],
) -> Difference:
    """The mean difference of all columns, each with the same weight whatever its size."""
    n_all = sum(difference.result.n_tasks for difference in differences)
    a: list[tuple[tuple[Key, str], float]] = []
    b: list[tuple[tuple[Key, str], float]] = []
    for (column, seeds), difference in zip(common.items(), differences, strict=True):
        # With these weights the mean over all tasks is the mean of the columns' means.
        weight = n_all / (len(differences) * difference.result.n_tasks)
        for scores, target in ((row, a), (other_row, b)):
            for seed in seeds:
                target += [((column, task), weight * x) for task, x in scores[column][seed]]
    shared = set.intersection(*(set(d.by_seed) for d in differences))
    by_seed = {s: statistics.fmean(d.by_seed[s] for d in differences) for s in sorted(shared)}
    return Difference("average", paired(a, b), by_seed)


def _position(column: Key) -> tuple[int, str]:
    worlds = ENV_IDS
    return (worlds.index(column[0]) if column[0] in worlds else len(worlds)), column[1]
