"""The command `eto`: flags come from the functions' signatures, help from their docstrings.

Each command imports what it needs when it runs, so `eto --help` is quick. Exit codes: 0 done, 1 a
failure that the message explains, 2 misuse, 130 interrupted.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; `arguments` default to the process's own."""
    import gymnasium as gym
    from tyro.extras import SubcommandApp

    app = SubcommandApp()
    app.command(name="envs")(play.envs)
    app.command(name="eval")(evaluation.run)
    app.command(name="report")(report.report)
    app.command(name="replay")(replay.replay)
    app.command(name="play")(play.play)
    app.command(name="collect")(collect.run)
    app.command(name="export")(convert.export)
    app.command(name="import")(convert.import_file)
    app.command(name="audit")(audit.audit)
    app.command(name="reproduce")(reproduce.run)
    files = SubcommandApp()
    for name, command in data.COMMANDS.items():
        files.command(name=name)(command)
    app.command(files, name="data", help="List, download, verify, locate and build data.")
    sites = SubcommandApp()
    sites.command(name="webshop")(serve.webshop)
    app.command(sites, name="serve", help="Serve a world as web pages, for people.")
    stages = SubcommandApp()
    for name, command in train.COMMANDS.items():
        stages.command(name=name)(command)
    app.command(
        stages,
        name="train",
        help="Train a model (--config FILE reads settings from TOML).",
    )
    warnings.showwarning = _show_warning  # one line for a person, not a line of source code
    try:
        arguments = train.with_config(sys.argv[1:] if arguments is None else arguments)
        app.cli(prog="eto", description="Text worlds and language-model agents.", args=arguments)
    except (UnknownNameError, gym.error.UnregisteredEnv) as error:
        _fail(error, 2)
    except EtoError as error:
        _fail(error, 1)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone, as with `eto data list | head`
        sys.exit(0)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        sys.exit(130)


def _fail(error: Exception, code: int) -> None:
    sys.stderr.write(f"eto: {error}\n")
    sys.exit(code)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    sys.stderr.write(f"eto: warning: {message}\n")
