from __future__ import annotations

import gzip
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eto_envs.webshop.data.bundle import build_bundle
from eto_envs.webshop.data.goals import (
    NO_CAP_USD,
    PriceDraws,
    combination,
    goal_weights,
    n_combinations,
    price_text,
    shuffled_order,
)
from eto_envs.webshop.data.records import Product
from eto_envs.webshop.data.shop import Shop

NAN = float("nan")


def product_with(options: dict[str, tuple[str, ...]]) -> Product:
    return Product("B", "n", "q", "c", "p", "", (), "$1.0", (1.0,), options, (), ())


def test_prices_are_drawn_as_the_original_draws_them() -> None:
    low, high = [5.0, 7.0, 980.0, 20.0], [NAN, 9.5, NAN, 45.0]
    draws = PriceDraws(11, np.array(low), np.array(high))
    plain = random.Random(11)
    assert draws.prices_usd.tolist() == [5.0, plain.uniform(7, 9.5), 980.0, plain.uniform(20, 45)]
    above = [[p for p in range(10, 1000, 10) if p > price][:4] for price in draws.prices_usd]
    rows = [3, 0, 2, 0]
    wanted = [sorted(plain.sample(above[row], 2))[1] if row != 2 else NO_CAP_USD for row in rows]
    assert draws.caps_usd(rows).tolist() == wanted
    assert draws.caps_usd(rows).tolist() == wanted  # asking again draws nothing new


def test_price_text() -> None:
    assert price_text(30.0) == ", and price lower than 30.00 dollars"
    assert price_text(NO_CAP_USD) == ""


@pytest.mark.parametrize("n", [0, 1, 2, 367])
def test_order_is_the_originals_shuffle(n: int) -> None:
    order = list(range(n))
    random.Random(233).shuffle(order)
    assert shuffled_order(n).tolist() == order


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": ("s", "m", "l"), "color": ("red", "blue"), "fit": ("slim",)},
        {"b": (), "a": ("x",)},
    ],
)
def test_combinations_equal_the_full_product(options: dict[str, tuple[str, ...]]) -> None:
    product, names = product_with(options), sorted(options)
    plain = [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(options[name] for name in names))
    ]
    found = [combination(product, number) for number in range(n_combinations(product))]
    assert [list(options.items()) for options in found] == [list(p.items()) for p in plain]


def test_weights_are_mean_inverse_frequencies() -> None:
    weights = goal_weights([("a", "b"), ("b",), ("a",)], [2, 6, 0])
    assert weights.tolist() == [(1 / 2 + 1 / 8) / 2, 1 / 8, 0.0]


def test_goals_are_a_sequence(source: Path, tmp_path: Path) -> None:
    shop = Shop(build_bundle(source, tmp_path / "bundle", nouns="heuristic"), goals="synthetic")
    assert len(shop.goals) == 12 * 6
    assert shop.goals[np.int64(7)] == shop.goals[7]
    assert len({(goal.asin, *goal.options.values()) for goal in shop.goals}) == 72
    for index in (-1, 72):
        with pytest.raises(IndexError):
            shop.goals[index]


def test_instructions_without_goals_are_skipped(
    make_source: Callable[..., Path], make_product: Callable[..., Any], tmp_path: Path
) -> None:
    asins = [f"B{i}" for i in range(6)]
    products = [make_product(asin) for asin in asins]
    for place in (0, 2, 3, 5):
        products[place]["customization_options"]["Fit"] = []
    asked = {"attributes": ["a"], "instruction": "Find", "instruction_attributes": ["a"]}
    source = make_source(products, dict.fromkeys(asins[:6], asked))
    shop = Shop(build_bundle(source, tmp_path / "bundle", nouns="heuristic"), goals="synthetic")
    assert sorted(goal.asin for goal in shop.goals) == ["B1"] * 6 + ["B4"] * 6
    assert {goal.weight for goal in shop.goals} == {1 / 12}


@pytest.fixture(scope="session")
def real_bundles(real_source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        seed: build_bundle(real_source, folder / str(seed), price_seed=seed)
        for seed in (20240302, 5)
    }


@pytest.mark.data
@pytest.mark.parametrize("built_with", [20240302, 5])
@pytest.mark.parametrize(("kind", "name"), [("human", "human"), ("synthetic", "synth")])
def test_prices_and_goals_equal_the_originals(
    shared_data: Path, real_bundles: dict[int, Path], built_with: int, kind: Any, name: str
) -> None:
    path = shared_data / f"webshop/golden/meta_{name}.json.gz"
    recorded = json.loads(gzip.decompress(path.read_bytes()))
    shop = Shop(real_bundles[built_with], goals=kind, price_seed=20240302)
    assert list(shop.asins) == recorded["asin_order"]
    assert {asin: shop.price_usd(asin) for asin in shop.asins} == recorded["product_prices"]
    assert len(shop.goals) == recorded["n_goals"]
    for index, (goal, wanted) in enumerate(zip(shop.goals, recorded["goals"], strict=True)):
        product = shop.product(goal.asin)
        options = goal.options if kind == "synthetic" else list(goal.options)
        found = {
            "asin": goal.asin,
            "category": product.category,
            "query": product.query,
            "name": product.name,
            "product_category": product.product_category,
            "instruction_text": goal.instruction,
            "attributes": list(goal.attributes),
            "price_upper": goal.price_upper_usd,
            "goal_options": options,
            "weight": goal.weight,
        }
        assert found == wanted
        assert goal.index == index
        if kind == "synthetic":
            assert list(options) == list(wanted["goal_options"])
