from __future__ import annotations

import itertools
import json
from collections import defaultdict
from pathlib import Path

import pytest
from rapidfuzz import fuzz

from eto_envs.webshop.data.manifest import read_manifest, verify_bundle
from eto_envs.webshop.data.shop import Shop, open_shop
from eto_envs.webshop.mini.dataset import MINI_BUNDLE, N_GOALS, build_mini_bundle, write_mini
from eto_envs.webshop.mini.products import Draw, marked_nouns, plain


@pytest.fixture(scope="module")
def shop() -> Shop:
    return open_shop(MINI_BUNDLE)


def categories_of(shop: Shop, split: str) -> set[str]:
    return {shop.product(shop.goals[index].asin).category for index in shop.splits[split]}


def test_the_shipped_bundle_is_what_the_generator_makes(tmp_path: Path) -> None:
    fresh, shipped = read_manifest(build_mini_bundle(tmp_path / "mini")), read_manifest(MINI_BUNDLE)
    assert fresh == shipped
    verify_bundle(MINI_BUNDLE)
    assert sum(path.stat().st_size for path in MINI_BUNDLE.rglob("*")) < 2_500_000


def test_files_are_the_same_each_time(tmp_path: Path) -> None:
    first, second = write_mini(tmp_path / "a"), write_mini(tmp_path / "b")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_more_rounds_add_train_goals_for_the_same_products(shop: Shop, tmp_path: Path) -> None:
    larger = open_shop(build_mini_bundle(tmp_path / "larger", n_rounds=3))
    assert larger.dataset == "mini-3-rounds"
    assert {p: len(larger.splits[p]) for p in N_GOALS} == N_GOALS | {"train": 3000}
    assert [*larger.asins] == [*shop.asins]

    def asked(shop: Shop, split: str) -> set[tuple[str, str]]:
        goals = [shop.goals[index] for index in shop.splits[split]]
        return {(goal.asin, goal.instruction.partition(", and price")[0]) for goal in goals}

    for split in ("seen", "unseen"):
        assert asked(larger, split) == asked(shop, split)
    before, after = asked(shop, "train"), asked(larger, "train")
    assert before < after
    assert len(after) == 3000
    assert {asin for asin, _ in before} == {asin for asin, _ in after}


def test_sizes(shop: Shop) -> None:
    assert shop.dataset == "mini"
    assert shop.nouns_source == "file"
    products = [shop.product(asin) for asin in shop.asins]
    assert len(products) >= 1000
    types = defaultdict(set)
    for product in products:
        types[product.category].add(product.query)
    assert len(types) >= 12
    assert min(map(len, types.values())) >= 4
    assert 0.1 < sum(len(product.price_range_usd) > 1 for product in products) / len(products) < 0.3


def test_splits(shop: Shop) -> None:
    splits = shop.splits
    assert {name: len(splits[name]) for name in N_GOALS} == N_GOALS
    assert sorted(itertools.chain(*(splits[name] for name in N_GOALS))) == list(range(1400))
    assert splits["train_clean"] == splits["train"]
    assert not categories_of(shop, "unseen") & categories_of(shop, "train")
    assert categories_of(shop, "seen") <= categories_of(shop, "train")
    train = {shop.goals[index].asin for index in splits["train"]}
    assert not train & {shop.goals[index].asin for index in splits["seen"]}


def test_every_goal_can_be_met_and_found(shop: Shop) -> None:
    for goal in shop.goals:
        product = shop.product(goal.asin)
        values = set(itertools.chain(*product.options.values()))
        assert set(goal.attributes) <= set(product.attributes)
        assert goal.options
        assert set(goal.options) <= values
        assert shop.price_usd(goal.asin) < goal.price_upper_usd
        assert goal.asin in shop.search(product.name)[:10]


def test_every_instruction_is_complete_and_unlike_the_others(shop: Shop) -> None:
    vocabulary = json.loads(MINI_BUNDLE.with_name("vocabulary.json").read_bytes())
    clauses = {}
    for category in vocabulary["categories"]:
        for text in category["attributes"]:
            attribute, clause = text.split(" | ")
            clauses[category["name"], plain(attribute)] = clause
    instructions = set()
    for goal in shop.goals:
        text, category = goal.instruction, shop.product(goal.asin).category
        instructions.add(text)
        assert all(value in text for value in goal.options)
        for attribute in goal.attributes:
            assert attribute in text or clauses[category, attribute] in text
    assert len(instructions) == len(shop.goals)


def test_attributes_of_a_product_are_shown_and_not_taken_for_each_other(shop: Shop) -> None:
    of_category = defaultdict(set)
    for asin in shop.asins:
        product = shop.product(asin)
        shown = " ".join([product.name, product.description, *product.bullets]).lower()
        assert all(attribute in shown for attribute in product.attributes)
        of_category[product.category] |= set(product.attributes[:-1])
    for attributes in of_category.values():
        for one, other in itertools.combinations(attributes, 2):
            assert fuzz.token_set_ratio(one, other) <= 85


def test_titles_name_no_attribute_that_the_product_lacks(shop: Shop) -> None:
    known = defaultdict(set)
    for asin in shop.asins:
        known[shop.product(asin).category] |= set(shop.product(asin).attributes[:-1])
    for asin in shop.asins:
        product = shop.product(asin)
        shown = " ".join([product.name, product.description, *product.bullets]).lower()
        assert not [a for a in known[product.category] - set(product.attributes) if a in shown]


def test_marks() -> None:
    assert marked_nouns("*Cotton soft *Throw *Blanket") == ["cotton", "throw", "blanket"]
    assert plain("*Cotton soft *Throw") == "Cotton soft Throw"


def test_draws() -> None:
    draw = Draw(5)
    assert sorted(draw.shuffled(range(20))) == list(range(20))
    assert draw.some("abcdefgh", 8) == list("abcdefgh")
    assert len(set(draw.sample(range(9), 4))) == 4
    assert {draw.pick("ab") for _ in range(50)} == {"a", "b"}
    assert Draw(5).sample(range(1000), 3) == Draw(5).sample(range(1000), 3)
