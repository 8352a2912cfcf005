"""The command line as a module, for launchers that start one."""

from __future__ import annotations

from eto_agents.cli import main

if __name__ == "__main__":
    main()
