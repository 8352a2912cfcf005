from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_envs.errors import CorruptDataError, DataNotFoundError, EmptySplitError
from eto_envs.webshop.data import bundle as bundle_module
from eto_envs.webshop.data.bundle import build_bundle
from eto_envs.webshop.data.manifest import is_bundle, read_manifest, verify_bundle
from eto_envs.webshop.data.shop import Shop
from eto_envs.webshop.env import task_set

Make = Callable[..., Any]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def bundle(source: Path, tmp_path: Path) -> Path:
    return build_bundle(source, tmp_path / "out" / "bundle", nouns="heuristic")


def test_manifest_says_what_it_was_made_from(bundle: Path, source: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest["dataset"] == "source"
    assert manifest["price_seed"] == 20240302
    assert manifest["nouns"] == "heuristic closed-class-1"
    assert manifest["counts"] == {"products": 12, "human_goals": 12, "synthetic_goals": 72}
    assert list(manifest["source"]) == [
        "items_shuffle.json",
        "items_ins_v2.json",
        "items_human_ins.json",
    ]
    assert set(manifest["files"]) == set(contents(bundle)) - {"bundle.json"}
    assert str(source.parent) not in (bundle / "bundle.json").read_text()
    assert os.listdir(bundle.parent) == ["bundle"]


def test_builds_are_byte_identical(bundle: Path, source: Path, tmp_path: Path) -> None:
    other = build_bundle(source, tmp_path / "elsewhere", nouns="heuristic")
    assert contents(other) == contents(bundle)


def test_an_old_bundle_is_replaced(bundle: Path, source: Path) -> None:
    build_bundle(source, bundle, nouns="heuristic", price_seed=1, dataset="mine")
    assert read_manifest(bundle)["price_seed"] == 1
    assert read_manifest(bundle)["dataset"] == "mine"
    assert os.listdir(bundle.parent) == ["bundle"]


def test_a_folder_that_is_no_bundle_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="not a bundle"):
        build_bundle(source, tmp_path / "mine", nouns="heuristic")


@pytest.mark.parametrize(
    "name", ["items_shuffle.json", "items_ins_v2.json", "items_human_ins.json"]
)
def test_missing_and_damaged_sources(source: Path, tmp_path: Path, name: str) -> None:
    text = (source / name).read_bytes()
    for damaged in (text[: len(text) // 2], b"", b"<html>", b"[1]", b'{"B": 1}', b"3"):
        (source / name).write_bytes(damaged)
        with pytest.raises(CorruptDataError, match=name):
            build_bundle(source, tmp_path / "out" / "bundle", nouns="heuristic")
    (source / name).unlink()
    with pytest.raises(DataNotFoundError, match=name):
        build_bundle(source, tmp_path / "out" / "bundle", nouns="heuristic")
    assert os.listdir(tmp_path / "out") == []


def test_no_products(make_source: Make, tmp_path: Path) -> None:
    with pytest.raises(CorruptDataError, match="no usable product"):
        build_bundle(make_source([]), tmp_path / "bundle", nouns="heuristic")


def test_a_bundle_without_any_goal(make_source: Make, make_product: Make, tmp_path: Path) -> None:
    target = build_bundle(make_source([make_product("B01")]), tmp_path / "b", nouns="heuristic")
    for kind in ("human", "synthetic"):
        shop = Shop(target, goals=kind)
        assert len(shop.goals) == len(shop.splits["train"]) == len(shop.splits["seen"]) == 0
        file = {"human": "items_human_ins.json", "synthetic": "items_ins_v2.json"}[kind]
        with pytest.raises(EmptySplitError, match=f"{file} has no matching entry"):
            task_set(shop, "train")


def test_file_sizes_are_checked_at_opening_and_hashes_on_request(bundle: Path) -> None:
    verify_bundle(bundle)
    path = bundle / "products.jsonl"
    text = path.read_bytes()
    path.write_bytes(text.replace(b"Red", b"Bad"))
    read_manifest(bundle)
    with pytest.raises(CorruptDataError, match=r"products\.jsonl has been altered"):
        verify_bundle(bundle)
    path.write_bytes(text[:-1])
    with pytest.raises(CorruptDataError, match=r"products\.jsonl has .* bytes, expected"):
        read_manifest(bundle)
    path.unlink()
    with pytest.raises(CorruptDataError, match=r"products\.jsonl has None bytes"):
        Shop(bundle)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 99, "files": {}}']
)
def test_damaged_manifests(bundle: Path, text: str) -> None:
    (bundle / "bundle.json").write_text(text)
    with pytest.raises(CorruptDataError, match="To rebuild it"):
        read_manifest(bundle)


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"no bundle\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("indices", "said"),
    [
        ([12], "goal 12"),
        ([-1], "goal -1"),
        (["1"], "goal '1'"),
        ([True], "goal True"),
        ([1.0], "1.0"),
    ],
)
def test_splits_of_another_dataset(source: Path, tmp_path: Path, indices: Any, said: str) -> None:
    (source / "train_indices.json").write_text(json.dumps(indices))
    (source / "test_indices.json").write_text("[0]")
    with pytest.raises(CorruptDataError, match=f"train_indices.json contains {'.*' + said}"):
        build_bundle(source, tmp_path / "bundle", nouns="heuristic")


def test_an_empty_list_is_named(source: Path, tmp_path: Path) -> None:
    (source / "train_indices.json").write_text("[0]")
    (source / "test_indices.json").write_text("[]")
    shop = Shop(build_bundle(source, tmp_path / "bundle", nouns="heuristic"))
    with pytest.raises(EmptySplitError, match=r"test_indices\.json has no matching entry"):
        task_set(shop, "seen")


def test_half_of_the_splits(source: Path, tmp_path: Path) -> None:
    (source / "train_indices.json").write_text("[0]")
    with pytest.raises(DataNotFoundError, match=r"no\s+test_indices\.json"):
        build_bundle(source, tmp_path / "bundle", nouns="heuristic")


def _build_slowly(source: Path, target: Path) -> None:
    build_bundle(source, target, nouns="heuristic", progress=lambda stage, count: time.sleep(60))


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_build_leaves_nothing_that_looks_complete(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "bundle"
    process = multiprocessing.get_context("spawn").Process(
        target=_build_slowly, args=(source, target)
    )
    process.start()
    deadline = time.monotonic() + 60
    while (
        not list(tmp_path.glob("out/.bundle-*.tmp/products.jsonl")) and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (left,) = (tmp_path / "out").iterdir()
    assert not is_bundle(left)
    assert not target.exists()
    assert is_bundle(build_bundle(source, target, nouns="heuristic"))


def test_the_pool_builds_the_same_bundle(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_module, "MIN_POOL_PRODUCTS", 0)
    assert contents(build_bundle(source, tmp_path / "pool", nouns="heuristic")) == contents(bundle)


def test_progress_is_reported(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    build_bundle(
        source, tmp_path / "b", nouns="heuristic", progress=lambda stage, n: seen.append((stage, n))
    )
    assert seen == [("products", 12)]
