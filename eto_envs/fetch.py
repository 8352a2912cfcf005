"""Downloads a file from the first of several sources that delivers it intact.

A source is an HTTP URL or a file in a local mirror. The bytes are written to a part file next to
the target. An interrupted transfer is resumed, also by a later process, and only a file of the
right size and SHA-256 is moved to the target. (pooch's downloader starts over after an
interruption, which is too expensive for WebShop's 5.5 GB.) Not here: which files exist, where they
belong, and locking (`eto_envs.data`).
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eto_envs.errors import CorruptDataError, DataError
from eto_envs.files import ZIP_ERRORS, sha256_of

if TYPE_CHECKING:
    import requests

CHUNK_BYTES = 1 << 16  # lost at most when a transfer breaks
TIMEOUT_S = 30.0
STALL_S = 60.0  # in which a chunk must arrive
MAX_BYTES = 10_000_000_000  # of a file whose size is not known
N_FRUITLESS = 4  # consecutive attempts that yield less than a chunk before a source is given up
HTTP_OK, HTTP_PARTIAL, HTTP_BAD_RANGE, HTTP_BUSY, HTTP_SERVER_ERROR = 200, 206, 416, 429, 500


@dataclass(frozen=True, slots=True)
class Content:
    """The expected content of a file; None where it is not known.

    Attributes:
        size_bytes: its size.
        sha256: its SHA-256, 64 lower-case hexadecimal digits.
    """

    size_bytes: int | None = None
    sha256: str | None = None


class _SourceError(Exception):
    """A source does not deliver the file; the next one may."""


class _WrongContentError(_SourceError):
    """A source delivers something other than the file."""


class _BrokenError(_SourceError):
    """A transfer failed in a way that may be temporary."""


class _NoConnectionError(_BrokenError):
    """The server could not be reached."""


def find_mismatch(path: Path, content: Content) -> str | None:
    """Compare a file with its expected content.

    Args:
        path: an existing file.
        content: the expected content; without a hash, a ``*.zip`` archive is tested by its own
            checksums.

    Returns:
        A description of the mismatch, or None.
    """
    size_bytes = path.stat().st_size
    if content.size_bytes is not None and size_bytes != content.size_bytes:
        return f"it has {size_bytes} bytes, expected {content.size_bytes}"
    if content.sha256 is not None:
        sha256 = sha256_of(path)
        if sha256 != content.sha256:
            return f"its SHA-256 is {sha256}, expected {content.sha256}"
        return None
    if path.suffix == ".zip" and not _is_complete_zip(path):
        return "it is not a complete zip archive"
    return None


def fetch(
    sources: Sequence[str | Path],
    target: Path,
    content: Content,
    *,
    on_progress: Callable[[int], object] = lambda n_bytes: None,
    hint: str = "",
    pause_s: float = 0.5,
) -> None:
    """Get a file from the first source that delivers it intact.

    Only one process may fetch a target at a time: the caller must hold a lock.

    Args:
        sources: HTTP URLs and paths of local copies, tried in order.
        target: the path of the file; an older file is replaced at the very end.
        content: the expected content. Without a hash, an interrupted transfer starts over.
        on_progress: called with the number of bytes so far, after every chunk.
        hint: what to do if no source delivers the file; appended to the error message.
        pause_s: seconds before the second attempt with a source; doubled for each further attempt.

    Raises:
        CorruptDataError: no source delivers the file, and one of them delivers something else.
        DataError: no source could be reached or has it, or the disk is full. What has been
            transferred so far is reused by the next call.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".part-{target.name}")
    failures: list[_SourceError] = []
    reasons: list[str] = []
    for source in sources:
        _check_space(part, content)
        try:
            _fetch_from(source, part, content, on_progress, pause_s)
        except _SourceError as error:
            failures.append(error)
            reasons.append(f"  {source}: {error}")
            continue
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise DataError(f"the disk is full: {target} does not fit") from error
        os.replace(part, target)
        return
    message = "\n".join([f"no source delivers {target.name} intact:", *reasons, hint]).rstrip()
    wrong = any(isinstance(failure, _WrongContentError) for failure in failures)
    raise CorruptDataError(message) if wrong else DataError(message)


def _fetch_from(
    source: str | Path,
    part: Path,
    content: Content,
    on_progress: Callable[[int], object],
    pause_s: float,
) -> None:
    """Make `part` the right file, or remove it."""
    if isinstance(source, Path):
        _copy(source, part, content, on_progress)
        resumed = False
    else:
        resumed = _transfer(source, part, content, on_progress, pause_s)
    mismatch = find_mismatch(part, content)
    if mismatch and resumed:
        # The bytes of the earlier attempt may be from another version of the file: start over.
        part.unlink()
        _transfer(str(source), part, content, on_progress, pause_s)
        mismatch = find_mismatch(part, content)
    if mismatch:
        part.unlink()
        raise _WrongContentError(f"not the right file: {mismatch}")


def _copy(source: Path, part: Path, content: Content, on_progress: Callable[[int], object]) -> None:
    if not source.is_file():
        raise _SourceError("there is no such file")
    with source.open("rb") as original:
        chunks = iter(lambda: original.read(CHUNK_BYTES), b"")
        _write(chunks, part, 0, content, on_progress)


def _transfer(
    url: str,
    part: Path,
    content: Content,
    on_progress: Callable[[int], object],
    pause_s: float,
) -> bool:
    """Complete the part file, in as many attempts as make progress.

    Returns:
        Whether it contains bytes of an earlier attempt.
    """
    n_fruitless = 0
    reached = False
    resumed = False
    while True:
        start = _size(part) if content.sha256 else 0  # a mixture is only detected by its hash
        resumed = resumed or start > 0
        if start and start == content.size_bytes:
            return resumed
        try:
            _stream(url, part, start, content, on_progress)
            return resumed
        except _BrokenError as error:
            gain = _size(part) - start
            reached = reached or gain > 0
            n_fruitless = 0 if gain >= CHUNK_BYTES else n_fruitless + 1
            hopeless = isinstance(error, _NoConnectionError) and not reached
            if hopeless or n_fruitless >= N_FRUITLESS:
                raise
        time.sleep(pause_s * 2 ** max(n_fruitless - 1, 0))


def _stream(
    url: str,
    part: Path,
    start: int,
    content: Content,
    on_progress: Callable[[int], object],
) -> None:
    """Send one request and write the response, from byte `start` if the server supports ranges."""
    import requests
    import urllib3

    headers = {"Accept-Encoding": "identity"}  # ranges of a compressed body are not file offsets
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S)
    except requests.ConnectionError as error:
        raise _NoConnectionError(f"no connection: {_reason(error)}") from error
    except requests.Timeout as error:
        raise _BrokenError(f"no response within {TIMEOUT_S:g} s") from error
    except requests.RequestException as error:
        raise _SourceError(_reason(error)) from error
    with response:
        start = _agreed_start(response, part, start, content)
        try:
            _write(_chunks(response), part, start, content, on_progress)
        except (OSError, urllib3.exceptions.HTTPError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            message = f"interrupted after {_size(part)} bytes: {_reason(error)}"
            raise _BrokenError(message) from error


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """The body in chunks of `CHUNK_BYTES`, except for the last.

    Raises:
        OSError: a chunk takes longer than `STALL_S`, even if bytes keep trickling in, which the
            timeout of a single read does not notice; or the body ends too early.
    """
    length = response.headers.get("Content-Length", "")
    n_left = int(length) if length.isdigit() else None
    chunk, deadline = bytearray(), time.monotonic() + STALL_S
    while received := response.raw.read1(CHUNK_BYTES, decode_content=False):
        n_left = None if n_left is None else n_left - len(received)
        chunk += received
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk[:CHUNK_BYTES])
            del chunk[:CHUNK_BYTES]
            deadline = time.monotonic() + STALL_S
        elif time.monotonic() > deadline:
            raise TimeoutError(f"less than {CHUNK_BYTES} bytes in {STALL_S:g} s")
    if n_left:
        raise ConnectionError(f"the connection ended {n_left} bytes early")
    yield bytes(chunk)


def _agreed_start(response: requests.Response, part: Path, start: int, content: Content) -> int:
    """The offset from which the server sends; raises if it does not send this file."""
    status = response.status_code
    if status == HTTP_BAD_RANGE:
        part.unlink(missing_ok=True)
        raise _BrokenError("the server's file is shorter than the part already downloaded")
    if status == HTTP_BUSY or status >= HTTP_SERVER_ERROR:
        raise _BrokenError(f"HTTP {status} {response.reason}")
    if status not in (HTTP_OK, HTTP_PARTIAL):
        raise _SourceError(f"HTTP {status} {response.reason}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        # Google Drive responds like this, with status 200, when a file's daily quota is exceeded.
        raise _SourceError("received a web page instead of the file; try again tomorrow")
    if status == HTTP_OK:
        start = 0
    elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise _SourceError("the server sends a different range than requested")
    length = response.headers.get("Content-Length", "")
    expected = content.size_bytes
    if expected is not None and length.isdigit() and start + int(length) != expected:
        raise _WrongContentError(f"it has {start + int(length)} bytes, expected {expected}")
    return start


def _write(
    chunks: Iterable[bytes],
    part: Path,
    start: int,
    content: Content,
    on_progress: Callable[[int], object],
) -> None:
    """Write chunks to the part file, from byte `start` on, but no more than the file may have."""
    n_bytes, limit = start, MAX_BYTES if content.size_bytes is None else content.size_bytes
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        file.truncate()
        for chunk in chunks:
            n_bytes += len(chunk)
            if n_bytes > limit:
                break
            file.write(chunk)
            on_progress(n_bytes)
    if n_bytes > limit:
        part.unlink()
        raise _WrongContentError(f"it has more than {limit} bytes")


def _check_space(part: Path, content: Content) -> None:
    needed = (content.size_bytes or 0) - _size(part)
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise DataError(
            f"{needed / 1e9:.2f} GB more are needed in {part.parent}, but {free / 1e9:.2f} GB are"
            " free; make room, or choose another disk with $ETO_DATA_DIR"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_complete_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except ZIP_ERRORS:
        return False


def _reason(error: Exception) -> str:
    """The innermost cause of a nested error."""
    inner = error.args[0] if error.args else error
    return str(getattr(inner, "reason", inner))
