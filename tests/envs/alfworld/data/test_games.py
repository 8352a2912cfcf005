from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from eto_envs.alfworld.data.games import find_games
from eto_envs.errors import DataNotFoundError
from tests.envs.alfworld.house import GOALS

WriteGames = Callable[..., Path]


def test_finds_games_in_a_fixed_order(tmp_path: Path, write_games: WriteGames) -> None:
    found = find_games(write_games(tmp_path))
    assert [game.split for game in found] == [
        split for split in ("train", "seen", "unseen", "valid_train") for _ in GOALS
    ]
    train = [game.task_id for game in found if game.split == "train"]
    assert train == sorted(train)
    assert train[0] == "look_at_obj_in_light-Apple-None-DeskLamp-1/trial_0"
    assert all(game.path.is_file() for game in found)


def test_takes_the_inner_folder_too(tmp_path: Path, write_games: WriteGames) -> None:
    outer = write_games(tmp_path)
    assert find_games(outer / "json_2.1.1") == find_games(outer)


def test_leaves_out_what_alfworld_leaves_out(tmp_path: Path, write_games: WriteGames) -> None:
    train = write_games(tmp_path) / "json_2.1.1" / "train"
    n_before = len(find_games(tmp_path))
    a_task = next(train.iterdir())
    dropped = "pick_clean_then_place_in_recep-Cloth-None-BathtubBasin-413"
    shutil.copytree(a_task, train / "pick_and_place_with_movable_recep-Fork-Cup-Shelf-1")
    shutil.copytree(a_task, train / "pick_and_place_simple-AppleSliced-None-Fridge-1")
    shutil.copytree(a_task / "trial_0", train / dropped / "trial_T20190908_065418_661400")
    assert len(find_games(tmp_path)) == n_before


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="there is no folder"):
        find_games(tmp_path / "nowhere")


def test_wrong_layout_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "games").mkdir()
    with pytest.raises(DataNotFoundError, match=r"expected json_2\.1\.1/.*found games"):
        find_games(tmp_path)


def test_no_game_in_the_right_layout(tmp_path: Path) -> None:
    (tmp_path / "train" / "a_task").mkdir(parents=True)
    with pytest.raises(DataNotFoundError, match="no <split>/<task>/<trial>"):
        find_games(tmp_path)


@pytest.mark.data
@pytest.mark.parametrize("release", ["2.1.1", "2.1.2"])
def test_canonical_splits(official: Callable[[str], Path], release: str) -> None:
    counts = Counter(game.split for game in find_games(official(release)))
    assert counts == {"train": 3553, "seen": 140, "unseen": 134, "valid_train": 200}
