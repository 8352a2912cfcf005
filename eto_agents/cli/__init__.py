"""The command `eto`: flags come from the functions' signatures, help from their docstrings.

Each command imports what it needs when it runs, so `eto --help` is quick. Exit codes: 0 success, 1
a failure that the message explains, 2 incorrect usage, 130 interrupted, 128 + N ended by signal N.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from eto_agents.cli import (
    audit,
    collect,
    convert,
    data,
    evaluation,
    play,
    push,
    replay,
    report,
    reproduce,
    serve,
    train,
)
from eto_agents.console import prepare_streams
from eto_agents.plain_text import printable
from eto_envs.data import cache_dir
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
    "push": push.push,
    "audit": audit.audit,
    "reproduce": reproduce.run,
}
GROUPS: Final[Mapping[str, Mapping[str, Callable[..., None]]]] = {
    "data": data.COMMANDS,
    "serve": serve.COMMANDS,
    "train": train.COMMANDS,
}
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_NOT_WRITABLE: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
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
Serve a world: as web pages for people, or to the agents of other projects.

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
    warnings.showwarning = _show_warning  # one line for a person, not a line of source code
    prepare_streams()
    if logging.lastResort is not None:  # what writes to stderr where nothing else is set up
        logging.lastResort.setFormatter(_Formatter())
    try:
        with _signals_raise():
            import gymnasium as gym

            try:
                arguments = train.with_config(sys.argv[1:] if arguments is None else arguments)
                _app(arguments).cli(prog="eto", description=ABOUT, args=arguments)
                sys.stdout.flush()
            except (UnknownNameError, gym.error.UnregisteredEnv) as error:
                _fail(str(error), 2)
            except gym.error.Error as error:
                # An id without a version, or of another form, raises Gymnasium's base class.
                if type(error) is not gym.error.Error:
                    raise
                known = ", ".join(name for name in gym.registry if name.startswith("ETO-"))
                _fail(f"{error}. The environments here are {known}.", 2)
            except EtoError as error:
                _fail(str(error), 1)
            except BrokenPipeError:  # the reader has closed the pipe: `eto data list | head`
                _close_stdout()
                sys.exit(0)
            except OSError as error:
                _fail(_describe(error), 1)
    except KeyboardInterrupt as error:
        with contextlib.suppress(OSError):  # the terminal may be gone
            sys.stderr.write("\ninterrupted\n")
        sys.exit(128 + getattr(error, "number", signal.SIGINT))


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


class _Signal(KeyboardInterrupt):
    """The process is to end; like Ctrl-C, so that files are closed and the cursor comes back."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Turn the signals that end a process into exceptions, once each."""

    def end(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends a clean-up that takes too long
        raise _Signal(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # not `nohup`
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _describe(error: OSError) -> str:
    """What the system refused, where, and what to do about it, in one sentence."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return reason
    path = os.fsdecode(error.filename)
    if Path(path).absolute().is_relative_to(cache_dir().absolute()):
        return f"cannot use {path}: {reason}; $ETO_DATA_DIR sets another folder for the data"
    hints = {
        **dict.fromkeys(_FULL, "; make room, or choose a folder on another disk"),
        **dict.fromkeys(_NOT_WRITABLE, "; choose another folder"),
    }
    return f"cannot use {path}: {reason}{hints.get(error.errno or 0, '')}"


def _fail(message: str, code: int) -> None:
    _close_stdout()
    sys.stderr.write(f"eto: {printable(message)}\n")
    sys.exit(code)


def _close_stdout() -> None:
    """Write what is left to stdout, if that is possible: at exit Python would fail with it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    sys.stderr.write(f"eto: warning: {printable(str(message))}\n")
