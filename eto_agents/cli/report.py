"""`eto report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from eto_agents.console import show
from eto_envs.errors import UnknownNameError


def report(
    runs: Positional[Annotated[tuple[str, ...], arg(metavar="RUN …")]] = (),
    out: Path = Path("runs/report"),
    against: str | None = None,
    iterations: Annotated[tuple[str, ...], arg(metavar="RUN …")] = (),
    tasks: Annotated[tuple[str, ...], arg(metavar="ID …")] = (),
) -> None:
    """Compare runs in a report: an HTML page, Markdown, LaTeX, CSV and figures.

    For example:
        eto report expert=runs/expert sft=runs/sft-eval --out runs/report

    Args:
        runs: Folders written by `eto eval`, complete or not. AGENT=FOLDER gives the agent a name.
        out: Folder of the report; an older report in it is replaced.
        against: Agent that the others are compared with; by default the first.
        iterations: Runs of successive ETO iterations, in order, for a figure of reward by
            iteration.
        tasks: Ids of tasks whose reward is plotted step by step.
    """
    from eto_agents.report.full_report import write_report

    if not runs and not iterations:
        raise UnknownNameError("run", "", (), "Give at least one folder written by `eto eval`.")
    files = write_report(runs, out, against=against, iterations=iterations, tasks=tasks)
    names = ", ".join(file.name for file in files if file.parent == out)
    show(f"written to {out}: {names}")
