"""`write_report`: compares runs in a folder of Markdown, LaTeX, CSV, figures and an HTML page.

Everything is read, checked, computed and drawn before the first file is written, so that bad input
leaves an existing report unchanged.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eto_agents.evaluation.comparison import Comparison, Difference, compare
from eto_agents.evaluation.published import load_published
from eto_agents.evaluation.runs import Run, SplitRun, read_runs
from eto_agents.plain_text import printable
from eto_agents.report import sections
from eto_agents.report.curves import figures_section
from eto_agents.report.document import Document, Section
from eto_agents.report.html import html
from eto_agents.report.latex import latex
from eto_agents.report.markdown import markdown
from eto_agents.report.published import published_section
from eto_agents.strict_json import json_text
from eto_envs.errors import DataError
from eto_envs.files import write_whole


def write_report(
    runs: Sequence[str],
    out: Path,
    *,
    against: str | None = None,
    iterations: Sequence[str] = (),
    tasks: Sequence[str] = (),
) -> list[Path]:
    """Write a report that compares runs.

    Args:
        runs: folders of `eto eval`, or ``AGENT=FOLDER``; finished or not.
        out: folder of the report; the files of an existing report are replaced.
        against: the agent with which the others are compared; by default the first one.
        iterations: runs of successive ETO iterations in order, for the figure of the reward by
            iteration; they are reported like `runs`.
        tasks: ids of tasks whose score is drawn step by step.

    Returns:
        The files written: report.html, report.md, report.tex, report.csv, differences.csv and
        the figures.

    Raises:
        DataError: a run is damaged or empty, two runs are not comparable, or `out` is itself a run.
        UnknownNameError: there is no such agent or task.
    """
    if (out / "run.json").exists():
        raise DataError(
            f"{out} is a run, whose own report.md would be overwritten: choose another --out"
        )
    all_runs = read_runs([*runs, *(name for name in iterations if name not in runs)])
    iteration_runs = [_find(all_runs, name) for name in iterations]
    comparison = compare(all_runs)
    reference = comparison.row(against).label if against else comparison.rows[0].label
    differences = comparison.against(reference)
    figures = figures_section(comparison, iteration_runs, tasks)
    document = _document(comparison, all_runs, reference, differences, figures)
    contents = {
        "report.html": html(document).encode(),
        "report.md": markdown(document).encode(),
        "report.tex": latex(document).encode(),
        "report.csv": _csv(_result_records(comparison)),
        "differences.csv": _csv(_difference_records(differences)),
    }
    for image in document.images:
        contents[f"figures/{image.name}.svg"] = image.svg
        contents[f"figures/{image.name}.png"] = image.png
    for name, content in contents.items():
        write_whole(out / name, content)
    return [out / name for name in contents]


def _find(runs: Sequence[Run], name: str) -> Run:
    folder = Path(name if Path(name).exists() else name.partition("=")[2]).resolve()
    return next(run for run in runs if run.folder.resolve() == folder)


def _document(
    comparison: Comparison,
    runs: Sequence[Run],
    reference: str,
    differences: Sequence[Difference],
    figures: Section,
) -> Document:
    published = load_published()
    parts = [sections.results(comparison)]
    if differences:
        parts.append(sections.differences(reference, differences))
    parts += [sections.episodes(comparison), figures]
    task_types = sections.task_types(comparison)
    if task_types is not None:
        parts.append(task_types)
    parts.append(published_section(comparison, published))
    parts.append(sections.provenance(comparison, runs))
    return Document("Evaluation report", tuple(parts))


def _result_records(comparison: Comparison) -> Iterable[dict[str, Any]]:
    for column in comparison.columns:
        for row, split_run in comparison.in_column(column):
            yield {"agent": row.label, "task_type": "", **_result_record(split_run)}
            if len(split_run.kinds) > 1:
                for kind, part in split_run.kinds.items():
                    yield {"agent": row.label, "task_type": kind, **_result_record(part)}


def _result_record(split_run: SplitRun) -> dict[str, Any]:
    summary = split_run.summary
    return {
        "env_id": split_run.env_id,
        "split": split_run.split,
        "dataset": split_run.dataset,
        "tasks_sha256": split_run.sha256,
        "max_steps": split_run.max_steps,
        "is_complete": split_run.is_complete,
        "n_tasks": summary.n_tasks,
        "n_episodes": summary.n_episodes,
        "n_planned": split_run.n_planned,
        **{f"reward_{key}": value for key, value in summary.reward._asdict().items()},
        **{f"success_{key}": value for key, value in summary.success._asdict().items()},
        "steps": summary.steps,
        "invalid_actions": summary.invalid_actions,
        "tokens": summary.tokens,
        "statuses": json_text(summary.statuses),
    }


def _difference_records(differences: Iterable[Difference]) -> Iterable[dict[str, Any]]:
    for difference in differences:
        result = difference.result
        yield {
            "agent": difference.first,
            "against": difference.second,
            "env_id": difference.column.env_id,
            "split": difference.column.split,
            "n_tasks": result.n_tasks,
            **{f"difference_{key}": value for key, value in result.difference._asdict().items()},
            "p": result.p,
            "p_holm": difference.p_holm,
            "detectable": result.detectable,
        }


def _csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as a CSV file; rewards are unrounded in [0, 1], and NaN is an empty field."""
    rows = list(rows)
    text = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _field(value) for key, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _field(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return ""
    if not isinstance(value, str):
        return value
    # A spreadsheet would calculate what begins like a formula; the apostrophe makes it a text.
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text
