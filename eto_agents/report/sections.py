"""What a report says: the tables of a comparison, and the notes a reader needs.

Rewards are x 100 here, as in the paper. How it is written down is `document`'s and `page`'s part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from eto_agents.evaluation.comparison import Comparison, Difference, average
from eto_agents.evaluation.runs import Run, SplitRun
from eto_agents.evaluation.statistics import (
    Estimate,
    clustered_mean,
    minimum_detectable,
    spread,
    task_means,
)
from eto_agents.report.document import Cell, Section, Table

NOTHING = "–"
NO_WIDTH = "‡"
NO_WIDTH_NOTE = (
    "‡ The same value on every task: resampling cannot tell an interval (the success rate has one)."
)


def results(comparison: Comparison) -> Section:
    """The paper's table: agents down, task sets across, average reward x 100."""
    best = comparison.best()
    has_average = any(not math.isnan(average(comparison, row)) for row in comparison.rows)
    rows = []
    for row in comparison.rows:
        cells = [Cell(row.label)]
        for column in comparison.columns:
            is_best = (row.label, column) in best
            cells.append(_reward(row.splits.get(column.key), is_best))
        if has_average:
            cells.append(Cell(points(average(comparison, row))))
        rows.append(tuple(cells))
    titles = [column.title for column in comparison.columns]
    headings = ("agent", *titles, *(["average"] if has_average else []))
    caption = "Average reward × 100 with its 95 % interval"
    table = Table(headings, tuple(rows), 1, "results", caption)
    return Section("Results", tables=(table,), notes=tuple(_result_notes(comparison)))


def points(value: float | None) -> str:
    """A share in [0, 1] as points of 100, such as ``63.1``."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{100 * value:.1f}".replace("-", "−")


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    if estimate.low == estimate.high:  # resampling equal values: no interval of width 0, but none
        return NO_WIDTH
    return f"[{points(estimate.low)}, {points(estimate.high)}]"


def _reward(split_run: SplitRun | None, is_best: bool) -> Cell:
    if split_run is None:
        return Cell(NOTHING)
    reward = split_run.figures.reward
    details = [_interval(reward)]
    if not split_run.is_whole:
        details.append(f"({so_far(split_run)})")
    return Cell(points(reward.mean), " ".join(filter(None, details)), is_best)


def so_far(split_run: SplitRun) -> str:
    """How much of a split has been played, such as ``57 of 200 so far``."""
    if split_run.n_planned is None:
        return f"{split_run.n_ended} so far, of a number that the run does not say"
    return f"{split_run.n_ended} of {split_run.n_planned}" + (
        "" if split_run.is_whole else " so far"
    )


def _result_notes(comparison: Comparison) -> Iterator[str]:
    yield (
        "Mean final score over tasks, × 100. The interval is a bootstrap over tasks (several seeds "
        "of a task count as one). Bold: better than every other agent of the column beyond noise "
        "(paired sign-flip test on the same tasks, p < 0.05 after Holm's correction for all pairs "
        "of the table)."
    )
    yield NO_WIDTH_NOTE
    yield "The average counts the paper's five task sets alike."
    for column in comparison.columns:
        if reason := comparison.uneven(column):
            yield f"{column.title}: {reason}; no agent is marked as best, pairs use common tasks."
    if mini := [column.title for column in comparison.columns if column.dataset == "mini"]:
        yield f"{', '.join(mini)}: the embedded mini dataset compares with nothing published."
    for row in comparison.rows:
        n_samples = max(split_run.n_samples for split_run in row.splits.values())
        if n_samples > 1:
            yield (
                f"{row.label}: of up to {n_samples} samples of each task the one with the best "
                "reward counts, which an agent alone cannot know."
            )
    counts_zero = {
        row.label
        for row in comparison.rows
        for split_run in row.splits.values()
        if split_run.agent_errors == "zero"
    }
    for label in sorted(counts_zero):
        yield f"{label}: episodes in which the agent failed count as 0."


def episodes(comparison: Comparison) -> Section:
    """Success, steps, invalid actions, and which episodes the means leave out."""
    rows = []
    for column in comparison.columns:
        for row, split_run in comparison.in_column(column):
            figures = split_run.figures
            n_seeds = figures.n_episodes / figures.n_tasks if figures.n_tasks else 1
            deviation = spread(list(task_means(split_run.scores).values()))
            unpaired = None if deviation is None else deviation * math.sqrt(2)
            statuses = ", ".join(f"{n} {status}" for status, n in figures.statuses.items())
            cells = [
                Cell(column.title),
                Cell(row.label),
                Cell(statuses if split_run.is_whole else f"{statuses} ({so_far(split_run)})"),
                Cell(f"{figures.n_tasks}" + ("" if n_seeds == 1 else f" × {n_seeds:.3g}")),
                Cell(points(figures.success.mean), _interval(figures.success)),
                Cell(NOTHING if math.isnan(figures.steps) else f"{figures.steps:.1f}"),
                Cell(points(figures.invalid_actions)),
                Cell(f"{figures.tokens:,}" if figures.tokens else NOTHING),
                Cell(points(minimum_detectable(unpaired, figures.n_tasks))),
            ]
            rows.append(tuple(cells))
    figures_shown = ("tasks", "success %", "steps", "invalid %", "tokens", "detectable")
    headings = ("task set", "agent", "episodes", *figures_shown)
    caption = "Success, steps, invalid actions and episodes by status"
    notes = (
        "Success: share of tasks solved (score 1), Wilson's interval, or the bootstrap's where "
        "seeds of a task disagree. Steps: mean of an episode. Invalid: share of actions that the "
        "world did not accept. Only completed and truncated episodes enter means.",
        "Detectable: the difference in points that these tasks would show with a power of 80 % at "
        "the 5 % level against another agent whose episodes are not at hand (unpaired, equal "
        "spread), such as a published number. The paired figure is under “Differences”.",
    )
    table = Table(headings, tuple(rows), 3, "episodes", caption)
    return Section("Episodes", tables=(table,), notes=notes)


def differences(comparison: Comparison, against: str, found: Sequence[Difference]) -> Section:
    """Every agent minus one of them, task by task."""
    rows = []
    for difference in found:
        result = difference.result
        if difference.is_real:
            verdict = "better" if result.difference.mean > 0 else "worse"
        else:
            verdict = "inside noise" if result.n_tasks else "no common task"
        cells = (
            Cell(difference.column.title),
            Cell(difference.first),
            Cell(verdict),
            Cell(f"{result.n_tasks}"),
            Cell(points(result.difference.mean), _interval(result.difference)),
            Cell(probability(result.p)),
            Cell(probability(difference.p_holm)),
            Cell(points(result.detectable)),
        )
        rows.append(cells)
    figures = ("tasks", "difference", "p", "p (Holm)", "detectable")
    headings = ("task set", "agent", f"against {against}", *figures)
    notes = (
        f"Points of average reward more than {against} on the tasks that both have played, with "
        "a 95 % bootstrap interval over tasks; p by a two-sided sign-flip test (exact up to 16 "
        f"tasks that differ), corrected for the {len(rows)} comparisons of this table. Detectable: "
        "the true difference that these tasks would show with a power of 80 % at the 5 % level.",
        NO_WIDTH_NOTE,
    )
    caption = f"Paired differences from {against}, points of average reward"
    table = Table(headings, tuple(rows), 3, "differences", caption)
    return Section("Differences", tables=(table,), notes=notes)


def probability(p: float) -> str:
    """A p-value for people."""
    if math.isnan(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def task_types(comparison: Comparison) -> Section | None:
    """Average reward by task type, one table for each task set that has types; None if none has."""
    tables = []
    for column in comparison.columns:
        members = comparison.in_column(column)
        kinds = sorted({kind for _, split_run in members for kind in split_run.kinds})
        if len(kinds) < 2:
            continue
        rows = tuple(
            (Cell(kind or NOTHING), *(_kind(split_run.kinds.get(kind)) for _, split_run in members))
            for kind in kinds
        )
        labels = tuple(row.label for row, _ in members)
        slug = f"types-{column.env_id}-{column.split}".lower().replace("/", "-")
        caption = f"{column.title}: average reward × 100 by task type (tasks)"
        tables.append(Table(("task type", *labels), rows, 1, slug, caption))
    if not tables:
        return None
    note = "Small numbers of tasks have wide intervals; no difference between them is tested here."
    return Section("Task types", tables=tuple(tables), notes=(note, NO_WIDTH_NOTE))


def _kind(split_run: SplitRun | None) -> Cell:
    scores = split_run.scores if split_run else []
    if not scores:
        return Cell(NOTHING)
    reward = clustered_mean(scores)
    n_tasks = len({task for task, _ in scores})
    return Cell(points(reward.mean), f"{_interval(reward)} ({n_tasks})".strip())


def provenance(comparison: Comparison, runs: Sequence[Run]) -> Section:
    """Where everything comes from."""
    task_sets = tuple(
        (
            Cell(column.title),
            Cell(column.dataset),
            Cell("protocol" if column.max_steps is None else f"{column.max_steps} steps"),
            Cell(column.sha256),
        )
        for column in comparison.columns
    )
    rows = tuple(_run_cells(run) for run in runs)
    return Section(
        "Where it comes from",
        (),
        (
            Table(
                ("task set", "dataset", "limit", "sha256"), task_sets, 4, "task-sets", "Task sets"
            ),
            Table(
                ("agent", "run", "state", "seeds", "commit", "versions"), rows, 6, "runs", "Runs"
            ),
        ),
    )


def _run_cells(run: Run) -> tuple[Cell, ...]:
    seeds = sorted({e.seed for split_run in run.splits for e in split_run.episodes})
    versions = run.provenance.get("versions", {})
    return (
        Cell(run.label),
        # The folder's name and not its path: a report is shared, a home folder's name need not be.
        Cell(Path(run.folder).resolve().name),
        Cell("finished" if all(split_run.is_whole for split_run in run.splits) else "not finished"),
        Cell(" ".join(map(str, seeds))),
        Cell(str(run.provenance.get("commit") or NOTHING)[:12]),
        Cell(", ".join(f"{name} {number}" for name, number in versions.items()) or NOTHING),
    )
