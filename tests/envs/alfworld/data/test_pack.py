from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eto_envs.alfworld.data import pack as pack_module
from eto_envs.alfworld.data.datasets import OFFICIAL_SHA256
from eto_envs.alfworld.data.games import find_games
from eto_envs.alfworld.data.pack import Pack, build_pack, write_pack
from eto_envs.alfworld.data.reading import read_game
from eto_envs.errors import CorruptDataError, DataNotFoundError, UnknownNameError
from tests.envs.alfworld.house import game_file, task_id

WriteGames = Callable[..., Path]


def test_holds_the_games_of_the_folder(tmp_path: Path, write_games: WriteGames) -> None:
    folder = write_games(tmp_path / "house", "2.1.2")
    told: list[tuple[int, int]] = []
    pack = build_pack(folder, tmp_path / "made" / "house.bin", lambda *n: told.append(n))
    found = find_games(folder)
    assert told == [(i + 1, len(found)) for i in range(len(found))]
    assert pack.grammar == "2.1.2"
    assert list(pack.splits) == ["train", "seen", "unseen", "valid_train"]
    for game in found:
        assert game.task_id in pack.splits[game.split]
        assert game.task_id in pack
        assert pack.problem(game.task_id) == read_game(game.path).problem
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["house.bin"]


def test_both_releases_make_the_same_games(tmp_path: Path, write_games: WriteGames) -> None:
    one = build_pack(write_games(tmp_path / "1", "2.1.1"), tmp_path / "1.bin")
    other = build_pack(write_games(tmp_path / "2", "2.1.2"), tmp_path / "2.bin")
    assert one.sha256 == other.sha256
    assert one.grammar != other.grammar


def test_a_changed_fact_changes_the_hash(tmp_path: Path, write_games: WriteGames) -> None:
    folder = write_games(tmp_path / "house")
    before = build_pack(folder, tmp_path / "house.bin")
    path = find_games(folder)[0].path
    path.write_text(path.read_text().replace("(openable Fridge_bar_01)", ""))
    after = build_pack(folder, tmp_path / "house.bin")
    assert before.sha256 != after.sha256
    changed = [i for split in before.splits.values() for i in split]
    assert [i for i in changed if before.digest(i) != after.digest(i)] == [
        find_games(folder)[0].task_id
    ]


def test_unsolvable_games_are_left_out(tmp_path: Path, write_games: WriteGames) -> None:
    folder = write_games(tmp_path / "house")
    first, *others = find_games(folder)
    first.path.write_text(json.dumps(game_file("look") | {"solvable": False}))
    pack = build_pack(folder, tmp_path / "house.bin")
    assert first.task_id not in pack
    assert all(game.task_id in pack for game in others)


def test_a_bad_game_stops_the_build_and_keeps_what_was_there(
    tmp_path: Path, write_games: WriteGames
) -> None:
    folder, target = write_games(tmp_path / "house"), tmp_path / "house.bin"
    target.write_bytes(b"old")
    bad = find_games(folder)[3].path
    bad.write_text("{")
    with pytest.raises(CorruptDataError, match="not JSON"):
        build_pack(folder, target)
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["house", "house.bin"]


def test_mixed_releases(tmp_path: Path, write_games: WriteGames) -> None:
    folder = write_games(tmp_path / "house")
    find_games(folder)[0].path.write_text(json.dumps(game_file("look", "2.1.2")))
    with pytest.raises(CorruptDataError, match=r"mixes games of releases \['2\.1\.1', '2\.1\.2'\]"):
        build_pack(folder, tmp_path / "house.bin")


def test_one_game_in_two_splits(tmp_path: Path, write_games: WriteGames) -> None:
    folder = write_games(tmp_path / "house") / "json_2.1.1"
    twice = folder / "valid_seen" / task_id("two", 0)
    twice.mkdir(parents=True)
    (twice / "game.tw-pddl").write_text(json.dumps(game_file("two")))
    with pytest.raises(CorruptDataError, match="is in two splits"):
        build_pack(folder, tmp_path / "house.bin")


def test_unknown_game_suggests_the_nearest(house_pack: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean '.*trial_0'"):
        Pack(house_pack).problem(task_id("two").replace("Drawer", "Draw"))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no such pack"):
        Pack(tmp_path / "house.bin")


@pytest.mark.parametrize("n_bytes", [0, 10, 30, 40, 2000, -1])
def test_cut_short(house_pack: Path, n_bytes: int) -> None:
    house_pack.write_bytes(house_pack.read_bytes()[:n_bytes])
    with pytest.raises(CorruptDataError, match="eto data build alfworld"):
        Pack(house_pack)


def test_altered_index(house_pack: Path) -> None:
    content = house_pack.read_bytes()
    house_pack.write_bytes(content.replace(b"trial_0", b"trial_9", 1))
    with pytest.raises(CorruptDataError, match="truncated or altered"):
        Pack(house_pack)


def test_altered_game(house_pack: Path) -> None:
    content = house_pack.read_bytes()
    house_pack.write_bytes(content[:-20] + content[-20:].replace(b"]", b" "))
    pack = Pack(house_pack)
    with pytest.raises(CorruptDataError, match="is altered"):
        pack.problem(pack.splits["valid_train"][-1])


def test_a_gzipped_pack_is_the_same(house_pack: Path) -> None:
    pack = Pack(house_pack)
    games = {split: {i: pack.problem(i) for i in ids} for split, ids in pack.splits.items()}
    plain = write_pack(house_pack.with_name("plain.bin"), games, pack.grammar)
    zipped = write_pack(house_pack.with_name("zipped.gz"), games, pack.grammar)
    assert plain.path.read_bytes() == house_pack.read_bytes()
    assert zipped.path.stat().st_size < 0.2 * plain.path.stat().st_size
    assert (zipped.sha256, zipped.grammar, zipped.splits) == (
        pack.sha256,
        pack.grammar,
        pack.splits,
    )
    assert zipped.problem(task_id("two")) == pack.problem(task_id("two"))


@pytest.mark.parametrize("n_bytes", [2, 9, 200, -1])
def test_gzipped_and_cut_short(house_pack: Path, n_bytes: int) -> None:
    zipped = gzip.compress(house_pack.read_bytes())
    house_pack.write_bytes(zipped[:n_bytes])
    with pytest.raises(CorruptDataError, match="truncated or altered"):
        Pack(house_pack)
    middle = len(zipped) // 2
    house_pack.write_bytes(zipped[:middle] + b"altered" + zipped[middle + 7 :])
    with pytest.raises(CorruptDataError, match="truncated or altered"):
        Pack(house_pack)


@pytest.mark.data
def test_canonical_games(
    official: Callable[[str], Path], official_pack: Pack, tmp_path: Path
) -> None:
    assert official_pack.sha256 == OFFICIAL_SHA256
    assert build_pack(official("2.1.2"), tmp_path / "2.1.2.bin").sha256 == OFFICIAL_SHA256


def test_a_gzipped_pack_has_a_limit(
    house_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "house.pack.gz"
    content = house_pack.read_bytes()
    packed.write_bytes(gzip.compress(content))
    monkeypatch.setattr(pack_module, "MAX_UNPACKED_BYTES", len(content))
    assert Pack(packed).splits
    monkeypatch.setattr(pack_module, "MAX_UNPACKED_BYTES", len(content) - 1)
    with pytest.raises(CorruptDataError, match=r"house\.pack\.gz: unpacks to more than"):
        Pack(packed)


def _with_first_game(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a pack with a changed game, whose hashes fit."""
    pack = Pack(path)
    games = {split: {i: pack.problem(i) for i in ids} for split, ids in pack.splits.items()}
    split, ids = next(iter(pack.splits.items()))
    record = json.loads(games[split][ids[0]].to_json())
    change(record)
    games[split][ids[0]] = SimpleNamespace(to_json=lambda: json.dumps(record).encode())  # type: ignore[assignment]
    write_pack(path, games, "2.1.1")


@pytest.mark.parametrize(
    "change",
    [
        {"start": 99},
        {"held": 10**6},
        {"objects": [1]},
        {"contents": []},
        {"opened": -1},
        {"goal": ["eat", "apple", "desk"]},
        {"goal": 3},
        {"insides": [[0]]},
        {"traits": {}},
        {"unknown": 1},
        {"task": None},
    ],
)
def test_a_game_that_refers_to_nothing_is_damaged(change: dict[str, Any], house_pack: Path) -> None:
    _with_first_game(house_pack, lambda record: record.update(change))
    pack = Pack(house_pack)
    ids = [task_id for ids in pack.splits.values() for task_id in ids]
    with pytest.raises(CorruptDataError, match=r"house\.bin: .* is not a game"):
        pack.problem(ids[0])
    assert pack.problem(ids[1])
