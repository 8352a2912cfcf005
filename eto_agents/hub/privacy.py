"""What of a run's files is private: paths of the machine, and credentials.

Paths are rewritten, since a run is as useful without them. A credential is none of a run's content:
whoever finds one must not send the file. Texts of episodes are content and remain as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from eto_agents.trajectory import Trajectory

_ABSOLUTE: Final = re.compile(
    r"(?<![\w.~/\\:])"  # not inside of a relative path or an address
    r"((?:\w{2,}:)?)"  # such as ``hf:``
    r"(?:[A-Za-z]:)?(?:[/\\][^\s/\\:'\"<>|,;()\[\]{}]+){2,}[/\\]?"
)
"""A path of at least two parts; ``/`` alone and ``/help`` are none."""

_CREDENTIALS: Final = re.compile(
    rb"\b(?:hf_[A-Za-z0-9]{30,}|sk-(?:proj|ant|or)-[\w-]{20,}|sk-[A-Za-z0-9]{32,})"
)
_SECRET_NAME: Final = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_SHORTEST_SECRET: Final = 12


def without_paths(value: Any) -> Any:
    """JSON values with the paths in their texts rewritten; see `without_path`."""
    if isinstance(value, str):
        return without_path(value)
    if isinstance(value, Mapping):
        return {key: without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(inner) for inner in value]
    return value


def without_path(text: str) -> str:
    """A text that does not tell where files are on this machine.

    Paths below the working directory become relative to it, those below the home directory begin
    with ``~``, and of others the last part is left.
    """
    for folder, short in ((Path.cwd(), ""), (Path.home(), "~/")):
        if folder != Path(folder.anchor):
            text = text.replace(f"{folder}{os.sep}", short)

    def shortened(found: re.Match[str]) -> str:
        return found[1] + re.split(r"[/\\]", found[0].rstrip("/\\"))[-1]

    return _ABSOLUTE.sub(shortened, text)


def without_paths_of(episode: Trajectory) -> Trajectory:
    """An episode without paths of this machine: they are in names, and in tracebacks of agents."""
    return replace(
        episode,
        dataset=without_path(episode.dataset),
        policy=without_path(episode.policy),
        error=without_path(episode.error.partition("\n")[0]),
    )


def credential_in(content: bytes) -> str | None:
    """Describe what looks like a credential in a file; None if nothing does.

    Args:
        content: the file's content. It is searched for the values of environment variables whose
            names end like ``API_KEY``, and for the forms of well-known keys.
    """
    for name, value in os.environ.items():
        is_secret = _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET
        if is_secret and value.encode(errors="surrogateescape") in content:
            return f"the value of ${name}"
    found = _CREDENTIALS.search(content)
    return None if found is None else f"a key that begins with {found[0][:6].decode()!r}"
