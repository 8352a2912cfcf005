"""Helpers for files: atomic writing and appending, and hashing."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

_CHUNK_BYTES = 1 << 20


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically, completely or not at all; creates its folder if necessary."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            unfinished.write_bytes(content)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an `OSError` inside name this file: that of a write, such as a full disk, names none."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def append_whole(file: io.FileIO, content: bytes) -> None:
    """Append to an unbuffered file, completely or not at all.

    If it fails, as on a full disk, the file is what it was. A buffered file would write the rest
    with a later line.
    """
    size = os.fstat(file.fileno()).st_size
    with naming(Path(str(file.name))):
        try:
            left = memoryview(content)
            while left:
                left = left[file.write(left) or 0 :]
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to report
                file.truncate(size)
            raise


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; reads it in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
