"""Published numbers in a report, marked where they do not compare with ours.

A published number stands beside one of ours only if ours was played on the paper's own task set
under its limits. Everything else is shown apart, under a heading that says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from eto_agents.evaluation.comparison import PAPER_COLUMNS, Column, Comparison, Row, average
from eto_agents.evaluation.published import COLUMNS, Published, PublishedRow
from eto_agents.report.document import Cell, Section, Table
from eto_agents.report.sections import NOTHING, points
from eto_agents.worlds import all_worlds

TITLES = {
    name: world.title if len(world.columns) == 1 else f"{world.title} {split}"
    for world in all_worlds()
    for name, split in world.columns.items()
}


def published_section(comparison: Comparison, published: Published) -> Section:
    """Published rows beside ours where the task set is the paper's, else apart from them."""
    columns = {column.key: column for column in comparison.columns}
    comparable = {key for key, c in columns.items() if not c.difference_from_paper}
    same = [r for r in published.rows if r.protocol == "eto" and r.metric == "reward"]
    other = [r for r in published.rows if r not in same]
    ours = [_our_row(row, comparison, comparable) for row in comparison.rows]
    tables = [
        _table(
            [row for row in ours if row is not None] + [_row(r, published, False) for r in same],
            "published",
            "Published average rewards × 100 under the paper's protocol"
            + (", ours first" if comparable else ""),
        ),
        _table(
            [_row(r, published, True) for r in other],
            "published-other",
            "Published under other limits, task sets or metrics: not comparable with any row above",
        ),
    ]
    title = "Beside published numbers" if comparable else "Published numbers, for orientation only"
    warnings, notes = _notes(comparison.columns, comparable)
    return Section(title, warnings, tuple(tables), notes=notes)


def _notes(
    columns: Sequence[Column], comparable: set[tuple[str, str]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    warnings, notes = [], []
    if not comparable:
        warnings.append("No published number compares with the results above.")
    reasons: dict[str, list[str]] = {}
    for column in columns:
        if reason := column.difference_from_paper:
            reasons.setdefault(reason, []).append(column.title)
    for reason, titles in reasons.items():
        warnings.append(f"Not comparable: {', '.join(titles)}: {reason}.")
    if ("ETO-ScienceWorld-v0", "unseen") in comparable:
        notes.append(
            "ScienceWorld unseen: the paper's Table 1 counts 241 tasks, its repository holds the "
            "211 that are played here; prices, physics and wording differ between versions of the "
            "worlds (see the page on reproduction)."
        )
    notes.append(
        "Published rows come without intervals and without episodes: a difference from them can "
        "only be judged by the column “detectable” under “Episodes”."
    )
    return tuple(warnings), tuple(notes)


def _our_row(
    row: Row, comparison: Comparison, comparable: set[tuple[str, str]]
) -> tuple[Cell, ...] | None:
    shown = comparable & set(row.splits)
    if not shown:
        return None
    cells = [Cell(row.label), Cell("ours")]
    for key in PAPER_COLUMNS:
        if key in shown:
            split_run = row.splits[key]
            mark = "" if split_run.is_whole else "so far"
            cells.append(Cell(points(split_run.figures.reward.mean), mark))
        else:
            cells.append(Cell(NOTHING))
    is_whole = set(PAPER_COLUMNS) <= comparable
    mean = average(comparison, row) if is_whole else float("nan")
    return (*cells, Cell(points(mean)), Cell("this report"), Cell(""))


def _row(row: PublishedRow, published: Published, is_apart: bool) -> tuple[Cell, ...]:
    cells = [Cell(row.method), Cell(row.model)]
    for column in COLUMNS:
        value = row.values.get(column)
        text = NOTHING if value is None else f"{value:.1f}"
        plus_minus = row.spread.get(column)
        cells.append(Cell(text, "" if plus_minus is None else f"± {plus_minus:g}"))
    mean = NOTHING if math.isnan(row.average) else f"{row.average:.1f}"
    source = published.sources[row.source] + (f", {row.table}" if row.table else "")
    remarks = []
    if is_apart:
        words = "success rate" if row.metric == "success" else "average reward"
        remarks.append(f"≠ {words}, protocol {row.protocol}")
    remarks += ["as quoted"] * row.is_quoted + [row.note] * bool(row.note)
    return (*cells, Cell(mean), Cell(source), Cell("; ".join(remarks)))


def _table(rows: Sequence[tuple[Cell, ...]], label: str, caption: str) -> Table:
    headings = ("method", "model", *TITLES.values(), "average", "source", "remarks")
    return Table(headings, tuple(rows), 2, label, caption, n_text_at_end=2)


def protocols(published: Published) -> list[str]:
    """What the protocols' names mean, one sentence each."""
    return [f"Protocol {key}: {text}." for key, text in published.protocols.items()]
