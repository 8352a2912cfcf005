"""Games of the small house, and the official ones, unpacked once."""

from __future__ import annotations

import gzip
import json
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from eto_envs.alfworld.data.pack import Pack, build_pack
from eto_envs.alfworld.data.reading import read_problem
from eto_envs.alfworld.engine.game import Game
from tests.envs.alfworld.house import GOALS, game_file, pddl_problem, task_id, task_text


@pytest.fixture(scope="session")
def make_game() -> Callable[..., Game]:
    """Makes the house's game of a kind, in a grammar."""

    def make(kind: str, grammar: str = "2.1.1") -> Game:
        return Game(read_problem(pddl_problem(kind), task_text(kind)), grammar)

    return make


@pytest.fixture
def write_games() -> Callable[..., Path]:
    """Writes the house's six games into each split of a folder."""

    def write(folder: Path, grammar: str = "2.1.1") -> Path:
        splits = ("train", "valid_seen", "valid_unseen", "valid_train")
        for trial, split in enumerate(splits):
            for kind in GOALS:
                path = folder / "json_2.1.1" / split / task_id(kind, trial) / "game.tw-pddl"
                path.parent.mkdir(parents=True)
                path.write_text(json.dumps(game_file(kind, grammar)), encoding="utf-8")
        return folder

    return write


@pytest.fixture
def house_pack(tmp_path: Path, write_games: Callable[..., Path]) -> Path:
    """A pack of the house's games."""
    return build_pack(write_games(tmp_path / "house"), tmp_path / "house.bin").path


@pytest.fixture(scope="session")
def official(shared_data: Path) -> Callable[[str], Path]:
    """The unpacked official files of a release; unpacked once on a machine."""

    def unpack(release: str) -> Path:
        archive = shared_data / "alfworld" / f"alfworld-{release}.tar.xz"
        name = f"eto-gym-tests-alfworld-{release}-{archive.stat().st_size}"
        folder = Path(tempfile.gettempdir()) / name
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
                with tarfile.open(archive) as tar:
                    tar.extractall(unfinished, filter="data")
                unfinished.rename(folder)
        return folder

    return unpack


@pytest.fixture(scope="session")
def official_pack(official: Callable[[str], Path]) -> Pack:
    """The canonical games of release 2.1.1."""
    folder = official("2.1.1")
    path = folder.with_suffix(".pack")
    with FileLock(f"{path}.lock"):
        return build_pack(folder, path)


@pytest.fixture(scope="session")
def read_episodes(shared_data: Path) -> Callable[[str], list[Any]]:
    """Reads a file of recorded episodes."""

    def read(name: str) -> list[Any]:
        with gzip.open(shared_data / "alfworld" / name, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    return read
