"""The program `eto`, also `python -m eto_agents`.

Until the command line is loaded, which takes most of a second, Ctrl-C ends the process at once:
there is nothing to clean up yet, and Python would print a traceback of its imports.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Load and run the command line."""
    was = signal.getsignal(signal.SIGINT)
    if was is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from eto_agents.cli import main as run

    signal.signal(signal.SIGINT, was)
    run()


if __name__ == "__main__":
    main()
