"""The paper's table from all worlds and seeds, and what ETO is worth beside its control.

A cell is the mean final reward x 100 over the tasks of a split, each task being the mean over the
training seeds, with an interval that resamples tasks. ETO minus SFT-more is tested task by task
(`eto_agents.evaluation.statistics`); its average counts every column alike. These intervals take
the trained models as given: what another training seed would do shows in the seeds' own
differences, with a t interval over them where there are three or more. Nothing here knows which
row ought to be the best.
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
from eto_agents.report.sections import NO_INTERVAL, NO_INTERVAL_NOTE
from eto_agents.worlds.base import title_of

if TYPE_CHECKING:
    from eto_agents.reproduce.run import Outcome

Scores = list[tuple[str, float]]
"""Task and final score, a task once for each seed."""

Key = tuple[str, str]
"""World (environment id) and split."""


class Entry(NamedTuple):
    """A row's runs.

    Attributes:
        label: the row's.
        runs: folders with the seeds they are of.
    """

    label: str
    runs: Sequence[tuple[int, Path]]


class Difference(NamedTuple):
    """One row minus another.

    Attributes:
        title: column, or "average".
        result: the paired test over tasks.
        by_seed: mean difference of each seed that has both.
    """

    title: str
    result: Paired
    by_seed: dict[int, float]

    @property
    def over_seeds(self) -> Estimate | None:
        """Mean of the seeds' differences with a 95 % t interval; None for fewer than three."""
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
    """Rows and columns.

    Attributes:
        columns: in the table's order.
        rows: scores by label, column and seed.
        notes: sentences for below.
    """

    columns: list[Key]
    rows: dict[str, dict[Key, dict[int, Scores]]]
    notes: list[str]

    def cell(self, label: str, column: Key) -> Estimate | None:
        """Mean and interval in [0, 1]; None where nothing was played."""
        by_seed = self.rows[label].get(column)
        return None if not by_seed else clustered_mean(_pooled(by_seed))

    def average(self, label: str) -> float | None:
        """Mean of the columns, each counting the same; None if one is missing."""
        cells = [self.cell(label, column) for column in self.columns]
        known = [cell.mean for cell in cells if cell is not None]
        return math.fsum(known) / len(cells) if known and len(known) == len(cells) else None

    def differences(self, first: str, second: str) -> list[Difference]:
        """One row minus another in every column that both have, and their average."""
        if not {first, second} <= set(self.rows):
            return []
        ours, theirs = self.rows[first], self.rows[second]
        common: dict[Key, list[int]] = {}
        for column in self.columns:
            seeds = [s for s in ours.get(column, {}) if s in theirs.get(column, {})]
            if seeds:
                common[column] = seeds
        found = []
        for column, seeds in common.items():
            mine, other = ({s: row[column][s] for s in seeds} for row in (ours, theirs))
            by_seed = {s: paired(mine[s], other[s]).difference.mean for s in seeds}
            found.append(Difference(title(column), paired(_pooled(mine), _pooled(other)), by_seed))
        if len(found) > 1:
            found.append(_average(found, common, ours, theirs))
        return found


def build_table(entries: Iterable[Entry], notes: Iterable[str] = ()) -> Table:
    """Read the runs of all rows.

    Raises:
        DataNotFoundError: a run is not there.
        CorruptDataError: a run is damaged.
    """
    rows: dict[str, dict[Key, dict[int, Scores]]] = {}
    for label, runs in entries:
        row = rows.setdefault(label, {})
        for seed, folder in runs:
            for split_run in read_run(folder).splits:
                row.setdefault(split_run.column, {})[seed] = list(split_run.scores)
    found = {column for row in rows.values() for column in row}
    return Table(sorted(found, key=_place), rows, list(notes))


def table_of(outcomes: Sequence[Outcome], labels: Mapping[str, str]) -> Table:
    """The table of a reproduction; `labels` has a label for each method."""
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
    """The table, with published rows below it where some are given."""
    head = ["", *(title(column) for column in table.columns), "average"]
    lines = []
    for label in table.rows:
        cells = [show(table.cell(label, column)) for column in table.columns]
        lines.append([label, *cells, _points(table.average(label))])
    names = {key: name for name, key in COLUMNS.items()}
    for row in published:
        found = [row.values.get(names.get(column, "")) for column in table.columns]
        values = ["–" if value is None else f"{value:.1f}" for value in found]
        average = "–" if math.isnan(row.average) else f"{row.average:.1f}"
        where = " ".join(filter(None, (row.source, row.table)))
        about = "; ".join(filter(None, (where, "as quoted" if row.is_quoted else "", row.note)))
        lines.append([f"*{row.method}, {row.model} ({about})*", *values, average])
    text = markdown_table(head, lines)
    if published:
        text += (
            "\n\nRows in italics are published, with another model; their average is over all "
            "five columns of the paper. A mini dataset compares with none of them."
        )
    notes = [f"- {note}" for note in table.notes]
    if NO_INTERVAL in text:
        notes.append(f"- {NO_INTERVAL_NOTE}")
    return "\n\n".join([text, "\n".join(notes)] if notes else [text])


def markdown_differences(found: Sequence[Difference], first: str, second: str) -> str:
    """One row minus another: mean, interval and p over tasks, and the seeds' own differences."""
    head = ["", f"{first} − {second}", "p", "tasks", "by seed", "over seeds"]
    lines = []
    for title_, result, by_seed in found:
        seeds = ", ".join(f"{100 * value:+.1f}" for value in by_seed.values())
        over = Difference(title_, result, by_seed).over_seeds
        p = "–" if math.isnan(result.p) else f"{result.p:.3f}"
        cells = [title_, show(result.difference, "+"), p, str(result.n_tasks), seeds]
        lines.append([*cells, "–" if over is None else show(over, "+")])
    return markdown_table(head, lines)


def record(table: Table, found: Sequence[Difference]) -> dict[str, Any]:
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
            for d in found
        ],
        "notes": table.notes,
    }


def published_rows(methods: Iterable[str], model: str = "Llama-2-7B-Chat") -> list[PublishedRow]:
    """The paper's rows of some methods, in the order of `methods`."""
    rows = [row for row in load_published().rows if row.source == "eto"]
    return [
        row
        for method in methods
        for row in rows
        if row.method == method and row.model == model and row.metric == "reward"
    ]


def title(column: Key) -> str:
    """World and split for people."""
    return f"{title_of(column[0])} {column[1]}"


def show(estimate: Estimate | None, sign: str = "") -> str:
    """Such as ``63.1 [60.0, 66.2]``, x 100."""
    if estimate is None or math.isnan(estimate.mean):
        return "–"
    mean, low, high = (None if x is None else f"{100 * x:{sign}.1f}" for x in estimate)
    if low is None or high is None:
        return f"{mean}"
    # Resampling equal values gives no interval, not one without width.
    return f"{mean} {NO_INTERVAL}" if estimate.low == estimate.high else f"{mean} [{low}, {high}]"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _pooled(by_seed: Mapping[int, Scores]) -> Scores:
    return [pair for scores in by_seed.values() for pair in scores]


def _average(
    found: Sequence[Difference],
    common: Mapping[Key, Sequence[int]],
    ours: Mapping[Key, Mapping[int, Scores]],
    theirs: Mapping[Key, Mapping[int, Scores]],
) -> Difference:
    """Columns of different size alike: each task's score is weighed so that the mean is theirs."""
    n_all = sum(difference.result.n_tasks for difference in found)
    mine: list[tuple[tuple[Key, str], float]] = []
    other: list[tuple[tuple[Key, str], float]] = []
    for (column, seeds), difference in zip(common.items(), found, strict=True):
        weight = n_all / (len(found) * difference.result.n_tasks)
        for rows, target in ((ours, mine), (theirs, other)):
            for seed in seeds:
                target += [((column, task), weight * x) for task, x in rows[column][seed]]
    shared = set.intersection(*(set(d.by_seed) for d in found))
    by_seed = {s: statistics.fmean(d.by_seed[s] for d in found) for s in sorted(shared)}
    return Difference("average", paired(mine, other), by_seed)


def _place(column: Key) -> tuple[int, str]:
    worlds = ENV_IDS
    return (worlds.index(column[0]) if column[0] in worlds else len(worlds)), column[1]
