"""The errors this library raises, and the check for optional packages.

    EtoError
    ├── UnknownNameError (ValueError)   a split, task, dataset, option or policy that does not exist
    ├── DataError
    │   ├── DataNotFoundError           a file is not there; the message says which command gets it
    │   └── CorruptDataError            a file is there but truncated, altered or of the wrong kind
    ├── ActionTypeError (TypeError)     an action that is not a string
    ├── EpisodeEndedError               `step` after the end of the episode
    ├── SnapshotError (ValueError)      a snapshot of another environment or dataset
    ├── BackendError                    a simulator failed; never turned into a reward
    └── MissingExtraError (ImportError) an optional package is not installed

An agent's mistake (an unknown command, a click on nothing) is not an error: the world answers it.
`step` before `reset` raises Gymnasium's own `gymnasium.error.ResetNeeded`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class EtoError(Exception):
    """Base class of every error that this library raises itself."""


class UnknownNameError(EtoError, ValueError):
    """A name that nothing answers to."""

    def __init__(self, kind: str, name: object, known: Iterable[str], hint: str = "") -> None:
        """Say what was asked for, what comes nearest and what there is.

        Args:
            kind: what the name should have named, such as ``"split"``.
            name: the name that was given.
            known: the names there are; at most ten are printed.
            hint: one sentence on what to do next.
        """
        names = list(known)
        message = f"no {kind} {name!r}"
        near = difflib.get_close_matches(str(name), names, n=1)
        if near:
            message += f"; did you mean {near[0]!r}?"
        elif names:
            shown = ", ".join(repr(n) for n in names[:10])
            message += f"; there are {len(names)}: {shown}{', …' if len(names) > 10 else ''}"
        if hint:
            message += f"{'' if near else '.'} {hint}"
        super().__init__(message)


class DataError(EtoError):
    """Something is wrong with data files."""


class DataNotFoundError(DataError):
    """A data file is not there."""


class CorruptDataError(DataError):
    """A data file is truncated, altered or not what it should be."""


class ActionTypeError(EtoError, TypeError):
    """An action that is not a string."""


class EpisodeEndedError(EtoError):
    """`step` was called after the end of the episode."""


class SnapshotError(EtoError, ValueError):
    """A snapshot was restored into an environment it does not belong to."""


class BackendError(EtoError):
    """A simulator or server behind an environment failed."""


class MissingExtraError(EtoError, ImportError):
    """An optional package is not installed."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module, or say which extra brings it.

    Args:
        module: dotted module name.
        extra: the extra of this distribution that installs it.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: the module's package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # the module is there, something inside it is not
        raise MissingExtraError(
            f"this needs the package {error.name!r}: pip install 'eto-gym[{extra}]'"
        ) from error
