from __future__ import annotations

import json
import multiprocessing
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eto_envs.errors import CorruptDataError, DataNotFoundError, UnknownNameError
from eto_envs.webshop.data import shop as shop_module
from eto_envs.webshop.data.bundle import build_bundle
from eto_envs.webshop.data.manifest import MANIFEST, file_stamp, is_bundle
from eto_envs.webshop.data.shop import Shop, ensure_bundle, open_shop

pytestmark = pytest.mark.filterwarnings("ignore:the nouns of product names:UserWarning")


@pytest.fixture
def bundle(source: Path, tmp_path: Path) -> Path:
    return build_bundle(source, tmp_path / "bundle", nouns="heuristic")


def test_a_shop_knows_its_dataset(bundle: Path) -> None:
    shop = Shop(bundle)
    assert shop.dataset == "source"
    assert shop.price_seed == 20240302
    assert shop.nouns_source == "heuristic closed-class-1"
    assert shop.price_usd("B000000000") == 12.5
    assert shop.price_usd("B000000003") == random.Random(20240302).uniform(10, 30)
    assert shop.goals[0].instruction.startswith("a shirt B")
    with pytest.raises(KeyError):
        shop.price_usd("B1")
    with pytest.raises(KeyError):
        shop.product("B1")


def test_search_and_groups(bundle: Path) -> None:
    shop = Shop(bundle)
    assert shop.search("shirt B000000007")[0] == "B000000007"
    assert len(shop.search("shirt")) == 12
    assert list(shop.search("xyzzy")) == []
    assert list(shop.in_category("garden")) == list(shop.of_query("hoses")) == ["B000000005"]


def test_another_price_seed_draws_other_prices(bundle: Path, source: Path, tmp_path: Path) -> None:
    seven = build_bundle(source, tmp_path / "seven", nouns="heuristic", price_seed=7)
    for kind in ("human", "synthetic"):
        drawn, stored = Shop(bundle, goals=kind, price_seed=7), Shop(seven, goals=kind)
        assert list(drawn.goals) == list(stored.goals) != list(Shop(bundle, goals=kind).goals)
        assert drawn.fingerprint == stored.fingerprint != Shop(bundle).fingerprint
        assert drawn.price_seed == 7


def test_fingerprint_covers_texts_nouns_and_prices(source: Path, tmp_path: Path) -> None:
    names = [entry["name"] for entry in json.loads((source / "items_shuffle.json").read_text())]
    fingerprints = {Shop(build_bundle(source, tmp_path / "a", nouns="heuristic")).fingerprint}
    (source / "nouns.json").write_text(json.dumps({name: ["shirt"] for name in names}))
    fingerprints.add(Shop(build_bundle(source, tmp_path / "b")).fingerprint)
    fingerprints.add(Shop(build_bundle(source, tmp_path / "c", price_seed=1)).fingerprint)
    text = (source / "items_shuffle.json").read_text()
    (source / "items_shuffle.json").write_text(text.replace("soft cotton", "fine cotton"))
    fingerprints.add(Shop(build_bundle(source, tmp_path / "d")).fingerprint)
    assert len(fingerprints) == 4
    human = (source / "items_human_ins.json").read_text()
    (source / "items_human_ins.json").write_text(human.replace("a shirt", "one shirt"))
    assert Shop(build_bundle(source, tmp_path / "e")).fingerprint in fingerprints


def test_splits_by_rule(bundle: Path) -> None:
    splits = Shop(bundle).splits
    assert list(splits["seen"]) == [0, 10]
    assert list(splits["train"]) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 11] == list(splits["train_clean"])
    assert set(splits) == {"train", "train_clean", "seen"}
    synthetic = Shop(bundle, goals="synthetic").splits
    assert sorted([*synthetic["train"], *synthetic["seen"]]) == list(range(72))
    assert list(synthetic["seen"]) == list(range(0, 72, 10))
    for place in (-1, len(synthetic["train"])):
        with pytest.raises(IndexError):
            synthetic["train"][place]


def test_published_splits(source: Path, tmp_path: Path) -> None:
    for name, indices in (("train", [5, 3, 5, 1, 9]), ("test", [9, 2]), ("unseen", [3])):
        (source / f"{name}_indices.json").write_text(json.dumps(indices))
    bundle = build_bundle(source, tmp_path / "bundle", nouns="heuristic")
    assert dict(Shop(bundle).splits) == {
        "train": (5, 3, 1, 9),
        "seen": (9, 2),
        "unseen": (3,),
        "train_clean": (5, 1),
    }
    assert set(Shop(bundle, goals="synthetic").splits) == {"train", "train_clean", "seen"}


def test_a_shop_is_opened_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = open_shop(bundle)
    monkeypatch.chdir(bundle.parent)
    assert open_shop(Path(bundle.name)) is shop
    assert open_shop(bundle, goals="synthetic") is not shop
    assert open_shop(bundle, price_seed=3) is not shop


def test_unknown_kind_of_goals(bundle: Path) -> None:
    with pytest.raises(UnknownNameError, match="'synthetic'"):
        open_shop(bundle, goals="synthetc")  # type: ignore[arg-type]


def test_a_bundle_is_its_own_bundle(bundle: Path, tmp_path: Path) -> None:
    assert ensure_bundle(bundle, tmp_path / "cache") == bundle
    assert not (tmp_path / "cache").exists()


def test_a_cached_bundle_is_used_until_a_file_changes(source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = ensure_bundle(source, cache)
    made = (first / "bundle.json").stat().st_mtime_ns
    assert ensure_bundle(source, cache) == first
    assert (first / "bundle.json").stat().st_mtime_ns == made
    os.utime(source / "items_ins_v2.json", ns=(1, 1))
    second = ensure_bundle(source, cache)
    assert second != first
    assert is_bundle(second)
    assert not first.exists()


def test_large_datasets_are_not_built_unasked(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop_module, "MAX_AUTO_BUILD_BYTES", 1000)
    with pytest.raises(DataNotFoundError, match="eto data build webshop"):
        ensure_bundle(source, tmp_path / "cache")


def test_a_left_over_folder_is_no_bundle(source: Path, tmp_path: Path) -> None:
    left = tmp_path / "cache" / ".source-x.tmp"
    left.mkdir(parents=True)
    (left / "products.jsonl").write_text("{}")
    assert is_bundle(ensure_bundle(source, tmp_path / "cache"))


def _ensure(source: Path, cache: Path) -> tuple[str, int]:
    bundle = ensure_bundle(source, cache)
    return str(bundle), (bundle / "bundle.json").stat().st_mtime_ns


def test_two_processes_share_one_build(source: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(_ensure, [(source, tmp_path / "cache")] * 2, chunksize=1)
    assert found[0] == found[1]


def test_an_altered_text_is_noticed_when_a_small_bundle_is_opened(bundle: Path) -> None:
    path = bundle / "products.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Red", b"Bad"))
    with pytest.raises(CorruptDataError, match=r"products\.jsonl has been altered"):
        Shop(bundle)


def _restamp(bundle: Path) -> None:
    """Write the hashes of a bundle's files into its manifest: what is wrong fits them."""
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    manifest["files"] = {name: file_stamp(bundle / name) for name in manifest["files"]}
    (bundle / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("asins_order", np.arange(1, 13)),
        ("asins_order", np.arange(-1, 11)),
        ("asins_order", np.arange(12, dtype="<i4")),
        ("asins_order", np.arange(11)),
        ("asins", np.arange(12)),
        ("asins", np.array([[b"B1"]])),
        ("categories", np.zeros(11, "<i4")),
        ("human_order", np.arange(1, 13, dtype="<i4")),
        ("human_order", np.arange(3, dtype="<i4")),
        ("human_caps_usd", np.full(12, np.nan)),
        ("human_offsets", np.arange(13)),
        ("products_offsets", np.array([0])),
        ("prices_usd", np.full(12, -1.0)),
        ("index/documents", np.full(12, 99, dtype="<i4")),
        ("index/starts", np.arange(5)),
        ("index/weights", np.array([np.nan] * 5, "<f4")),
        ("index/id_ranks", np.zeros(3, "<i4")),
    ],
)
def test_arrays_that_refer_to_nothing_are_noticed_when_a_bundle_is_opened(
    name: str, values: Any, bundle: Path
) -> None:
    np.save(bundle / f"{name}.npy", values)
    _restamp(bundle)
    with pytest.raises(CorruptDataError, match=str(Path(name).parent if "/" in name else name)):
        Shop(bundle)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("products.jsonl", '"name":"Red Cotton', '"nome":"Red Cotton', "record 0 is not a product"),
        ("products.jsonl", '"price_range_usd":[12.5]', '"price_range_usd":[""]  ', "not a product"),
        ("products.jsonl", '"asin":"B000000000"', '"asin":"B00000000X"', "another product"),
        ("products.jsonl", "{", "[", "record 0: not JSON"),
        ("human.jsonl", '"B000000000"', '"B00000000X"', "goal .* cannot be made"),
        ("human.jsonl", '["cotton"]', '["cotton"}', "human.jsonl, record 0"),
    ],
)
def test_records_that_are_damaged_are_noticed_when_they_are_read(
    name: str, old: str, new: str, message: str, bundle: Path
) -> None:
    path = bundle / name
    text = path.read_text()
    assert len(old) == len(new)
    assert old in text
    path.write_text(text.replace(old, new, 1))
    _restamp(bundle)
    shop = Shop(bundle)
    with pytest.raises(CorruptDataError, match=message):
        [shop.product(goal.asin) for goal in shop.goals]
