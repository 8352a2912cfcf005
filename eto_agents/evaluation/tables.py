"""Results as a table, in Markdown for files and drawn for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from eto_agents.console import table
from eto_agents.evaluation.results import Results, SplitResult
from eto_agents.evaluation.samples import in_words
from eto_agents.evaluation.statistics import Estimate
from eto_agents.markdown import escape_markdown, markdown_table
from eto_agents.trajectory import PLAYED

HEADINGS = (
    "agent",
    "world",
    "split",
    "n",
    "reward [95 %]",
    "success",
    "steps",
    "invalid",
    "missing",
)


def estimate(value: Estimate) -> str:
    """A mean with its interval, such as ``0.631 [0.580, 0.683]``."""
    if math.isnan(value.mean):
        return "–"
    if value.low is None or value.high is None:
        return f"{value.mean:.3f}"
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def rows(results: Sequence[Results]) -> list[tuple[str, ...]]:
    """A row of cells for each result and split, in the order of `HEADINGS`."""
    return [_row(result, split) for result in results for split in result.splits.values()]


def _row(result: Results, split: SplitResult) -> tuple[str, ...]:
    n_missing = split.n_planned - split.n_episodes
    reasons = ", ".join(
        f"{n} {status}" for status, n in split.statuses.items() if status not in PLAYED
    )
    n_seeds = split.n_episodes / split.n_tasks if split.n_tasks else 1
    return (
        result.policy,
        f"{result.env_id} ({result.dataset})",
        split.split,
        f"{split.n_tasks}" + ("" if n_seeds == 1 else f" × {n_seeds:g}"),
        estimate(split.reward),
        "–" if math.isnan(split.success.mean) else f"{split.success.mean:.1%}",
        "–" if math.isnan(split.steps) else f"{split.steps:.1f}",
        "–" if math.isnan(split.invalid_actions) else f"{split.invalid_actions:.1%}",
        f"{n_missing}" + (f" ({reasons})" if reasons else ""),
    )


def notes(results: Sequence[Results]) -> list[str]:
    """What a reader has to know to interpret the table."""
    out = [
        "Reward is the final score in [0, 1], averaged over tasks, with an interval over "
        "tasks. Success is the share of episodes with a score of 1."
    ]
    if any(result.dataset == "mini" for result in results):
        out.append("Scores on the embedded mini dataset are not comparable with published results.")
    for result in results:
        n_tasks = result.provenance.get("n_tasks")
        if n_tasks is not None:
            out.append(f"{result.policy}: only the first {n_tasks} tasks of each split.")
        if result.provenance.get("agent_errors") == "zero":
            out.append(f"{result.policy}: episodes in which the agent failed count as 0.")
        for split in result.splits.values():
            if split.samples:
                out.append(f"{result.policy}, {split.split}: {in_words(split.samples)}")
    return out


def results_page(results: Sequence[Results]) -> str:
    """The table and its notes as a Markdown page."""
    lines = ["# Results", "", markdown_table(HEADINGS, rows(results))]
    lines += ["", *(f"- {escape_markdown(note)}" for note in notes(results))]
    lines += ["", "## Task sets", ""]
    for result in results:
        for split in result.splits.values():
            name = escape_markdown(f"{result.env_id}, {split.split}")
            lines.append(f"- {name}: sha256 {escape_markdown(split.tasks_sha256)}")
    return "\n".join(lines) + "\n"


def terminal_table(result: Results) -> Any:
    """One result's table for a terminal of 80 columns."""
    return table(
        HEADINGS[2:],  # the title has the agent and the world
        [row[2:] for row in rows([result])],
        title=f"{result.policy} on {result.env_id} ({result.dataset})",
        caption=" ".join(notes([result])),
        right=("n", "success", "steps", "invalid"),
        is_compact=True,
    )
