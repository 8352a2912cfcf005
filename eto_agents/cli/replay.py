"""`eto replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from eto_agents.console import show
from eto_envs.errors import UnknownNameError


def replay(
    runs: Positional[Annotated[tuple[str, ...], arg(metavar="RUN …")]] = (),
    out: Path = Path("replay.html"),
) -> None:
    """Write an HTML page that shows every episode of the runs, step by step.

    The page is a single file and needs no network.

    With two or more runs, agents can be compared side by side on the same task.

    For example:
        eto replay runs/expert sft=runs/sft-eval --out replay.html

    Args:
        runs: Folders written by `eto eval` or `eto collect`, complete or not. AGENT=FOLDER gives
            the agent a name.
        out: File to write.
    """
    from eto_agents.report.replay import write_replay

    if not runs:
        raise UnknownNameError("run", "", (), "Give at least one folder written by `eto eval`.")
    n_bytes = write_replay(runs, out)
    show(f"written to {out} ({n_bytes / 1e6:.1f} MB)")
