"""Published results in a report, marked where they are not comparable with ours.

A published result appears next to ours only if ours was played on the paper's own task set under
the paper's step limit. All others are in a separate table whose caption says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from eto_agents.evaluation.comparison import PAPER_COLUMNS, Column, Comparison, Row, average
from eto_agents.evaluation.published import COLUMNS, Published, PublishedRow
from eto_agents.report.document import Cell, Section, Table
from eto_agents.report.sections import DASH, points
from eto_agents.worlds import all_worlds

TITLES = {
    name: world.title if len(world.columns) == 1 else f"{world.title} {split}"
    for world in all_worlds()
    for name, split in world.columns.items()
}


def published_section(comparison: Comparison, published: Published) -> Section:
    """Published rows, in one table with ours where the task set is the paper's."""
    columns = {column.key: column for column in comparison.columns}
    comparable = {key for key, c in columns.items() if not c.difference_from_paper}
    same_protocol = [r for r in published.rows if r.protocol == "eto" and r.metric == "reward"]
    others = [r for r in published.rows if r not in same_protocol]
    ours = [_our_row(row, comparable) for row in comparison.rows]
    tables = [
        _table(
            [row for row in ours if row is not None]
            + [_row(r, published, is_comparable=True) for r in same_protocol],
            "published",
            "Published average rewards × 100 under the paper's protocol"
            + (", ours first" if comparable else ""),
        ),
        _table(
            [_row(r, published, is_comparable=False) for r in others],
            "published-other",
            "Published with other step limits, task sets or metrics: not comparable with the rows "
            "above",
        ),
    ]
    suffix = "" if comparable else " (not comparable)"
    warnings, notes = _notes(comparison.columns, comparable)
    protocols = (f"Protocol {key}: {text}." for key, text in published.protocols.items())
    return Section(
        f"Published results{suffix}", tuple(warnings), tuple(tables), notes=(*notes, *protocols)
    )


def _notes(
    columns: Sequence[Column], comparable: set[tuple[str, str]]
) -> tuple[list[str], list[str]]:
    """What to read before and after the tables."""
    warnings, notes = [], []
    if not comparable:
        warnings.append("No published result is comparable with the results above.")
    reasons: dict[str, list[str]] = {}
    for column in columns:
        if reason := column.difference_from_paper:
            reasons.setdefault(reason, []).append(column.title)
    for reason, titles in reasons.items():
        warnings.append(f"Not comparable: {', '.join(titles)}: {reason}.")
    if ("ETO-ScienceWorld-v0", "unseen") in comparable:
        notes.append(
            "ScienceWorld unseen: the paper's Table 1 counts 241 tasks; its repository has 211, "
            "which are the ones played here. Prices, physics and wording differ between versions "
            "of the worlds (see the documentation's page on reproduction)."
        )
    notes.append(
        "Published results have neither intervals nor episodes: whether a difference from them is "
        "significant can be judged only by the column “detectable” under “Episodes”."
    )
    return warnings, notes


def _our_row(row: Row, comparable: set[tuple[str, str]]) -> tuple[Cell, ...] | None:
    """A row of ours with its comparable columns; None if it has none."""
    shown = comparable & set(row.splits)
    if not shown:
        return None
    cells = [Cell(row.label), Cell("ours")]
    for key in PAPER_COLUMNS:
        if key in shown:
            split_run = row.splits[key]
            mark = "" if split_run.is_complete else "so far"
            cells.append(Cell(points(split_run.summary.reward.mean), mark))
        else:
            cells.append(Cell(DASH))
    has_all = set(PAPER_COLUMNS) <= comparable
    mean = average(row) if has_all else float("nan")
    return (*cells, Cell(points(mean)), Cell("this report"), Cell(""))


def _row(row: PublishedRow, published: Published, *, is_comparable: bool) -> tuple[Cell, ...]:
    cells = [Cell(row.method), Cell(row.model)]
    for column in COLUMNS:
        value = row.values.get(column)
        text = DASH if value is None else f"{value:.1f}"
        plus_minus = row.spread.get(column)
        cells.append(Cell(text, "" if plus_minus is None else f"± {plus_minus:g}"))
    mean = DASH if math.isnan(row.average) else f"{row.average:.1f}"
    source = published.sources[row.source] + (f", {row.table}" if row.table else "")
    remarks = []
    if not is_comparable:
        words = "success rate" if row.metric == "success" else "average reward"
        remarks.append(f"≠ {words}, protocol {row.protocol}")
    remarks += ["as quoted"] * row.is_quoted + [row.note] * bool(row.note)
    return (*cells, Cell(mean), Cell(source), Cell("; ".join(remarks)))


def _table(rows: Sequence[tuple[Cell, ...]], label: str, caption: str) -> Table:
    headings = ("method", "model", *TITLES.values(), "average", "source", "remarks")
    return Table(headings, tuple(rows), 2, label, caption, n_text_at_end=2)
