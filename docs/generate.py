"""Generates pages from the code: environments from docstrings, commands from their help texts.

The page of an environment consists of the docstring of its class and of related modules.

`python docs/generate.py` writes the pages; `--check` only reports the pages that are out of date.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ENVIRONMENTS = {
    "environments/alfworld.md": ("ETO-ALFWorld-v0", "eto_envs.alfworld.env:ALFWorldEnv"),
    "environments/scienceworld.md": (
        "ETO-ScienceWorld-v0",
        "eto_envs.scienceworld.env:ScienceWorldEnv",
    ),
    "environments/webshop.md": (
        "ETO-WebShop-v0",
        "eto_envs.webshop.env:WebShopEnv",
        "eto_envs.webshop.site",
    ),
    "environments/webshop_browser.md": (
        "ETO-WebShopBrowser-v0",
        "eto_envs.webshop.browser.env:WebShopBrowserEnv",
    ),
}
WIDTH = 100
COMMAND_LINE = """# The command line

The `--help` text of every command. Exit codes: 0 for success, 1 for a failure that the message
explains, 2 for incorrect usage, 130 if interrupted, and 128 + N if signal N ended it.
"""


def pages() -> Iterator[tuple[str, str]]:
    """Path and text of every page."""
    for path, (env_id, *targets) in ENVIRONMENTS.items():
        yield path, environment_page(env_id, *targets)
    yield "cli.md", "\n".join([COMMAND_LINE, *help_sections()])


def environment_page(env_id: str, *targets: str) -> str:
    """The page of one environment: the docstrings of its class and of related modules."""
    return "\n".join([f"# {env_id}\n", *(f"{docstring(target)}\n" for target in targets)])


def docstring(target: str) -> str:
    """The docstring of a module, or of a class in one."""
    module_name, _, name = target.partition(":")
    module = importlib.import_module(module_name)
    return inspect.getdoc(getattr(module, name) if name else module) or ""


def help_sections(*command: str) -> Iterator[str]:
    """A section for a command and for each of its subcommands."""
    text = help_of(*command)
    yield f"## {' '.join(['eto', *command])}\n\n```text\n{text}\n```\n"
    usage = " ".join(text.partition("\n\n")[0].split())
    if subcommands := re.search(r"\[-h\] \{([\w,-]+)\}", usage):
        for name in subcommands[1].split(","):
            yield from help_sections(*command, name)


def help_of(*command: str) -> str:
    """The output of ``eto COMMAND --help`` in a terminal of `WIDTH` columns."""
    from eto_agents.cli import main

    os.environ["COLUMNS"] = str(WIDTH)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def main(check: bool) -> int:
    """Write the pages, or only check them.

    Returns:
        The exit code: 1 if a check fails, else 0.
    """
    n_outdated = 0
    for path, text in pages():
        file = Path(__file__).parent / path
        if file.exists() and file.read_text(encoding="utf-8") == text:
            continue
        n_outdated += 1
        if not check:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path} was out of date\n")
    return int(check and n_outdated > 0)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
