"""Datasets by name, and their task sets.

A dataset is a pack together with a wording. Official packs are in the data cache; a folder of
official files is compiled into the cache when it is first used. The splits are those of the
ALFWorld paper (train 3,553, seen 140, unseen 134 games) and the 200 games of ``valid_train``.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from filelock import FileLock

from eto_envs.alfworld.data.games import FOLDERS, GAME_FILE, find_games
from eto_envs.alfworld.data.pack import PACK_VERSION, Pack, build_pack
from eto_envs.alfworld.engine.game import GRAMMARS
from eto_envs.errors import CorruptDataError, DataNotFoundError, UnknownNameError
from eto_envs.files import ZIP_ERRORS, refuse_pointer
from eto_envs.tasks import Task, TaskSet, TaskSets, find_task_set

MAX_STEPS: Final = 40
"""ETO's limit (`configs/task/alfworld.json`); the original package's own is 50."""

KINDS: Final = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
"""The task types; the id of a task begins with its type."""

OFFICIAL_SHA256: Final = "ebcf2f77062acd14a7b1488de5d0653678330faded24193339cdf8a96c026c38"
"""`Pack.sha256` of the canonical games, the same for both releases."""

TASK_PREFIX: Final = "Your task is to: "

MINI_PACK: Final = Path(__file__).parents[1] / "mini" / "games.pack.gz"
"""The generated games, as `mini.games` writes them."""

MAX_UNPACKED_BYTES: Final = 4_000_000_000
"""The most that the games of an archive may unpack to; those of a release take 0.35 GB."""

_MINI_GRAMMARS = {"mini": "2.1.1", "mini-2.1.2": "2.1.2"}
_SPLITS = (*FOLDERS, "train_clean", "all")
_GET = "run `eto data download alfworld` and `eto data build alfworld`"


class Dataset(NamedTuple):
    """Games and their wording.

    Attributes:
        name: the name, as it appears in results.
        pack: the games.
        grammar: the release whose wording is used.
        source: the path that the user gave, if any.
    """

    name: str
    pack: Pack
    grammar: str
    source: str = ""


def open_dataset(name: str) -> Dataset:
    """Open a dataset.

    Args:
        name: ``"auto"`` (the official dataset if it is in the data cache, else the mini dataset),
            ``"mini"``, ``"mini-2.1.2"`` (the same games in the other wording), ``"2.1.1"``,
            ``"2.1.2"``, or the path of a pack or of a folder of official files. If the games at a
            path are the canonical ones, the dataset is named after their release.

    Raises:
        UnknownNameError: `name` is none of these.
        DataNotFoundError: the files are missing.
        CorruptDataError: the files are damaged.
    """
    if name == "auto":
        name = GRAMMARS[0] if official_pack_path().exists() else "mini"
        if name == "mini":
            _warn_once()
    if name in _MINI_GRAMMARS:
        return open_mini(name)
    if name in GRAMMARS:
        return Dataset(name, _official_pack(), name)
    path = Path(name).expanduser()
    if not path.exists():
        if os.sep in name or path.suffix:
            raise DataNotFoundError(f"there is no folder or pack {path}")
        known = ("auto", *_MINI_GRAMMARS, *GRAMMARS)
        raise UnknownNameError("ALFWorld dataset", name, known, "It can also be a path.")
    pack = open_pack(_folder_pack_path(path.resolve()) if path.is_dir() else path)
    if pack.grammar not in GRAMMARS:
        raise CorruptDataError(
            f"{path}: its games have the words of {pack.grammar!r}, and only those of "
            f"{' and '.join(GRAMMARS)} are known"
        )
    name = pack.grammar if pack.sha256 == OFFICIAL_SHA256 else f"custom-{pack.sha256[:12]}"
    return Dataset(name, pack, pack.grammar, str(path))


def open_mini(name: str = "mini") -> Dataset:
    """The dataset of generated games that is part of the package.

    Args:
        name: ``"mini"``, or ``"mini-2.1.2"`` for the wording of that release.
    """
    return Dataset(name, open_pack(MINI_PACK), _MINI_GRAMMARS[name])


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        "using the embedded mini games of ALFWorld; scores are not comparable with published "
        f"results. For the official games, {_GET}; to silence this warning, pass dataset='mini'.",
        UserWarning,
        stacklevel=2,
    )


def official_pack_path() -> Path:
    """The path of the pack of the official games, whether it exists or not."""
    return _cache() / f"pack-v{PACK_VERSION}.bin"


def open_pack(path: Path) -> Pack:
    """Open a pack; it is cached as long as the file does not change.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: it is not a pack, has another version, or is truncated or altered.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise DataNotFoundError(f"{path}: no such pack") from None
    return _open_pack(path.resolve(), (status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=4)
def _open_pack(path: Path, version: tuple[int, int]) -> Pack:
    return Pack(path)


def _official_pack() -> Pack:
    path = official_pack_path()
    if not path.exists():
        raise DataNotFoundError(f"the official ALFWorld games are not in {path.parent}; {_GET}")
    pack = open_pack(path)
    if pack.sha256 != OFFICIAL_SHA256:
        raise CorruptDataError(f"{path}: not the canonical games; delete it and {_GET}")
    return pack


def build_official(source: Path, progress: Callable[[str, int], None] | None = None) -> Path:
    """Compile the official games into the pack that ``"2.1.1"`` and ``"2.1.2"`` open.

    Args:
        source: a downloaded zip file of either release, or a folder of its files; the releases
            differ only in wording, so one is sufficient for both.
        progress: called regularly with the stage and a count.

    Returns:
        The path of the pack.

    Raises:
        DataNotFoundError: there are no games in `source`.
        CorruptDataError: the games are not the canonical ones.
    """
    report = progress or (lambda stage, count: None)
    target = official_pack_path()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=target.parent) as folder:
        games = _unpack(source, Path(folder), report) if source.is_file() else source
        built = Path(folder) / "pack.bin"
        sha256 = build_pack(games, built, lambda n, _: report("games", n)).sha256
        if sha256 != OFFICIAL_SHA256:
            raise CorruptDataError(
                f"{source} does not contain the canonical games of release 2.1.1 or 2.1.2; to use "
                "it anyway, unpack it and pass the folder as dataset"
            )
        os.replace(built, target)
    return target


def _unpack(archive: Path, folder: Path, report: Callable[[str, int], None]) -> Path:
    with archive.open("rb") as file:
        refuse_pointer(archive, file.read(100))
    try:
        with zipfile.ZipFile(archive) as zipped:
            games = [entry for entry in zipped.infolist() if entry.filename.endswith(GAME_FILE)]
            # What an entry declares is the most that is read of it.
            n_bytes = sum(entry.file_size for entry in games)
            if n_bytes > MAX_UNPACKED_BYTES:
                raise CorruptDataError(
                    f"{archive}: its games unpack to {n_bytes:,} bytes, more than the "
                    f"{MAX_UNPACKED_BYTES:,} that are allowed; {_GET}"
                )
            for number, entry in enumerate(games, start=1):
                zipped.extract(entry, folder)
                report("unpack", number)
    except (*ZIP_ERRORS, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # it reads before its start
            raise
        raise CorruptDataError(f"{archive}: {error}; {_GET}") from error
    return folder


@functools.lru_cache(maxsize=4)
def _folder_pack_path(folder: Path) -> Path:
    """The pack of a folder of official files; built unless there is one for its current state."""
    # The state is the folder's path and the path, size and modification time of every game file.
    digest = hashlib.sha256(str(folder).encode())
    for game in find_games(folder):
        status = game.path.stat()
        digest.update(f"\n{game.path} {status.st_size} {status.st_mtime_ns}".encode())
    path = _cache() / f"pack-v{PACK_VERSION}-{digest.hexdigest()[:16]}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            build_pack(folder, path)
    return path


def _cache() -> Path:
    from eto_envs.data import cache_dir

    return cache_dir() / "alfworld"


def task_set(dataset: Dataset, split: str, kinds: tuple[str, ...] = ()) -> TaskSet:
    """The tasks of a split; see `task_sets`.

    Raises:
        UnknownNameError: there is no such task type, or the split is empty.
        DataNotFoundError: the dataset has no games of these types.
    """
    return find_task_set(task_sets(dataset, kinds), split)


@functools.lru_cache(maxsize=16)
def task_sets(dataset: Dataset, kinds: tuple[str, ...] = ()) -> TaskSets:
    """The task sets of the splits that are not empty, each in the order of its folders' names.

    ``"all"`` is the concatenation of all other splits.

    Args:
        dataset: a dataset.
        kinds: the task types to include, from `KINDS`; all of them if empty.

    Raises:
        UnknownNameError: there is no such task type.
        DataNotFoundError: the dataset has no games of these types.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UnknownNameError("task type", kind, KINDS)
    name, pack, grammar, source = dataset

    def ids_of(split: str) -> list[str]:
        # No train game occurs in another split, so "train_clean" equals "train".
        folder = "train" if split == "train_clean" else split
        return [
            task_id
            for part in FOLDERS
            if folder in (part, "all")
            for task_id in pack.splits.get(part, ())
            if not kinds or task_id.partition("-")[0] in kinds
        ]

    def make_task(task_id: str) -> Task:
        return Task(
            id=task_id,
            goal=pack.problem(task_id).task.removeprefix(TASK_PREFIX),
            max_steps=MAX_STEPS,
            kind=task_id.partition("-")[0],
            data={"sha256": pack.digest(task_id)},
        )

    def make(split: str) -> TaskSet:
        fingerprint = f"alfworld text {grammar}"
        return TaskSet(ids_of(split), make_task, split=split, dataset=name, fingerprint=fingerprint)

    splits = [split for split in _SPLITS if ids_of(split)]
    if not splits:
        what = f"game of type {' or '.join(kinds)}" if kinds else "game"
        raise DataNotFoundError(f"{source or pack.path}: no {what} in it")
    return TaskSets(splits, make)
