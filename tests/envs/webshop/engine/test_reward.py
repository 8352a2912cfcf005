from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_envs.webshop.data.records import Goal, Product
from eto_envs.webshop.engine.reward import (
    COLOURS,
    colour_of,
    get_reward,
    n_attributes_matched,
    option_matches,
    token_set_ratio,
    type_terms,
)

LAMP = Product(
    asin="B000000001",
    name="Oak Desk Lamp",
    query="desk lamps",
    category="garden",
    product_category="Home › Lighting › Lamps",
    description="With a USB port.",
    bullets=("Dims to 10 %",),
    price_tag="$10.0",
    price_range_usd=(10.0,),
    options={},
    attributes=("easy clean",),
    nouns=("oak", "desk", "lamp"),
)


def like_lamp(**changes: Any) -> Product:
    return dataclasses.replace(LAMP, **changes)


def goal(**changes: Any) -> Goal:
    base = Goal(0, LAMP.asin, "a lamp", ("easy clean",), ("red",), 20.0)
    return dataclasses.replace(base, **changes)


def test_there_are_102_colours_and_the_first_substring_wins() -> None:
    assert len(COLOURS) == len(set(COLOURS)) == 102
    assert colour_of("rosewood") == "rose"
    assert colour_of("standard") == "tan"
    assert colour_of("12 oz") == "12 oz"


def test_colours_of_pairs_are_whole_members() -> None:
    assert colour_of(("color", "red")) == "red"
    assert colour_of(("color", "dark red")) == ("color", "dark red")


def test_ratio_drops_latin_1_letters_only() -> None:
    assert token_set_ratio("caf\u00e9", "caf") == 100
    assert token_set_ratio("\u732b", "x") == 0
    assert token_set_ratio("!", "?") == 0


@pytest.mark.parametrize(
    ("changes", "r_type", "title_score"),
    [
        ({}, 1.0, 1.0),
        ({"nouns": ("oak",), "query": "x", "product_category": "x"}, 1.0, 1 / 3),
        ({"nouns": ("tulip",)}, 0.0, 0.0),  # query and category do not help
        ({"nouns": ()}, 0.0, 0.0),
    ],
)
def test_type_of_a_purchase(changes: dict[str, Any], r_type: float, title_score: float) -> None:
    terms = type_terms(like_lamp(**changes), LAMP)
    assert terms["r_type"] == r_type
    assert terms["title_score"] == title_score


def test_type_thresholds_on_few_shared_nouns() -> None:
    stranger = {"query": "x", "product_category": "x"}
    for n_nouns, r_type in ((4, 1.0), (5, 0.5), (10, 0.5), (11, 0.1)):
        wanted = like_lamp(nouns=("oak", *(f"noun{i}" for i in range(n_nouns - 1))))
        assert type_terms(like_lamp(nouns=("oak",), **stranger), wanted)["r_type"] == r_type
    nameless = like_lamp(nouns=())
    assert type_terms(like_lamp(**stranger), nameless)["r_type"] == 0.5  # 0.2 is not above 0.2


def test_repeated_nouns_score_below_one_with_oneself() -> None:
    twice = like_lamp(nouns=("lamp", "lamp"))
    assert type_terms(twice, twice)["title_score"] == 0.5


@pytest.mark.parametrize("attribute", ["easy clean", "clean easy", "desk lamp", "usb port", "dims"])
def test_attributes_match_by_list_or_text(attribute: str) -> None:
    assert n_attributes_matched(LAMP, [attribute, "no such thing"]) == 1


def test_pairs_match_by_their_value_unless_a_colour_hides_it() -> None:
    assert option_matches("small", ("size", "small"))
    assert not option_matches("rosewood", ("wood", "rosewood"))
    assert option_matches("rosewood", "rosewood")


def test_full_reward_and_its_terms() -> None:
    reward, terms = get_reward(LAMP, goal(), LAMP, 10.0, {"color": "red"})
    assert reward == 1.0
    assert list(terms) == [
        *("r_type", "r_att", "w_att", "query_match", "category_match", "title_score"),
        *("r_option", "w_option", "r_price", "w_price"),
    ]
    assert terms["r_price"] is True


def test_what_is_missing_costs_its_weight() -> None:
    assert get_reward(LAMP, goal(), LAMP, 10.0, {})[0] == 2 / 3
    assert get_reward(LAMP, goal(), LAMP, 20.5, {"color": "red"})[0] == 2 / 3
    assert get_reward(LAMP, goal(attributes=("x-y-z",)), LAMP, 10.0, {"color": "red"})[0] == 2 / 3


def test_a_goal_without_options_has_no_option_terms() -> None:
    reward, terms = get_reward(LAMP, goal(options=()), LAMP, 10.0, {"color": "blue"})
    assert reward == 1.0
    assert "r_option" not in terms
    assert "w_option" not in terms


words = st.text(alphabet="abc é-<", max_size=8)
texts = st.lists(words, max_size=4).map(tuple)
products = st.builds(
    like_lamp,
    name=words,
    query=words,
    product_category=words,
    bullets=texts,
    attributes=texts,
    nouns=texts,
)
goals = st.builds(
    goal,
    attributes=st.lists(words, min_size=1, max_size=4).map(tuple),
    options=texts | st.dictionaries(words, words, max_size=3),
    price_upper_usd=st.floats(1, 1e6),
)


@given(products, goals, products, st.floats(0, 1e6), st.dictionaries(words, words, max_size=3))
def test_rewards_lie_between_0_and_1_and_are_the_sum_of_their_terms(
    product: Product, wanted: Goal, goal_product: Product, price_usd: float, options: dict[str, str]
) -> None:
    reward, terms = get_reward(product, wanted, goal_product, price_usd, options)
    assert 0.0 <= reward <= 1.0
    parts = (terms.get(f"r_{name}", 0) * terms.get(f"w_{name}", 0) for name in TERMS)
    assert reward == pytest.approx(terms["r_type"] * sum(parts))
    assert sum(terms.get(f"w_{name}", 0) for name in TERMS) == pytest.approx(1.0)


TERMS = ("att", "option", "price")


@pytest.mark.data
@pytest.mark.parametrize("kind", ["human", "synthetic"])
def test_recorded_rewards(
    shared_data: Path, official_shop: Callable[[str], Any], kind: str
) -> None:
    shop = official_shop(kind)
    stem = {"human": "rewards_human", "synthetic": "rewards_synth"}[kind]
    with gzip.open(shared_data / "webshop" / "golden" / f"{stem}.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    assert len(rows) == 400
    for row in rows:
        wanted = shop.goals[row["goal_index"]]
        price_usd = shop.price_usd(row["asin"])
        assert price_usd == row["price"]
        reward, terms = get_reward(
            shop.product(row["asin"]), wanted, shop.product(wanted.asin), price_usd, row["options"]
        )
        assert (reward, terms) == (row["reward"], row["info"])
