"""The sections of a report: the tables of a comparison, with the notes a reader needs.

Rewards are x 100 here, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from eto_agents.evaluation.comparison import Column, Comparison, Difference, average
from eto_agents.evaluation.runs import Run, SplitRun
from eto_agents.evaluation.statistics import (
    Estimate,
    bounded_mean,
    minimum_detectable,
    standard_deviation,
    task_means,
)
from eto_agents.report.document import Cell, Section, Table

DASH = "–"
NO_INTERVAL = "‡"
NO_INTERVAL_NOTE = "‡ Every task has the same difference, so the bootstrap gives no interval."


def results(comparison: Comparison) -> Section:
    """Average reward x 100, in the form of the paper's Table 2: a row for each agent."""
    best = comparison.best()
    has_average = any(not math.isnan(average(row)) for row in comparison.rows)
    rows = []
    for row in comparison.rows:
        cells = [Cell(row.label)]
        for column in comparison.columns:
            is_best = (row.label, column) in best
            cells.append(_reward(row.splits.get(column.key), is_best))
        if has_average:
            cells.append(Cell(points(average(row))))
        rows.append(tuple(cells))
    titles = [column.title for column in comparison.columns]
    headings = ("agent", *titles, *(["average"] if has_average else []))
    caption = "Average reward × 100 with its 95 % interval"
    table = Table(headings, tuple(rows), 1, "results", caption)
    return Section("Results", tables=(table,), notes=tuple(_result_notes(comparison)))


def points(value: float | None) -> str:
    """A share in [0, 1] as points of 100, such as ``63.1``."""
    if value is None or math.isnan(value):
        return DASH
    return f"{100 * value:.1f}".replace("-", "−")


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    if estimate.low == estimate.high:  # equal values: their bootstrap says nothing
        return NO_INTERVAL
    return f"[{points(estimate.low)}, {points(estimate.high)}]"


def _reward(split_run: SplitRun | None, is_best: bool) -> Cell:
    if split_run is None:
        return Cell(DASH)
    reward = split_run.summary.reward
    details = [_interval(reward)]
    if not split_run.is_complete:
        details.append(f"({so_far(split_run)})")
    return Cell(points(reward.mean), " ".join(filter(None, details)), is_best)


def so_far(split_run: SplitRun) -> str:
    """How much of a split has been played, such as ``57 of 200 so far``."""
    if split_run.n_planned is None:
        return f"{split_run.n_ended} so far, the total is unknown"
    suffix = "" if split_run.is_complete else " so far"
    return f"{split_run.n_ended} of {split_run.n_planned}{suffix}"


def _result_notes(comparison: Comparison) -> Iterator[str]:
    yield (
        "Mean final score over tasks, × 100, with an interval over tasks (the seeds of a task are "
        "averaged first): a bootstrap, or Wilson's where all but a few tasks have the score 0, or "
        "all but a few 1. Bold: significantly better than every other agent of the column "
        "(paired sign-flip test on the same tasks, p < 0.05 after Holm's correction for all pairs "
        "of the table)."
    )
    yield "The average gives the paper's five task sets equal weight."
    for column in comparison.columns:
        if reason := comparison.mismatch(column):
            yield (
                f"{column.title}: {reason}, so no agent is marked as the best, and differences are "
                "over the tasks that both agents have played."
            )
        yield from _empty_notes(comparison, column)
    if mini := [column.title for column in comparison.columns if column.dataset == "mini"]:
        yield (
            f"{', '.join(mini)}: scores on the embedded mini dataset are not comparable with "
            "published results."
        )
    for row in comparison.rows:
        n_samples = max(split_run.n_samples for split_run in row.splits.values())
        if n_samples > 1:
            yield (
                f"{row.label}: of up to {n_samples} samples of each task the one with the highest "
                "reward counts; an agent by itself could not tell which one that is."
            )
    counts_zero = {
        row.label
        for row in comparison.rows
        for split_run in row.splits.values()
        if split_run.agent_errors == "zero"
    }
    for label in sorted(counts_zero):
        yield f"{label}: episodes in which the agent failed count as 0."


def _empty_notes(comparison: Comparison, column: Column) -> Iterator[str]:
    """Say where there is nothing to average or to compare."""
    members = comparison.in_column(column)
    for row, split_run in members:
        if not split_run.counted:
            statuses = ", ".join(f"{n} {s}" for s, n in split_run.summary.statuses.items())
            yield f"{column.title}: of {row.label}, no episode counts in a mean ({statuses})."
    if len(members) > 1 and not set.intersection(
        *({e.task_id for e in run.counted} for _, run in members)
    ):
        yield f"{column.title}: no task was played by all agents."


def episodes(comparison: Comparison) -> Section:
    """Success, steps, invalid actions, and the number of episodes by status."""
    rows = []
    for column in comparison.columns:
        for row, split_run in comparison.in_column(column):
            summary = split_run.summary
            n_seeds = summary.n_episodes / summary.n_tasks if summary.n_tasks else 1
            deviation = standard_deviation(list(task_means(split_run.scores).values()))
            unpaired = None if deviation is None else deviation * math.sqrt(2)
            statuses = ", ".join(f"{n} {status}" for status, n in summary.statuses.items())
            cells = [
                Cell(column.title),
                Cell(row.label),
                Cell(statuses if split_run.is_complete else f"{statuses} ({so_far(split_run)})"),
                Cell(f"{summary.n_tasks}" + ("" if n_seeds == 1 else f" × {n_seeds:.3g}")),
                Cell(points(summary.success.mean), _interval(summary.success)),
                Cell(DASH if math.isnan(summary.steps) else f"{summary.steps:.1f}"),
                Cell(points(summary.invalid_actions)),
                Cell(f"{summary.tokens:,}" if summary.tokens else DASH),
                Cell(points(minimum_detectable(unpaired, summary.n_tasks))),
            ]
            rows.append(tuple(cells))
    numbers = ("tasks", "success %", "steps", "invalid %", "tokens", "detectable")
    headings = ("task set", "agent", "episodes", *numbers)
    caption = "Success, steps, invalid actions and episodes by status"
    notes = (
        "Success: share of tasks solved (score 1), with Wilson's interval, or the bootstrap's if "
        "seeds of a task disagree. Steps: mean number of steps of an episode. Invalid: share of "
        "actions that the world did not accept. Only completed and truncated episodes count in "
        "means.",
        "Detectable: the minimum difference in points that these tasks would detect, with a power "
        "of 80 % at the 5 % level, from an agent whose episodes are not available (unpaired, same "
        "standard deviation), such as a published result. For the paired one see “Differences”.",
    )
    table = Table(headings, tuple(rows), 3, "episodes", caption)
    return Section("Episodes", tables=(table,), notes=notes)


def differences(against: str, results: Sequence[Difference]) -> Section:
    """Every agent minus one of them, task by task.

    Args:
        against: label of the agent with which the others are compared.
        results: the differences.
    """
    rows = []
    for difference in results:
        result = difference.result
        if difference.is_significant:
            verdict = "better" if result.difference.mean > 0 else "worse"
        else:
            verdict = "not significant" if result.n_tasks else "no common task"
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
    numbers = ("tasks", "difference", "p", "p (Holm)", "detectable")
    headings = ("task set", "agent", f"against {against}", *numbers)
    notes = (
        f"Difference from {against} in points of average reward, on the tasks that both have "
        "played, with a 95 % bootstrap interval over tasks. p: two-sided sign-flip test (exact if "
        f"at most 16 tasks differ), corrected for the {len(rows)} comparisons of this table. "
        "Detectable: the minimum true difference that these tasks would detect, with a power of "
        "80 % at the 5 % level.",
        NO_INTERVAL_NOTE,
    )
    caption = f"Paired differences from {against}, points of average reward"
    table = Table(headings, tuple(rows), 3, "differences", caption)
    return Section("Differences", tables=(table,), notes=notes)


def probability(p: float) -> str:
    """A p-value, rounded."""
    if math.isnan(p):
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def task_types(comparison: Comparison) -> Section | None:
    """Average reward by task type, a table for each task set with types; None if none has any."""
    tables = []
    for column in comparison.columns:
        members = comparison.in_column(column)
        kinds = sorted({kind for _, split_run in members for kind in split_run.kinds})
        if len(kinds) < 2:
            continue
        rows = tuple(
            (Cell(kind or DASH), *(_kind(split_run.kinds.get(kind)) for _, split_run in members))
            for kind in kinds
        )
        labels = tuple(row.label for row, _ in members)
        slug = f"types-{column.env_id}-{column.split}".lower().replace("/", "-")
        caption = f"{column.title}: average reward × 100 by task type (tasks)"
        tables.append(Table(("task type", *labels), rows, 1, slug, caption))
    if not tables:
        return None
    note = "Few tasks give wide intervals; the differences of these tables are not tested."
    return Section("Task types", tables=tuple(tables), notes=(note,))


def _kind(split_run: SplitRun | None) -> Cell:
    scores = split_run.scores if split_run else []
    if not scores:
        return Cell(DASH)
    reward = bounded_mean(scores)
    n_tasks = len({task for task, _ in scores})
    return Cell(points(reward.mean), f"{_interval(reward)} ({n_tasks})".strip())


def provenance(comparison: Comparison, runs: Sequence[Run]) -> Section:
    """The task sets with their hashes, and the runs with their commits and versions."""
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
        "Provenance",
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
        # The folder's name without its path, which may reveal more than a shared report should.
        Cell(Path(run.folder).resolve().name),
        Cell("finished" if all(part.is_complete for part in run.splits) else "not finished"),
        Cell(" ".join(map(str, seeds))),
        Cell(str(run.provenance.get("commit") or DASH)[:12]),
        Cell(", ".join(f"{name} {number}" for name, number in versions.items()) or DASH),
    )
