"""Builds ``host.jar`` from ``java/``: ``python -m eto_envs.scienceworld.build_host``.

The jar is package data, so that users need no compiler. This script rebuilds it, byte for byte,
with `javac` and the installed simulator. Not here: running it (`bridge`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

from eto_envs.errors import BackendError
from eto_envs.scienceworld.bridge import HOST_JAR
from eto_envs.scienceworld.installed import find_simulator

SOURCES = Path(__file__).with_name("java")
RELEASE = "11"
"""The oldest Java version that can run the host."""
JAVAC_MAJOR = 17
"""The compiler version that built the shipped jar; others may produce different bytes."""

_TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the earliest timestamp in a zip file
_MANIFEST = b"Manifest-Version: 1.0\r\n\r\n"


def build(target: Path, *, javac: str = "javac") -> Path:
    """Compile the sources and write the jar, atomically.

    Args:
        target: the path of the jar.
        javac: the command of the compiler.

    Raises:
        BackendError: the sources do not compile.
        MissingExtraError: the simulator is not installed.
    """
    sources = sorted(str(path) for path in SOURCES.rglob("*.java"))
    with tempfile.TemporaryDirectory() as folder:
        classes = Path(folder) / "classes"
        arguments = ["--release", RELEASE, "-Xlint:all", "-Werror", "-encoding", "UTF-8"]
        arguments += ["-cp", str(find_simulator()), "-d", str(classes)]
        done = subprocess.run(
            [javac, *arguments, *sources], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise BackendError(f"{javac} failed:\n{done.stdout}{done.stderr}")
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        _write_jar(classes, part)
        os.replace(part, target)
    return target


def javac_major(javac: str = "javac") -> int | None:
    """The major version of the compiler; None if there is no compiler."""
    if shutil.which(javac) is None:
        return None
    done = subprocess.run([javac, "-version"], capture_output=True, text=True, check=True)
    return int((done.stdout or done.stderr).split()[1].split(".")[0])


def _write_jar(classes: Path, target: Path) -> None:
    # Stored, not deflated: the output of zlib depends on its version.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as jar:
        jar.writestr(zipfile.ZipInfo("META-INF/MANIFEST.MF", _TIMESTAMP), _MANIFEST)
        for path in sorted(classes.rglob("*.class")):
            name = path.relative_to(classes).as_posix()
            jar.writestr(zipfile.ZipInfo(name, _TIMESTAMP), path.read_bytes())


if __name__ == "__main__":
    build(HOST_JAR)
