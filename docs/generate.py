"""Writes the pages that come from the code: one page an environment, from its class's docstring.

A page may go on with the docstring of a module.

`python docs/generate.py` writes them; `--check` only says whether they are current.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

PAGES = {
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


def page(env_id: str, *targets: str) -> str:
    """The page of one environment: the docstrings of its class and of what goes with it."""
    return "\n".join([f"# {env_id}\n", *(f"{docstring(target)}\n" for target in targets)])


def docstring(target: str) -> str:
    """The docstring of a module, or of a class in one."""
    module_name, _, name = target.partition(":")
    module = importlib.import_module(module_name)
    return inspect.getdoc(getattr(module, name) if name else module) or ""


def main(check: bool) -> int:
    """Write the pages, or only check them; the exit code."""
    n_outdated = 0
    for path, (env_id, *targets) in PAGES.items():
        file = Path(__file__).parent / path
        text = page(env_id, *targets)
        if file.exists() and file.read_text(encoding="utf-8") == text:
            continue
        n_outdated += 1
        if not check:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path} was not current\n")
    return int(check and n_outdated > 0)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
