from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eto_envs.errors import CorruptDataError, DataNotFoundError
from eto_envs.webshop.search import postings
from eto_envs.webshop.search.postings import Postings

IDS = ["B2", "B1", "B4", "B3"]
LISTS = [["red", "shoe", "red"], ["shoe"], [], ["blue", "schuh", "größe"]]
FILES = [f"{name}.npy" for name in postings._DTYPES]


def same(first: Postings, second: Postings) -> bool:
    pairs = [(first._arrays()[name], second._arrays()[name]) for name in postings._DTYPES]
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Postings.build(IDS, LISTS).save(tmp_path / "index")
    return tmp_path / "index"


def test_counts() -> None:
    built = Postings.build(IDS, iter(LISTS))
    red = built.vocabulary.find("red")
    assert built.documents[built.starts[red] : built.starts[red + 1]].tolist() == [0]
    shoe = built.vocabulary.find("shoe")
    assert built.documents[built.starts[shoe] : built.starts[shoe + 1]].tolist() == [0, 1]
    assert built.id_ranks.tolist() == [1, 0, 3, 2]
    assert built.weights[shoe] == np.float32(np.log(1 + (3 - 2 + 0.5) / (2 + 0.5)))


@pytest.mark.parametrize("tokens_per_block", [1, 2, 5, 100])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, tokens_per_block: int) -> None:
    rng = np.random.default_rng(0)
    lists = [[f"w{w}" for w in rng.zipf(1.5, rng.integers(0, 9)) % 50] for _ in range(60)]
    lists[7] = ["w1"] * 70_000  # a count that needs more than 16 bits
    ids = [f"id{row}" for row in range(60)]
    whole = Postings.build(ids, lists)
    monkeypatch.setattr(postings, "TOKENS_PER_BLOCK", tokens_per_block)
    assert same(Postings.build(ids, lists), whole)


def test_stored_length_is_small_float() -> None:
    assert [postings._stored_length(n) for n in range(41)] == [*range(40), 40]
    assert [postings._stored_length(n) for n in (41, 42, 55, 56, 59, 60, 1000)] == [
        *(40, 42, 54, 56, 56, 60, 984)
    ]


def test_round_visit(folder: Path) -> None:
    opened = Postings.open(folder)
    assert same(opened, Postings.build(IDS, LISTS))
    opened.save(folder.with_name("again"))
    assert same(Postings.open(folder.with_name("again")), opened)
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("lists", [[], [[], []]])
def test_nothing_to_find(tmp_path: Path, lists: list[list[str]]) -> None:
    empty = Postings.build(["a", "b"][: len(lists)], lists)
    empty.save(tmp_path / "index")
    assert same(Postings.open(tmp_path / "index"), empty)


def test_refuses_wrong_input() -> None:
    with pytest.raises(ValueError, match="same id"):
        Postings.build(["a", "a"], [[], []])
    with pytest.raises(ValueError, match="2 ids, but 1 list"):
        Postings.build(["a", "b"], [[]])


def test_leaves_other_files_alone(folder: Path) -> None:
    with pytest.raises(FileExistsError, match="not empty"):
        Postings.build(IDS, LISTS).save(folder)
    (folder.parent / "fresh").mkdir()
    Postings.build(IDS, LISTS).save(folder.parent / "fresh")
    assert same(Postings.open(folder.parent / "fresh"), Postings.open(folder))


@pytest.mark.parametrize("name", [*FILES, "index.json"])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataNotFoundError, match=name):
        Postings.open(folder)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"there is no file .*index\.json"):
        Postings.open(tmp_path / "nowhere")


@pytest.mark.parametrize("n_bytes_kept", [0, 5, 100, -1])
@pytest.mark.parametrize("name", [*FILES, "index.json"])
def test_truncated_file(folder: Path, name: str, n_bytes_kept: int) -> None:
    content = (folder / name).read_bytes()
    if name == "index.json" and n_bytes_kept == -1:
        n_bytes_kept = -3  # the last character is a line feed
    (folder / name).write_bytes(content[:n_bytes_kept])
    with pytest.raises(CorruptDataError, match=re_escape(folder / name)):
        Postings.open(folder)


def re_escape(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(".", r"\.").replace("[", r"\[")


@pytest.mark.parametrize("content", ["[]", '{"format": 0}', '{"format": 1}', '{"format"', "\x00"])
def test_wrong_description(folder: Path, content: str) -> None:
    (folder / "index.json").write_text(content)
    with pytest.raises(CorruptDataError, match=r"index\.json"):
        Postings.open(folder)


def test_wrong_array(folder: Path) -> None:
    np.save(folder / "weights.npy", np.zeros(5))
    with pytest.raises(CorruptDataError, match="contains"):
        Postings.open(folder)


def test_files_of_two_indexes(folder: Path) -> None:
    other = folder.with_name("other")
    Postings.build(IDS, [*LISTS[:3], ["a", "b", "c"]]).save(other)
    (folder / "term_bytes.npy").write_bytes((other / "term_bytes.npy").read_bytes())
    (folder / "index.json").write_bytes((other / "index.json").read_bytes())
    with pytest.raises(CorruptDataError, match="do not match"):
        Postings.open(folder)
