"""The command `eto`: flags come from the functions' signatures, help from their docstrings.

Each command imports what it needs when it runs, so `eto --help` is quick. Exit codes: 0 success, 1
a failure that the message explains, 2 incorrect usage, 130 interrupted.
"""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from eto_agents.cli import (
    audit,
    collect,
    convert,
    data,
    evaluation,
    play,
    replay,
    report,
    reproduce,
    serve,
    train,
)
from eto_envs.errors import EtoError, UnknownNameError

if TYPE_CHECKING:
    from tyro.extras import SubcommandApp

COMMANDS: Final[Mapping[str, Callable[..., None]]] = {
    "envs": play.envs,
    "play": play.play,
    "eval": evaluation.run,
    "report": report.report,
    "replay": replay.replay,
    "collect": collect.run,
    "export": convert.export,
    "import": convert.import_file,
    "audit": audit.audit,
    "reproduce": reproduce.run,
}
GROUPS: Final[Mapping[str, Mapping[str, Callable[..., None]]]] = {
    "data": data.COMMANDS,
    "serve": serve.COMMANDS,
    "train": train.COMMANDS,
}
ABOUT: Final = """\
Play, evaluate and train language-model agents in WebShop, ScienceWorld and ALFWorld.

Every command explains its options: eto COMMAND --help

For example, evaluate the built-in expert on a small dataset that needs no download:
    eto eval --env ETO-ALFWorld-v0 --dataset mini --policy expert"""
ABOUT_GROUPS: Final[Mapping[str, str]] = {
    "data": """\
List, download, verify, locate and build the official datasets.

For example:
    eto data list
    eto data download webshop-small""",
    "serve": """\
Serve a world as web pages on which people can play.

For example:
    eto serve webshop --dataset mini --port 8000""",
    "train": """\
Train a model with SFT, RFT, DPO, PPO, GRPO or ETO.

With --config FILE, options are read from a TOML file; flags override it.

For example:
    eto train sft --data runs/experts --model tiny:small --out runs/sft""",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: the words after ``eto``; by default the process's own.
    """
    import gymnasium as gym

    warnings.showwarning = _show_warning  # one line for a person, not a line of source code
    try:
        arguments = train.with_config(sys.argv[1:] if arguments is None else arguments)
        _app(arguments).cli(prog="eto", description=ABOUT, args=arguments)
    except (UnknownNameError, gym.error.UnregisteredEnv) as error:
        _fail(error, 2)
    except EtoError as error:
        _fail(error, 1)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has closed the pipe, as in `eto data list | head`
        sys.exit(0)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        sys.exit(130)


def _app(arguments: Sequence[str]) -> SubcommandApp:
    """The commands and groups of commands.

    tyro prints a command's description in the list of commands, too. The list is readable only if
    it has one line per command, so all but the command named by `arguments` get their first line.
    """
    from tyro.extras import SubcommandApp

    def about(text: str, *command: str) -> str:
        is_named = tuple(arguments[: len(command)]) == command
        return text if is_named else text.partition("\n")[0]

    def add(app: SubcommandApp, function: Callable[..., None], *command: str) -> None:
        description = _join_lines(function)
        app.command(name=command[-1], help=about(description, *command))(function)

    app = SubcommandApp()
    for name, function in COMMANDS.items():
        add(app, function, name)
    for group, functions in GROUPS.items():
        inner = SubcommandApp()
        for name, function in functions.items():
            add(inner, function, group, name)
        app.command(inner, name=group, help=about(ABOUT_GROUPS[group], group))
    return app


def _join_lines(function: Callable[..., None]) -> str:
    """Put each argument's help on one line of the docstring, since tyro would keep line breaks.

    Returns:
        The docstring's text above the arguments.
    """
    description, heading, arguments = (inspect.getdoc(function) or "").partition("\nArgs:\n")
    function.__doc__ = description + heading + re.sub(r"\n {8,}", " ", arguments)
    return description.strip()


def _fail(error: Exception, code: int) -> None:
    sys.stderr.write(f"eto: {error}\n")
    sys.exit(code)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    sys.stderr.write(f"eto: warning: {message}\n")
