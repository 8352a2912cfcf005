"""The paper's table over all worlds and seeds, and the difference between ETO and its control.

A cell is the mean final reward x 100 over the tasks of a split, where each task's reward is first
averaged over the training seeds; its interval is over tasks. ETO minus SFT-more is tested task by
task (`eto_agents.evaluation.statistics`), with p-values corrected for the comparisons of the table
(Holm), and its average gives all columns equal weight. These intervals and tests take the trained
models as given. With three training seeds or more, a t interval over the differences of the single
seeds comes first: it is the one that says whether another training would show the same.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from eto_agents.evaluation.comparison import ENV_IDS
from eto_agents.evaluation.published import COLUMNS, PublishedRow, load_published
from eto_agents.evaluation.runs import read_run
from eto_agents.evaluation.statistics import (
    Estimate,
    Paired,
    bounded_mean,
    holm,
    paired,
    paired_average,
)
from eto_agents.markdown import Markdown, escape_markdown, markdown_table
from eto_agents.report.sections import probability
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
        p_holm: the test's p-value, corrected for all comparisons of the table.
    """

    title: str
    result: Paired
    by_seed: dict[int, float]
    p_holm: float = math.nan

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


class Budget(NamedTuple):
    """What the training of a row took with one seed, in all worlds together.

    Attributes:
        episodes: training episodes that were played to learn from them.
        updates: optimiser steps.
        tokens: tokens of the sequences that were learned from, those of the environment included;
            each counts once for every pass over it.
    """

    episodes: int
    updates: int
    tokens: int


@dataclass(frozen=True)
class Table:
    """Scores by row and column.

    Attributes:
        columns: the columns in order.
        rows: scores by label, column and seed.
        notes: sentences to print below the table.
        budgets: by label, what the training took; see `Budget`. Empty for tables without it.
    """

    columns: list[Key]
    rows: dict[str, dict[Key, dict[int, Scores]]]
    notes: list[str]
    budgets: Mapping[str, Budget] = field(default_factory=dict)

    def cell(self, label: str, column: Key) -> Estimate | None:
        """Mean and interval in [0, 1]; None if nothing was played."""
        by_seed = self.rows[label].get(column)
        return None if not by_seed else bounded_mean(_pooled(by_seed))

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
        pooled = []
        for column, seeds in common.items():
            a, b = ({s: scores[column][s] for s in seeds} for scores in (row, other_row))
            by_seed = {s: paired(a[s], b[s]).difference.mean for s in seeds}
            pooled.append((_pooled(a), _pooled(b)))
            differences.append(Difference(title(column), paired(*pooled[-1]), by_seed))
        if len(differences) > 1:
            shared = set.intersection(*(set(d.by_seed) for d in differences))
            by_seed = {
                s: statistics.fmean(d.by_seed[s] for d in differences) for s in sorted(shared)
            }
            differences.append(Difference("average", paired_average(pooled), by_seed))
        adjusted = holm([difference.result.p for difference in differences])
        return [d._replace(p_holm=p) for d, p in zip(differences, adjusted, strict=True)]


def build_table(
    entries: Iterable[Entry],
    notes: Iterable[str] = (),
    budgets: Mapping[str, Budget] | None = None,
) -> Table:
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
    return Table(sorted(columns, key=_position), rows, list(notes), budgets or {})


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
    budgets = {label: _budget(outcomes, label) for label in labels.values()}
    return build_table(entries, notes, {k: v for k, v in budgets.items() if v is not None})


def _budget(outcomes: Sequence[Outcome], label: str) -> Budget | None:
    """The sum over the worlds, averaged over seeds; None if a run does not state it."""
    facts = [outcome.facts.get(label, {}) for outcome in outcomes]
    n_seeds = len({outcome.seed for outcome in outcomes})
    sums = []
    for name in BUDGET_FACTS:
        values = [fact[name] for fact in facts if name in fact]
        if not values or len(values) < len(facts):
            return None
        sums.append(round(sum(values) / n_seeds))
    return Budget(*sums)


BUDGET_FACTS: Final = ("n_episodes", "n_updates", "n_tokens")
"""The facts of an outcome that make a `Budget`, in its order."""

_BUDGET_NOTE: Final = (
    "Episodes, updates and tokens of the training, per seed, all worlds together: episodes "
    "played to learn from them (without those that select on the dev tasks), optimiser steps, and "
    "tokens of the sequences learned from, once for every pass. All rows but SFT start from SFT, "
    "whose own are not counted again."
)


def markdown(table: Table, published: Sequence[PublishedRow] = ()) -> str:
    """The table in Markdown, with published rows at its end if any are given."""
    spent = list(Budget._fields) if table.budgets else []
    headings = ["", *(title(column) for column in table.columns), "average", *spent]
    rows = []
    for label in table.rows:
        cells = [estimate_text(table.cell(label, column)) for column in table.columns]
        budget = table.budgets.get(label, [None] * len(spent))
        numbers = ["–" if number is None else f"{number:,}" for number in budget]
        rows.append([label, *cells, _points(table.average(label)), *numbers])
    names = {key: name for name, key in COLUMNS.items()}
    for row in published:
        values = [row.values.get(names.get(column, "")) for column in table.columns]
        cells = ["–" if value is None else f"{value:.1f}" for value in values]
        average = "–" if math.isnan(row.average) else f"{row.average:.1f}"
        source = " ".join(filter(None, (row.source, row.table)))
        remarks = "; ".join(filter(None, (source, "as quoted" if row.is_quoted else "", row.note)))
        name = escape_markdown(f"{row.method}, {row.model} ({remarks})")
        rows.append([Markdown(f"*{name}*"), *cells, average, *("–" for _ in spent)])
    text = markdown_table(headings, rows)
    if published:
        text += (
            "\n\nRows in italics are published results of other models; their average is over all "
            "five columns of the paper. Scores on a mini dataset are not comparable with them."
        )
    notes = [f"- {escape_markdown(note)}" for note in table.notes]
    notes += [f"- {_BUDGET_NOTE}"] if spent else []
    return "\n\n".join([text, "\n".join(notes)] if notes else [text])


def markdown_differences(differences: Sequence[Difference], first: str, second: str) -> str:
    """One row minus another in Markdown: over training seeds where there are several, over tasks.

    The interval over tasks and the p-value, which is corrected by Holm's method for all comparisons
    of the table, take the trained models as given.
    """
    has_seeds = any(difference.over_seeds is not None for difference in differences)
    over_seeds = ["over training seeds", "by seed"]
    headings = ["", f"{first} − {second}", "over tasks", "p (Holm)", "tasks"]
    headings = headings if not has_seeds else [*headings[:2], *over_seeds, *headings[2:]]
    rows = []
    for difference in differences:
        result = difference.result
        mean = f"{100 * result.difference.mean:+.1f}"
        by_seed = ", ".join(f"{100 * value:+.1f}" for value in difference.by_seed.values())
        seeds = [_interval(difference.over_seeds), by_seed] if has_seeds else []
        tasks = [_interval(result.difference), probability(difference.p_holm)]
        rows.append([difference.title, mean, *seeds, *tasks, str(result.n_tasks)])
    return markdown_table(headings, rows)


def to_json(table: Table, differences: Sequence[Difference]) -> dict[str, Any]:
    """Table and differences as JSON-able values."""
    return {
        "rows": {
            label: {title(c): table.cell(label, c) for c in table.columns} for label in table.rows
        },
        "average": {label: table.average(label) for label in table.rows},
        "budgets": {label: budget._asdict() for label, budget in table.budgets.items()},
        "differences": [
            {
                "column": d.title,
                "mean": d.result.difference.mean,
                "interval": d.result.difference[1:],
                "p": d.result.p,
                "p_holm": d.p_holm,
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


def estimate_text(estimate: Estimate | None, sign: str = "") -> str:
    """An estimate x 100, such as ``63.1 [60.0, 66.2]``."""
    if estimate is None or math.isnan(estimate.mean):
        return "–"
    return f"{100 * estimate.mean:{sign}.1f} {_interval(estimate, sign)}".removesuffix(" –")


def _interval(estimate: Estimate | None, sign: str = "+") -> str:
    """An interval x 100, such as ``[+1.2, +6.0]``."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return "–"
    if estimate.low == estimate.high:
        # The bootstrap of equal values has no width, which says nothing about the uncertainty.
        return "–"
    return f"[{100 * estimate.low:{sign}.1f}, {100 * estimate.high:{sign}.1f}]"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _pooled(by_seed: Mapping[int, Scores]) -> Scores:
    return [pair for scores in by_seed.values() for pair in scores]


def _position(column: Key) -> tuple[int, str]:
    worlds = ENV_IDS
    return (worlds.index(column[0]) if column[0] in worlds else len(worlds)), column[1]
