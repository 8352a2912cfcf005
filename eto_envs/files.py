"""Helpers for files: atomic writing and appending, and hashing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
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
    """Let an error of the system inside be an `OSError` that names a file.

    That of a write, as on a full disk, names none, and libraries in Rust and C++ have errors of
    their own.
    """
    try:
        yield
    except OSError as error:
        is_unfinished = f"{os.sep}.{path.name}." in str(error.filename)
        if error.errno is not None and (error.filename is None or is_unfinished):
            error.filename, error.filename2 = str(path), None
        raise
    except Exception as error:
        number = _errno_of(str(error))
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _errno_of(message: str) -> int | None:
    """The system's error number in the message of another library; None if it has none."""
    if in_rust := re.search(r"\(os error (\d+)\)", message):
        return int(in_rust[1])
    is_torch = "PytorchStreamWriter" in message or "inline_container" in message
    return errno.EIO if is_torch else None  # torch does not say which


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
