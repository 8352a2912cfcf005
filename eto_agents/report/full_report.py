"""`write_report`: runs in, a folder with Markdown, LaTeX, CSV, figures and one HTML page out.

Everything is read, checked, computed and drawn before the first file is written: bad input leaves
an older report as it was.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eto_agents.evaluation.comparison import Comparison, Difference, compare
from eto_agents.evaluation.published import load_published
from eto_agents.evaluation.runs import Run, SplitRun, read_runs
from eto_agents.report import sections
from eto_agents.report.curves import figures_section
from eto_agents.report.document import Document, Section
from eto_agents.report.html import html
from eto_agents.report.latex import latex
from eto_agents.report.markdown import markdown
from eto_agents.report.published import protocols, published_section
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
    """Report runs side by side.

    Args:
        runs: folders of `eto eval`, or ``AGENT=FOLDER``; finished or not.
        out: folder for the files; those of an older report are replaced.
        against: the agent that others are compared with; by default the first one.
        iterations: runs of successive ETO iterations, in order, for the figure of the reward by
            iteration; they are reported like `runs`.
        tasks: ids whose score is drawn step by step.

    Returns:
        The files written: report.html, report.md, report.tex, report.csv, differences.csv and
        the figures.

    Raises:
        DataError: a run is damaged or empty, two runs do not compare, or `out` is a run itself.
        UnknownNameError: no such agent or task.
    """
    if (out / "run.json").exists():
        raise DataError(
            f"{out} is a run, and its own report.md would be lost: choose another --out"
        )
    read = read_runs([*runs, *(name for name in iterations if name not in runs)])
    chosen = [_find(read, name) for name in iterations]
    comparison = compare(read)
    reference = comparison.row(against).label if against else comparison.rows[0].label
    found = comparison.against(reference)
    document = _document(
        comparison, read, reference, found, figures_section(comparison, chosen, tasks)
    )
    contents = {
        "report.html": html(document).encode(),
        "report.md": markdown(document).encode(),
        "report.tex": latex(document).encode(),
        "report.csv": _csv(_figure_rows(comparison)),
        "differences.csv": _csv(_difference_rows(found)),
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
    found: Sequence[Difference],
    figures: Section,
) -> Document:
    published = load_published()
    parts = [sections.results(comparison)]
    if found:
        parts.append(sections.differences(comparison, reference, found))
    parts += [sections.episodes(comparison), figures]
    kinds = sections.task_types(comparison)
    if kinds is not None:
        parts.append(kinds)
    beside = published_section(comparison, published)
    parts.append(replace(beside, notes=(*beside.notes, *protocols(published))))
    parts.append(sections.provenance(comparison, runs))
    return Document("Evaluation report", tuple(parts))


def _figure_rows(comparison: Comparison) -> Iterable[dict[str, Any]]:
    for column in comparison.columns:
        for row, split_run in comparison.in_column(column):
            yield {"agent": row.label, "task_type": "", **_figures(split_run)}
            if len(split_run.kinds) > 1:
                for kind, part in split_run.kinds.items():
                    yield {"agent": row.label, "task_type": kind, **_figures(part)}


def _figures(split_run: SplitRun) -> dict[str, Any]:
    figures = split_run.figures
    return {
        "env_id": split_run.env_id,
        "split": split_run.split,
        "dataset": split_run.dataset,
        "tasks_sha256": split_run.sha256,
        "max_steps": split_run.max_steps,
        "is_whole": split_run.is_whole,
        "n_tasks": figures.n_tasks,
        "n_episodes": figures.n_episodes,
        "n_planned": split_run.n_planned,
        **{f"reward_{key}": value for key, value in figures.reward._asdict().items()},
        **{f"success_{key}": value for key, value in figures.success._asdict().items()},
        "steps": figures.steps,
        "invalid_actions": figures.invalid_actions,
        "tokens": figures.tokens,
        "statuses": json.dumps(figures.statuses),
    }


def _difference_rows(found: Iterable[Difference]) -> Iterable[dict[str, Any]]:
    for difference in found:
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
    """Rows as a CSV file; rewards in [0, 1], unrounded; empty where there is nothing to say."""
    rows = list(rows)
    text = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _plain(value: Any) -> Any:
    return "" if isinstance(value, float) and value != value else value
