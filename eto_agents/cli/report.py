"""`eto report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from eto_envs.errors import UnknownNameError


def report(
    runs: Positional[Annotated[tuple[str, ...], arg(metavar="RUN …")]] = (),
    out: Path = Path("runs/report"),
    against: str | None = None,
    iterations: Annotated[tuple[str, ...], arg(metavar="RUN …")] = (),
    tasks: Annotated[tuple[str, ...], arg(metavar="ID …")] = (),
) -> None:
    """Report runs side by side: one HTML page, Markdown, LaTeX, CSV and figures.

    Args:
        runs: folders of `eto eval`, finished or not; AGENT=FOLDER names the agent.
        out: folder for the report; an older report there is replaced.
        against: the agent that the others are compared with; by default the first.
        iterations: runs of successive ETO iterations in order, for the reward by iteration.
        tasks: ids of tasks whose reward is drawn step by step.
    """
    from rich.console import Console

    from eto_agents.report.full_report import write_report

    if not runs and not iterations:
        raise UnknownNameError("run", "", (), "Name at least one folder that `eto eval` wrote.")
    files = write_report(runs, out, against=against, iterations=iterations, tasks=tasks)
    names = ", ".join(file.name for file in files if file.parent == out)
    Console(highlight=False, markup=False).print(f"written to {out}: {names}", soft_wrap=True)
