"""A pack: all games of a folder, compiled into one memory-mapped file.

Layout: a magic line, the length of the index (8 bytes, little-endian), the index as JSON, then the
games as canonical JSON (`Problem.to_json`), one after another. For each split, the index lists the
id, length and SHA-256 of every game. The wording is not part of a game, so releases 2.1.1 and 2.1.2
give packs with the same games; the index records from which release they were read. A pack can be
gzipped (the mini games are, to keep the package small); it is then decompressed in memory.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import mmap
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from eto_envs.alfworld.data.games import Found, find_games
from eto_envs.alfworld.data.reading import UnsolvableGameError, read_game
from eto_envs.alfworld.engine.problem import Problem
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError, UnknownNameError
from eto_envs.files import parse_json, refuse_pointer, write_whole

PACK_VERSION = 1
"""Incremented whenever the layout or `Problem` changes."""

MAX_UNPACKED_BYTES = 1 << 28
"""The most that a gzipped pack may unpack to; all official games take 11 MB."""

_MAGIC = b"eto-gym ALFWorld pack %d\n" % PACK_VERSION
_LENGTH = struct.Struct("<Q")
_GZIP_MAGIC = b"\x1f\x8b"
_REBUILD = "delete it and run `eto data build alfworld`"


class _Record(NamedTuple):
    offset: int
    n_bytes: int
    sha256: str


class Pack:
    """The games of a pack file, read on demand.

    Attributes:
        path: the path of the file.
        grammar: the release from which the games were read.
        splits: the task ids of each split, in order.
        sha256: hash of all ids and games.
    """

    def __init__(self, path: Path) -> None:
        """Open a pack.

        Raises:
            DataNotFoundError: there is no such file.
            CorruptDataError: it is not a pack, has another version, or is truncated or altered.
        """
        self.path = path
        try:
            self._bytes = _bytes_of(path)
        except FileNotFoundError:
            raise DataNotFoundError(f"{path}: no such pack") from None
        except ValueError:
            raise CorruptDataError(f"{path}: the file is empty; {_REBUILD}") from None
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise CorruptDataError(f"{path}: truncated or altered; {_REBUILD}") from None
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        refuse_pointer(path, self._bytes[:100])
        index, offset = self._read_index()
        self.grammar = str(index["grammar"])
        self.sha256 = str(index["sha256"])
        self.splits: Mapping[str, tuple[str, ...]] = {
            split: tuple(task_id for task_id, _, _ in games)
            for split, games in index["splits"].items()
        }
        self._records: dict[str, _Record] = {}
        for games in index["splits"].values():
            for task_id, n_bytes, sha256 in games:
                self._records[task_id] = _Record(offset, n_bytes, sha256)
                offset += n_bytes
        if offset != len(self._bytes) or self.sha256 != _sha256_of(index["splits"]):
            raise CorruptDataError(f"{path}: truncated or altered; {_REBUILD}")

    def _read_index(self) -> tuple[Any, int]:
        start = len(_MAGIC) + _LENGTH.size
        if self._bytes[: len(_MAGIC)] != _MAGIC or len(self._bytes) < start:
            message = f"{self.path}: not a pack of version {PACK_VERSION}; {_REBUILD}"
            raise CorruptDataError(message)
        (n_bytes,) = _LENGTH.unpack(self._bytes[len(_MAGIC) : start])
        if n_bytes > len(self._bytes):
            raise CorruptDataError(f"{self.path}: truncated or altered; {_REBUILD}")
        index = parse_json(self._bytes[start : start + n_bytes], self.path, _REBUILD)
        if not _is_index(index):
            raise CorruptDataError(f"{self.path}: truncated or altered; {_REBUILD}")
        return index, start + n_bytes

    def __contains__(self, task_id: object) -> bool:
        """Whether the pack has a game of this id."""
        return task_id in self._records

    def digest(self, task_id: str) -> str:
        """The SHA-256 of a game.

        Raises:
            UnknownNameError: there is no game of this id.
        """
        return self._record(task_id).sha256

    def problem(self, task_id: str) -> Problem:
        """Read a game.

        Raises:
            UnknownNameError: there is no game of this id.
            CorruptDataError: its bytes have been altered.
        """
        record = self._record(task_id)
        content = self._bytes[record.offset : record.offset + record.n_bytes]
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise CorruptDataError(f"{self.path}: game {task_id!r} is altered; {_REBUILD}")
        try:
            return Problem.from_json(content)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise CorruptDataError(
                f"{self.path}: {task_id!r} is not a game ({error!r}); {_REBUILD}"
            ) from error

    def _record(self, task_id: str) -> _Record:
        try:
            return self._records[task_id]
        except KeyError:
            raise UnknownNameError("ALFWorld game", task_id, self._records) from None


def _is_index(index: Any) -> bool:
    """Whether a value has the form of an index."""
    if not isinstance(index, dict) or not isinstance(index.get("splits"), dict):
        return False
    splits = index["splits"].values()
    if type(index.get("grammar")) is not str or not all(isinstance(s, list) for s in splits):
        return False
    return all(
        isinstance(game, list)
        and [*map(type, game)] == [str, int, str]
        and game[1] >= 0
        and game[0].isprintable()
        for games in splits
        for game in games
    )


def _bytes_of(path: Path) -> mmap.mmap | bytes:
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if content[:2] != _GZIP_MAGIC:
            return content
        with gzip.open(file) as packed:
            unpacked = packed.read(MAX_UNPACKED_BYTES + 1)
    if len(unpacked) > MAX_UNPACKED_BYTES:
        raise CorruptDataError(
            f"{path}: unpacks to more than {MAX_UNPACKED_BYTES:,} bytes; {_REBUILD}"
        )
    return unpacked


def build_pack(
    source: Path, target: Path, progress: Callable[[int, int], None] | None = None
) -> Pack:
    """Compile the games of an unpacked folder into a pack.

    Args:
        source: ``json_2.1.1``, or the folder that contains it.
        target: the file to write; an existing file is replaced once all games have been read.
        progress: called with the number of games read and their total number.

    Raises:
        DataNotFoundError: there are no games in `source`.
        CorruptDataError: a game file is damaged.
    """
    found = find_games(source)
    splits: dict[str, list[tuple[str, int, str]]] = {}
    contents: list[bytes] = []
    grammars: set[str] = set()
    for n_read, (game, content, grammar) in enumerate(_compiled(found), start=1):
        if content:
            entry = (game.task_id, len(content), hashlib.sha256(content).hexdigest())
            splits.setdefault(game.split, []).append(entry)
            contents.append(content)
            grammars.add(grammar)
        if progress is not None:
            progress(n_read, len(found))
    _check_alike(source, splits, grammars)
    index = {"grammar": grammars.pop(), "sha256": _sha256_of(splits), "splits": splits}
    _write(target, json.dumps(index).encode(), contents)
    return Pack(target)


def write_pack(target: Path, games: Mapping[str, Mapping[str, Problem]], grammar: str) -> Pack:
    """Write games as a pack.

    Args:
        target: the file to write, gzipped if its name ends with ``.gz``; replaced if it exists.
        games: the problem of each task id of each split, in the order of the pack.
        grammar: the release to record in the pack.
    """
    splits: dict[str, list[tuple[str, int, str]]] = {split: [] for split in games}
    contents: list[bytes] = []
    for split, problems in games.items():
        for task_id, problem in problems.items():
            contents.append(problem.to_json())
            sha256 = hashlib.sha256(contents[-1]).hexdigest()
            splits[split].append((task_id, len(contents[-1]), sha256))
    index = {"grammar": grammar, "sha256": _sha256_of(splits), "splits": splits}
    _write(target, json.dumps(index).encode(), contents)
    return Pack(target)


def _compiled(found: Iterable[Found]) -> Iterable[tuple[Found, bytes, str]]:
    """Each game with its compiled bytes, which are empty if it is unsolvable."""
    for game in found:
        try:
            problem, grammar = read_game(game.path)
        except UnsolvableGameError:
            yield game, b"", ""
        else:
            yield game, problem.to_json(), grammar


def _check_alike(
    source: Path, splits: Mapping[str, list[tuple[str, int, str]]], grammars: set[str]
) -> None:
    if not grammars:
        raise DataNotFoundError(f"{source}: none of its games is solvable")
    if len(grammars) > 1:
        raise CorruptDataError(f"{source}: it mixes games of releases {sorted(grammars)}")
    seen: set[str] = set()
    for games in splits.values():
        for task_id, _, _ in games:
            if task_id in seen:
                raise CorruptDataError(f"{source}: game {task_id!r} is in two splits")
            seen.add(task_id)


def _sha256_of(splits: Mapping[str, Iterable[tuple[str, int, str]]]) -> str:
    """A hash over one line ``split id hash`` for every game, in order."""
    digest = hashlib.sha256()
    for split, games in splits.items():
        for task_id, _, sha256 in games:
            digest.update(f"{split} {task_id} {sha256}\n".encode())
    return digest.hexdigest()


def _write(target: Path, index: bytes, contents: Iterable[bytes]) -> None:
    pack = b"".join([_MAGIC, _LENGTH.pack(len(index)), index, *contents])
    # mtime=0: the file must not contain the current time, so that equal packs give equal files.
    write_whole(target, gzip.compress(pack, mtime=0) if target.suffix == ".gz" else pack)
