from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from eto_envs.alfworld.data import datasets
from eto_envs.alfworld.data.datasets import (
    KINDS,
    build_official,
    official_pack_path,
    open_dataset,
    open_pack,
    task_set,
    task_sets,
)
from eto_envs.alfworld.data.pack import Pack, write_pack
from eto_envs.errors import CorruptDataError, DataNotFoundError, UnknownNameError
from tests.envs.alfworld.house import GOALS


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ETO_DATA_DIR", str(folder))
    return folder


def test_a_folder_is_compiled_into_the_cache_once(
    tmp_path: Path, cache: Path, write_games: Callable[..., Path]
) -> None:
    folder = write_games(tmp_path / "house", "2.1.2")
    dataset = open_dataset(str(folder))
    assert dataset.grammar == "2.1.2"
    assert dataset.name == f"custom-{dataset.pack.sha256[:12]}"
    assert dataset.pack.path.parent == cache / "alfworld"
    assert open_dataset(str(folder)).pack is dataset.pack


def test_a_pack_is_a_dataset(house_pack: Path) -> None:
    dataset = open_dataset(str(house_pack))
    assert dataset.pack is open_pack(house_pack)
    assert dataset.grammar == "2.1.1"


def test_task_sets(house_pack: Path) -> None:
    dataset = open_dataset(str(house_pack))
    sizes = {
        s: len(task_set(dataset, s)) for s in ("train", "seen", "unseen", "valid_train", "all")
    }
    n = len(GOALS)
    assert sizes == {"train": n, "seen": n, "unseen": n, "valid_train": n, "all": 4 * n}
    tasks = task_set(dataset, "seen")
    assert {task.kind for task in tasks} == set(KINDS)
    task = tasks[0]
    assert task.goal == "look at apple under the desklamp."
    assert task.max_steps == 40
    assert task.data == {"sha256": dataset.pack.digest(task.id)}
    assert task_set(dataset, "seen") is tasks


def test_splits_without_a_game_are_not_listed(house_pack: Path) -> None:
    dataset = open_dataset(str(house_pack))
    splits = ["train", "seen", "unseen", "valid_train", "train_clean", "all"]
    assert list(task_sets(dataset)) == splits
    mini = open_dataset("mini")
    assert list(task_sets(mini)) == ["train", "seen", "unseen", "train_clean", "all"]
    with pytest.raises(UnknownNameError, match="Dataset 'mini' has 'train', 'seen', 'unseen'"):
        task_set(mini, "valid_train")
    empty = dataset._replace(pack=Pack(house_pack))
    empty.pack.splits = {"train": (), "seen": dataset.pack.splits["seen"][:1]}
    [task_id] = empty.pack.splits["seen"]
    other = next(kind for kind in KINDS if not task_id.startswith(kind))
    assert list(task_sets(empty)) == ["seen", "all"]
    with pytest.raises(DataNotFoundError, match=f"no game of type {other}"):
        task_sets(empty, (other,))


def test_the_wording_is_in_the_hash(house_pack: Path) -> None:
    dataset = open_dataset(str(house_pack))
    other = dataset._replace(grammar="2.1.2")
    assert task_set(dataset, "seen").sha256 != task_set(other, "seen").sha256


def test_unknown_split(house_pack: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'unseen'"):
        task_set(open_dataset(str(house_pack)), "unsen")


def test_unknown_dataset() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean '2\.1\.\d'"):
        open_dataset("2.1.")


@pytest.mark.parametrize("name", ["2.1.1", "2.1.2"])
def test_official_data_not_there(name: str) -> None:
    with pytest.raises(DataNotFoundError, match="eto data download alfworld"):
        open_dataset(name)


def test_without_official_data_the_mini_games_are_played() -> None:
    datasets._warn_once.cache_clear()
    with pytest.warns(UserWarning, match="not comparable with published results"):
        assert open_dataset("auto").name == "mini"
    assert open_dataset("auto") == open_dataset("mini")  # and no second warning


def test_path_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no folder or pack"):
        open_dataset(str(tmp_path / "games"))


def test_other_games_are_not_taken_for_the_official_ones(house_pack: Path) -> None:
    official_pack_path().parent.mkdir(parents=True)
    house_pack.rename(official_pack_path())
    with pytest.raises(CorruptDataError, match="not the canonical games"):
        open_dataset("2.1.1")


def test_a_pack_in_unknown_words_is_refused(house_pack: Path) -> None:
    pack = open_dataset(str(house_pack)).pack
    games = {split: {i: pack.problem(i) for i in ids} for split, ids in pack.splits.items()}
    other = house_pack.with_name("other.bin")
    write_pack(other, games, "2.1.3")
    with pytest.raises(CorruptDataError, match=r"other\.bin: .*words of '2\.1\.3'"):
        open_dataset(str(other))


@pytest.mark.data
def test_official_dataset_in_either_wording(official_pack: Pack) -> None:
    official_pack_path().parent.mkdir(parents=True)
    official_pack_path().symlink_to(official_pack.path)
    for name in ("auto", "2.1.1", "2.1.2"):
        dataset = open_dataset(name)
        assert dataset.name == dataset.grammar == {"auto": "2.1.1"}.get(name, name)
    dataset = open_dataset(str(official_pack.path))
    assert dataset.name == "2.1.1"
    counts = Counter(task.kind for task in task_set(dataset, "train"))
    assert [counts[kind] for kind in KINDS] == [790, 308, 650, 459, 533, 813]
    assert task_set(dataset, "seen").sha256.startswith("86fc1e754a4f3fef")
    assert task_set(dataset, "unseen").sha256.startswith("cc789339239171e9")


@pytest.mark.data
def test_the_official_pack_from_a_folder_or_a_zip(
    official: Callable[[str], Path],
) -> None:
    with pytest.raises(DataNotFoundError, match="eto data build alfworld"):
        open_dataset("2.1.1")
    build_official(official("2.1.2"))
    for release in ("2.1.1", "2.1.2"):
        dataset = open_dataset(release)
        assert {split: len(games) for split, games in dataset.pack.splits.items()} == {
            "train": 3553,
            "seen": 140,
            "unseen": 134,
            "valid_train": 200,
        }
        assert dataset.grammar == release
    assert open_dataset("auto").name == "2.1.1"


def test_other_games_do_not_become_the_official_pack(
    write_games: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_games(tmp_path / "house")
    archive = Path(shutil.make_archive(str(tmp_path / "house"), "zip", folder))
    for source in (folder, archive):
        with pytest.raises(CorruptDataError, match="canonical"):
            build_official(source)
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "MAX_UNPACKED_BYTES", 10_000)
        with pytest.raises(CorruptDataError, match=r"house\.zip: its games unpack to .* 10,000"):
            build_official(archive)
    archive.write_bytes(archive.read_bytes()[:1000])
    with pytest.raises(CorruptDataError, match=r"house\.zip"):
        build_official(archive)
    with pytest.raises(DataNotFoundError):
        build_official(tmp_path / "nothing")
    assert not official_pack_path().exists()
    assert [path.name for path in official_pack_path().parent.iterdir()] == []
