"""`eto replay`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from eto_envs.errors import UnknownNameError


def replay(
    runs: Positional[Annotated[tuple[str, ...], arg(metavar="RUN …")]] = (),
    out: Path = Path("replay.html"),
) -> None:
    """Write one HTML page in which every episode of the runs can be read; it needs no network.

    Args:
        runs: folders of `eto eval` or `eto collect`, finished or not; AGENT=FOLDER names the
            agent. With two or more, agents can be read side by side on one task.
        out: the page's file.
    """
    from eto_agents.report.replay import write_replay

    if not runs:
        raise UnknownNameError("run", "", (), "Name at least one folder that `eto eval` wrote.")
    n_bytes = write_replay(runs, out)
    sys.stdout.write(f"written to {out} ({n_bytes / 1e6:.1f} MB)\n")
