"""Helpers for files: reading text, JSON and TOML, atomic writing and appending, and hashing.

Whatever reads a file that people can exchange, edit or damage reads it through the functions here,
so that every fault is a `DataError` that names the file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError

MAX_DEPTH = 100
"""Levels of nesting up to which JSON and TOML are read. Python could parse a few hundred more, but
what then copies, compares or prints such a value fails with RecursionError."""

ZIP_ERRORS = (
    *(EOFError, LookupError, NotImplementedError, RuntimeError, struct.error, UnicodeError),
    *(ValueError, zipfile.BadZipFile, zlib.error),
)
"""What `zipfile` raises for archives that are damaged, encrypted or compressed in other ways."""

_CHUNK_BYTES = 1 << 20
_LFS_POINTER = b"version https://git-lfs"


def refuse_pointer(path: Path, head: bytes) -> None:
    """Check the first bytes of a file.

    Raises:
        CorruptDataError: it is a pointer that Git LFS left in the place of the file.
    """
    if head.startswith(_LFS_POINTER):
        raise CorruptDataError(f"{path} is a Git LFS pointer, not the file: run `git lfs pull`")


def read_bytes(path: Path, hint: str = "") -> bytes:
    """Read a file.

    Args:
        path: the file.
        hint: what to do if it cannot be read; appended to the error messages (in all functions
            here).

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: it is a Git LFS pointer.
        DataError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataNotFoundError(_advised(f"there is no file {path}", hint)) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(_advised(f"cannot read {path}: {reason}", hint)) from error
    refuse_pointer(path, content)
    return content


def read_text(path: Path, hint: str = "") -> str:
    """Read a UTF-8 text file, with or without a byte-order mark, which is left out.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: it is not UTF-8 text, or a Git LFS pointer.
        DataError: it cannot be read.
    """
    try:
        return read_bytes(path, hint).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorruptDataError(_advised(f"{path} is not UTF-8 text ({error})", hint)) from error


def parse_json(text: str | bytes, place: object, hint: str = "") -> Any:
    """Parse JSON; bytes may be in any of its encodings and may encode unpaired surrogates.

    Args:
        text: the JSON text.
        place: the file and where in it, for error messages.
        hint: see `read_bytes`.

    Raises:
        CorruptDataError: the text is not JSON, or is nested too deeply.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        is_whole = isinstance(place, Path)  # else it names the line of the file
        where = f", line {error.lineno}" if is_whole or "\n" in error.doc.strip() else ""
        snippet = error.doc[max(0, error.pos - 20) : error.pos + 40]
        message = f"{place}{where}: not JSON ({error.msg}, at {snippet!r})"
        raise CorruptDataError(_advised(message, hint)) from error
    except UnicodeDecodeError as error:
        raise CorruptDataError(_advised(f"{place} is not UTF-8 text ({error})", hint)) from error
    except ValueError as error:  # a number of thousands of digits
        raise CorruptDataError(_advised(f"{place}: not JSON ({error})", hint)) from error
    except RecursionError:
        raise _too_deep(place, hint) from None
    check_depth(value, place, hint)
    return value


def parse_toml(text: str, place: object, hint: str = "") -> dict[str, Any]:
    """Parse TOML; arguments as for `parse_json`.

    Raises:
        CorruptDataError: the text is not TOML, or is nested too deeply.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        value = tomllib.loads(text)
    except ValueError as error:
        raise CorruptDataError(_advised(f"{place} is not valid TOML ({error})", hint)) from error
    except RecursionError:
        raise _too_deep(place, hint) from None
    check_depth(value, place, hint)
    return value


def read_json(path: Path, hint: str = "") -> Any:
    """Read a JSON file.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: it is not JSON; names the line.
        DataError: it cannot be read.
    """
    return parse_json(read_bytes(path, hint), path, hint)


def read_json_object(path: Path, hint: str = "") -> dict[str, Any]:
    """Read a JSON file whose value is an object; errors as for `read_json`."""
    record = read_json(path, hint)
    if not isinstance(record, dict):
        raise CorruptDataError(_advised(f"{path} is not a JSON object", hint))
    return record


def read_toml(path: Path, hint: str = "") -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: it is not valid TOML.
        DataError: it cannot be read.
    """
    return parse_toml(read_text(path, hint), path, hint)


def check_depth(value: Any, place: object, hint: str = "") -> None:
    """Check that a value of JSON or TOML is not nested too deeply.

    Raises:
        CorruptDataError: it has more than `MAX_DEPTH` levels.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = [part for part in level if isinstance(part, (dict, list))]
        if not inner:
            return
        level = [
            child
            for part in inner
            for child in (part.values() if isinstance(part, dict) else part)
            if isinstance(child, (dict, list))
        ]
    if level:
        raise _too_deep(place, hint)


def _too_deep(place: object, hint: str) -> CorruptDataError:
    message = f"{place}: nested more than {MAX_DEPTH} levels deep"
    return CorruptDataError(_advised(message, hint))


def _advised(message: str, hint: str) -> str:
    return f"{message}. {hint}" if hint else message


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
