"""The command line as a module, for launchers that start a module; it registers the test worlds."""

from __future__ import annotations

import tests.agents.training.worlds  # noqa: F401 (registers them)
from eto_agents.cli import main

if __name__ == "__main__":
    main()
