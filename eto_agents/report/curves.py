"""The data of a report's figures, computed from its comparison.

The score after each step is that of the paper's Figure 3: it starts at 0, and an episode that has
ended keeps its score. Its mean is over the tasks that all agents have played. The reward by
iteration is the paper's Figure 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from eto_agents.evaluation.comparison import Column, Comparison
from eto_agents.evaluation.runs import Run, SplitRun
from eto_agents.evaluation.statistics import Estimate
from eto_agents.report import figures
from eto_agents.report.document import Image, Section
from eto_agents.report.figures import Line
from eto_agents.worlds.base import title_of
from eto_envs.errors import UnknownNameError

MAX_TASKS = 6


def figures_section(
    comparison: Comparison, iterations: Sequence[Run] = (), tasks: Sequence[str] = ()
) -> Section:
    """All figures of a report.

    Args:
        comparison: the runs.
        iterations: runs of successive ETO iterations in order, counted from 0 in each world; the
            figure of the reward by iteration is left out if there are none.
        tasks: ids of tasks whose score is drawn step by step; by default one of each task set.

    Raises:
        UnknownNameError: no agent has played one of `tasks`.
    """
    images = [_bars(comparison), _means(comparison)]
    # Without a task that all agents have played there is none to draw.
    if chosen := _requested(comparison, tasks) if tasks else _most_varied(comparison):
        images.append(_chosen_tasks(comparison, chosen, is_requested=bool(tasks)))
    if iterations:
        images.append(_iterations(iterations))
    return Section("Figures", images=tuple(images))


def score_by_step(split_run: SplitRun, task_ids: Iterable[str], n_steps: int) -> list[float]:
    """Mean score after 0, 1, …, `n_steps` steps, with equal weight for each task.

    Args:
        split_run: an agent's episodes.
        task_ids: the tasks to average over; the agent must have counted episodes of each.
        n_steps: the last step; shorter episodes keep their last score.

    Returns:
        `n_steps` + 1 scores in [0, 1]; NaN without tasks.
    """
    by_task = _curves(split_run)
    means = []
    task_ids = list(task_ids)
    if not task_ids:
        return [math.nan] * (n_steps + 1)
    for step in range(n_steps + 1):
        at_step = [
            math.fsum(curve[min(step, len(curve) - 1)] for curve in by_task[task])
            / len(by_task[task])
            for task in task_ids
        ]
        means.append(math.fsum(at_step) / len(at_step))
    return means


def _curves(split_run: SplitRun) -> dict[str, list[list[float]]]:
    """The scores after each step of the counted episodes, by task."""
    curves: dict[str, list[list[float]]] = {}
    for episode in split_run.counted:
        is_error = episode.status == "agent_error"  # counts as 0, whatever score it had reached
        curve = [0.0] if is_error else [0.0, *(step.score for step in episode.steps)]
        curves.setdefault(episode.task_id, []).append(curve)
    return curves


def _bars(comparison: Comparison) -> Image:
    return figures.bars(
        {
            column.title: {
                row.label: split_run.summary.reward
                for row, split_run in comparison.in_column(column)
            }
            for column in comparison.columns
        },
        _labels(comparison),
    )


def _labels(comparison: Comparison) -> list[str]:
    return [row.label for row in comparison.rows]


def _means(comparison: Comparison) -> Image:
    panels = {}
    for column in comparison.columns:
        tasks = _common_tasks(comparison, column)
        title = f"{column.title} ({len(tasks)} tasks)"
        panels[title] = _lines_of(comparison, column, tasks)
    caption = (
        "Reward after each step, averaged over the tasks that all agents have played. An episode "
        "that has ended keeps its score."
    )
    return figures.lines(
        panels, _labels(comparison), "reward-by-step", caption, "steps", is_stepped=True
    )


def _chosen_tasks(
    comparison: Comparison, chosen: Sequence[tuple[Column, str]], *, is_requested: bool
) -> Image:
    panels = {
        f"{column.title}: {task}": _lines_of(comparison, column, [task]) for column, task in chosen
    }
    rule = (
        "as requested"
        if is_requested
        else "of each task set, the one with the most distinct scores"
    )
    caption = f"Reward after each step on single tasks ({rule})."
    return figures.lines(
        panels, _labels(comparison), "reward-by-step-tasks", caption, "steps", is_stepped=True
    )


def _lines_of(comparison: Comparison, column: Column, tasks: Sequence[str]) -> list[Line]:
    members = [
        (row.label, split_run)
        for row, split_run in comparison.in_column(column)
        if tasks and set(tasks) <= {e.task_id for e in split_run.counted}
    ]
    n_steps = max(
        # One step more than the longest episode has, so that its last score is visible.
        (
            len(e.steps) + 1
            for _, split_run in members
            for e in split_run.counted
            if e.task_id in set(tasks)
        ),
        default=0,
    )
    return [
        Line(
            label,
            range(n_steps + 1),
            [Estimate(y, None, None) for y in score_by_step(split_run, tasks, n_steps)],
        )
        for label, split_run in members
    ]


def _common_tasks(comparison: Comparison, column: Column) -> list[str]:
    split_runs = [split_run for _, split_run in comparison.in_column(column)]
    common = set.intersection(*({e.task_id for e in split_run.counted} for split_run in split_runs))
    return sorted(common)


def _requested(comparison: Comparison, tasks: Sequence[str]) -> list[tuple[Column, str]]:
    played = {
        column: {
            e.task_id for _, split_run in comparison.in_column(column) for e in split_run.counted
        }
        for column in comparison.columns
    }
    for task in tasks:
        if not any(task in ids for ids in played.values()):
            known = sorted(set().union(*played.values()))
            raise UnknownNameError("task", task, known, "Name a task that was played.")
    return [(column, task) for task in tasks for column, ids in played.items() if task in ids]


def _most_varied(comparison: Comparison) -> list[tuple[Column, str]]:
    chosen = []
    for column in comparison.columns[:MAX_TASKS]:
        scores: dict[str, set[float]] = {task: set() for task in _common_tasks(comparison, column)}
        for _, split_run in comparison.in_column(column):
            for episode in split_run.counted:
                if episode.task_id in scores:
                    scores[episode.task_id].update(step.score for step in episode.steps)
        if scores:
            chosen.append((column, min(scores, key=lambda task: (-len(scores[task]), task))))
    return chosen


def _iterations(runs: Sequence[Run]) -> Image:
    worlds: dict[str, dict[str, list[SplitRun]]] = {}
    for run in runs:
        for split_run in run.splits:
            worlds.setdefault(split_run.env_id, {}).setdefault(split_run.split, []).append(
                split_run
            )
    panels: Mapping[str, Sequence[Line]] = {
        title_of(world): [
            Line(split, range(len(own)), [split_run.summary.reward for split_run in own])
            for split, own in splits.items()
        ]
        for world, splits in worlds.items()
    }
    splits_shown = list(dict.fromkeys(split_run.split for run in runs for split_run in run.splits))
    caption = (
        "Average reward × 100 by ETO iteration, with 95 % intervals. Iteration 0 is the policy "
        "before the first."
    )
    return figures.lines(panels, splits_shown, "reward-by-iteration", caption, "ETO iteration")
