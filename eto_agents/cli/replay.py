"""`eto replay`."""

from __future__ import annotations

import sys
from pathlib import Path

from tyro.conf import Positional


def replay(runs: Positional[tuple[Path, ...]], out: Path = Path("replay.html")) -> None:
    """Write one HTML page in which every episode of the runs can be read; it needs no network.

    Args:
        runs: folders of runs; with two or more, agents can be read side by side on one task.
        out: the page's file.
    """
    from eto_agents.evaluation.replay import write_replay

    n_bytes = write_replay(runs, out)
    sys.stdout.write(f"written to {out} ({n_bytes / 1e6:.1f} MB)\n")
