"""Generates pages from the code: environments, commands and the settings of recipes.

The page of an environment consists of the docstring of its class and of related modules, the page
of the commands of their help texts, and the page of recipes of the dataclasses that they fill.

`python docs/generate.py` writes the pages; `--check` only reports the pages that are out of date.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import inspect
import io
import json
import os
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
RECIPES = """# Settings of recipes

A *recipe* is a TOML file with all settings of `eto reproduce`. This page lists every setting.
Name a built-in recipe, or the path of a file of your own:

```console
$ eto reproduce --recipe cpu --set dpo.beta=0.5 alfworld.sft.epochs=3
$ eto reproduce --recipe my.toml --dry-run
```

A section such as `[sft]` applies to all worlds, and `[worlds.alfworld.sft]` overrides it for one.
`--set` overrides both. A file of your own can start from a built-in recipe, and then contains
only what differs:

```toml
like = "cpu"
seeds = [0, 1, 2]

[dpo]
beta = 0.5

[worlds.alfworld.sft]
epochs = 3
```

The settings of the training methods are those of `eto train`, in the same words. What a recipe
sets in one place, such as the model, the environment and the seed, is not repeated in the
sections of the methods. A misspelt name, a value of the wrong type and one that is out of range
are errors.
"""
MINIMAL_RECIPE: dict[str, Any] = {"worlds": {"webshop": {"env": "ETO-WebShop-v0"}}}
TOML_NAMES = {
    bool: "true or false",
    dict: "table",
    float: "number",
    int: "integer",
    str: "text",
    tuple: "list",
}


def pages() -> Iterator[tuple[str, str]]:
    """Path and text of every page."""
    for path, (env_id, *targets) in ENVIRONMENTS.items():
        yield path, environment_page(env_id, *targets)
    yield "cli.md", "\n".join([COMMAND_LINE, *help_sections()])
    yield "recipes.md", "\n".join([RECIPES, *recipe_sections()])


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


def recipe_sections() -> Iterator[str]:
    """The built-in recipes, and a table of the settings of each section."""
    from eto_agents.reproduce.recipe import (
        METHODS,
        Recipe,
        World,
        built_in_recipes,
        parse_recipe,
        read_recipe,
    )

    yield "## Built-in recipes\n\n| recipe | |\n|---|---|"
    yield "\n".join(f"| `{name}` | {read_recipe(name).about} |" for name in built_in_recipes())
    yield "\n## At the top of the file\n"
    fields = (each.name for each in dataclasses.fields(Recipe))
    yield settings_table(Recipe(""), [name for name in fields if name not in ("name", "worlds")])
    rows = ", ".join(f"`{key}` ({label})" for key, label in METHODS.items())
    yield f"\nThe methods are {rows}."
    world = parse_recipe("", MINIMAL_RECIPE, {}).worlds["webshop"]
    sections = {each.name: getattr(world, each.name) for each in dataclasses.fields(world)}
    sections |= {"world": World(), "dpo": world.eto.dpo}
    read = {
        section: [each.name for each in dataclasses.fields(settings) if is_read(section, each.name)]
        for section, settings in sections.items()
        if dataclasses.is_dataclass(settings)
    }
    for section, names in read.items():
        settings = sections[section]
        yield f"\n## `[{'worlds.NAME' if section == 'world' else section}]`\n"
        if section != "sft" and isinstance(settings, type(world.sft)):
            left_out = [f"`{name}`" for name in read["sft"] if name not in names]
            but = f", except {' and '.join(left_out)}" if left_out else ""
            yield f"All settings of `[sft]`{but}. The defaults are the recipe's values there.\n"
            names = [name for name in names if name not in read["sft"]]
        else:
            yield f"{(inspect.getdoc(settings) or '').splitlines()[0]}\n"
        if names:
            yield settings_table(settings, names)
    yield "\n## `[worlds.NAME.measured]`\n"
    yield "The seconds that each method took, by name; they give the remaining time of a run.\n"


def is_read(section: str, name: str) -> bool:
    """Whether a recipe may set this, and does not derive it from another section."""
    from eto_agents.reproduce.recipe import parse_recipe
    from eto_agents.settings import SettingsError
    from eto_envs.errors import UnknownNameError

    record = copy.deepcopy(MINIMAL_RECIPE)
    part = record["worlds"]["webshop"]
    (part if section == "world" else part.setdefault(section, {}))[name] = object()
    try:
        parse_recipe("", record, {})
    except SettingsError:  # known, and of a wrong type
        return True
    except UnknownNameError:
        return False
    raise AssertionError(f"any value is accepted for {section}.{name}")


def settings_table(settings: Any, names: Sequence[str]) -> str:
    """A Markdown table of the fields of a dataclass: type, value and description."""
    hints = typing.get_type_hints(type(settings))
    texts = descriptions(type(settings))
    lines = ["| setting | type | default | |", "|---|---|---|---|"]
    for name in names:
        value = getattr(settings, name)
        default = "" if value in (None, "") else f"`{json.dumps(value, default=dict)}`"
        lines.append(f"| `{name}` | {toml_type(hints[name])} | {default} | {texts[name]} |")
    return "\n".join(lines)


def descriptions(cls: type) -> dict[str, str]:
    """The texts under "Attributes:" in the docstrings of a class and its parents."""
    texts: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        _, _, attributes = (inspect.cleandoc(each.__doc__ or "")).partition("Attributes:\n")
        for entry in re.split(r"^ {4}(?=\w)", attributes, flags=re.MULTILINE)[1:]:
            name, _, text = entry.partition(":")
            texts[name] = " ".join(text.split()).replace("|", "\\|")
    return {name: text[:1].upper() + text[1:] for name, text in texts.items()}


def toml_type(hint: Any) -> str:
    """What a setting's type is called in TOML, with the choices if there are some."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return toml_type(next(part for part in inner if part is not type(None)))
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin is tuple:
        return f"list of {toml_type(inner[0])}"
    return TOML_NAMES[dict if origin is not None and issubclass(origin, Mapping) else hint]


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
