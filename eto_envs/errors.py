"""The errors that this library raises, and the import of optional packages.

    EtoError
    ├── UnknownNameError (ValueError)   a split, task, dataset, option or policy that does not exist
    ├── DataError
    │   ├── DataNotFoundError           a file is missing; the message says how to get it
    │   ├── EmptySplitError (ValueError) a split of a dataset has no task
    │   └── CorruptDataError            a file is truncated, altered or of the wrong kind
    ├── ActionTypeError (TypeError)     an action that is not a string
    ├── EpisodeEndedError               `step` after the end of the episode
    ├── SnapshotError (ValueError)      a snapshot of another environment or dataset
    ├── BackendError                    a simulator failed; this is never turned into a reward
    └── MissingExtraError (ImportError) an optional package is not installed

A mistake of the agent (an unknown command, a click on nothing) is not an error: the world responds
to it. `step` before `reset` raises Gymnasium's own `gymnasium.error.ResetNeeded`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class EtoError(Exception):
    """Base class of all errors that this library defines."""


class UnknownNameError(EtoError, ValueError):
    """A name that does not exist."""

    def __init__(self, kind: str, name: object, known: Iterable[str], hint: str = "") -> None:
        """Compose the message: the name, the closest match or the valid names, and a hint.

        Args:
            kind: what the name refers to, such as ``"split"``.
            name: the unknown name.
            known: the valid names; at most ten are printed.
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
    """Base class of problems with data files."""


class DataNotFoundError(DataError):
    """A data file is missing."""


class EmptySplitError(DataError, ValueError):
    """A split of a dataset has no task."""


class CorruptDataError(DataError):
    """A data file is truncated, altered or of the wrong kind."""


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
    """Import an optional module, or raise an error that says which extra installs it.

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
            raise  # the module exists, but something that it imports does not
        raise MissingExtraError(
            f"this requires the package {error.name!r}: pip install 'eto-gym[{extra}]'"
        ) from error
