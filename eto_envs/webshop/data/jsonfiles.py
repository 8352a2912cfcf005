"""Files that are not read as a whole: large JSON files, JSON lines with an offset table, arrays.

`stream_list` and `stream_object` decode a JSON file entry by entry (the product file has 5.5 GB).
Like the original, they use the standard `json` module and not an event parser: it accepts `NaN` and
unpaired surrogates, which other parsers reject or alter. `JsonLines` stores the records of a
bundle.
"""

from __future__ import annotations

import json
import mmap
import re
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError
from eto_envs.files import check_depth, parse_json, refuse_pointer

DOWNLOAD_AGAIN = "Download the file again; `eto data verify` checks the official files."

_CHUNK_CHARS = 1 << 20
_MAX_ENTRY_CHARS = 1 << 26
_BLANK = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


class _Text:
    """A text file from which JSON values are taken one by one.

    `_text[_at:]` is what has been read but not yet taken.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._at = 0

    def _more(self) -> bool:
        # Doubling the buffer: an entry that spans many reads is only decoded a few times.
        chunk = self._file.read(max(_CHUNK_CHARS, len(self._text) - self._at))
        if chunk:
            self._text, self._at = self._text[self._at :] + chunk, 0
        return bool(chunk)

    def peek(self) -> str:
        """The next character that is not white space, ``""`` at the end."""
        while True:
            self._at = _BLANK.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, expected: str) -> str:
        """The next character, which must be one of those expected."""
        character = self.peek()
        if not character or character not in expected:
            raise ValueError(f"found {character!r}, expected one of {expected!r}")
        self._at += 1
        return character

    def value(self) -> Any:
        """The next JSON value."""
        self.peek()
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except json.JSONDecodeError:
                if len(self._text) - self._at > _MAX_ENTRY_CHARS or not self._more():
                    raise
                continue
            except RecursionError:
                raise ValueError("nested too deeply") from None
            if end + len("e+") >= len(self._text) and self._more():
                continue  # a number can continue in the next chunk: 1 may be the start of 1e+3
            self._at = end
            return value


def _stream(path: Path, brackets: str, what: str) -> Iterator[tuple[str, Any]]:
    count = 0
    try:
        with path.open("rb") as file:
            refuse_pointer(path, file.read(100))
        with path.open(encoding="utf-8-sig") as file:
            text = _Text(file)
            if text.peek() != brackets[0]:
                raise CorruptDataError(f"{path} does not contain {what}. {DOWNLOAD_AGAIN}")
            end = text.take(brackets[0])
            if text.peek() == brackets[1]:
                end = text.take(brackets[1])
            while end != brackets[1]:
                key = ""
                if brackets == "{}":
                    key = text.value()
                    if not isinstance(key, str):
                        raise ValueError(f"found {key!r:.40}, expected a key")
                    text.take(":")
                value = text.value()
                check_depth(value, f"{path}, entry {count}", DOWNLOAD_AGAIN)
                yield key, value
                count += 1
                end = text.take("," + brackets[1])
            if text.peek():
                raise ValueError("text after the end")
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path} is missing; `eto data download` gets it") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # includes JSONDecodeError and UnicodeDecodeError
        raise CorruptDataError(
            f"{path} is truncated or altered after entry {count}: {error}. {DOWNLOAD_AGAIN}"
        ) from error


def stream_list(path: Path) -> Iterator[Any]:
    """The entries of a JSON file with a list, one at a time.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: it is truncated, not valid JSON, or not a list.
    """
    return (value for _, value in _stream(path, "[]", "a JSON list"))


def stream_object(path: Path) -> Iterator[tuple[str, Any]]:
    """The keys and values of a JSON file with an object, one at a time.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: it is truncated, not valid JSON, or not an object.
    """
    return _stream(path, "{}", "a JSON object")


# What NumPy raises for a damaged header, which it parses as Python.
_ARRAY_ERRORS = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, tokenize.TokenError),
)


def load_array(
    path: Path, dtype: str, n: int | None = None, *, below: int | None = None, hint: str
) -> NDArray[Any]:
    """A memory-mapped, read-only array of one dimension.

    It is returned as a plain array because indexing an `np.memmap` is several times slower.

    Args:
        path: the file.
        dtype: the type of its values; ``"S"`` stands for texts of any width.
        n: the number of its values; None for any number.
        below: if given, the values are numbers of `below` things, from 0 on.
        hint: what to do if the file is damaged.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: it is truncated or something else.
    """
    try:
        with path.open("rb") as file:
            refuse_pointer(path, file.read(100))
        array = np.asarray(np.lib.format.open_memmap(path, mode="r"))
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path} is missing. {hint}") from error
    except _ARRAY_ERRORS as error:
        raise CorruptDataError(f"{path} is truncated or not an array: {error}. {hint}") from error
    has_type = array.dtype.kind == "S" if dtype == "S" else array.dtype == np.dtype(dtype)
    if not has_type or array.ndim != 1 or len(array) != (len(array) if n is None else n):
        expected = f"({'n' if n is None else n},) of {dtype}"
        raise CorruptDataError(
            f"{path} contains {array.shape} of {array.dtype}, not {expected}. {hint}"
        )
    if below is not None and len(array) and not 0 <= array.min() <= array.max() < below:
        raise CorruptDataError(f"{path} contains numbers that are not in [0, {below}). {hint}")
    return array


def load_offsets(path: Path, last: int, hint: str) -> NDArray[Any]:
    """An int64 array with the offsets of parts that follow each other, and of their end.

    Raises:
        CorruptDataError: it is damaged: the parts are not from 0 to `last`.
    """
    offsets = load_array(path, "<i8", hint=hint)
    if not len(offsets) or offsets[0] or offsets[-1] != last or (np.diff(offsets) < 0).any():
        raise CorruptDataError(f"{path} does not contain offsets from 0 to {last}. {hint}")
    return offsets


class JsonLines(Sequence[Any]):
    """The records of a JSON-lines file, decoded on demand.

    Next to ``<stem>.jsonl``, there is ``<stem>_offsets.npy``: int64 of shape (n + 1,), with the
    offset of each line and the size of the file.
    """

    def __init__(self, folder: Path, stem: str, hint: str = "") -> None:
        """Open the two files.

        Args:
            folder: their folder.
            stem: what their names begin with.
            hint: what to do if a file is damaged.

        Raises:
            CorruptDataError: a file is missing, or they do not fit each other.
        """
        self._path = folder / f"{stem}.jsonl"
        self._hint = hint
        self._bytes: mmap.mmap | bytes = b""  # an empty file cannot be mapped
        try:
            with self._path.open("rb") as file:
                if file.read(1):
                    self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            message = f"cannot read {self._path}: {error.strerror}. {hint}"
            raise CorruptDataError(message) from error
        offsets = folder / f"{stem}_offsets.npy"
        self._offsets = load_offsets(offsets, len(self._bytes), hint)

    def __len__(self) -> int:
        """Number of records."""
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> Any:  # type: ignore[override]
        """The record at a non-negative index; slices are not supported.

        Raises:
            CorruptDataError: the record is not JSON.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        line = self._bytes[self._offsets[index] : self._offsets[index + 1]]
        return parse_json(line, f"{self._path}, record {index}", self._hint)


def write_json_lines(folder: Path, stem: str, records: Iterable[Any]) -> int:
    """Write the files that `JsonLines` reads.

    Returns:
        The number of records.
    """
    offsets = [0]
    with (folder / f"{stem}.jsonl").open("wb") as file:
        for record in records:
            line = json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"
            # Scraped texts contain unpaired surrogates; json.loads reads them back from bytes.
            offsets.append(offsets[-1] + file.write(line.encode("utf-8", "surrogatepass")))
    np.save(folder / f"{stem}_offsets.npy", np.array(offsets, dtype="<i8"))
    return len(offsets) - 1
