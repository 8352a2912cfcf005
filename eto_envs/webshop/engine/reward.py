"""The reward of a purchase, in [0, 1], and its terms.

The rules are those of `engine/goal.py` (`get_reward` and the functions it calls) and
`engine/normalize.py` of princeton-nlp/WebShop at commit 64fa2a5, including their quirks, in the
version of Yifan-Song793/ETO at commit a2fc5da. Not here: nouns, which are part of the product, and
the price of products with a price range, which the shop determines.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from rapidfuzz import fuzz, utils

from eto_envs.webshop.data.records import Goal, Product

_COLOUR_NAMES = """
    alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown
    burgundy camel camo caramel champagne charcoal cheetah chestnut chocolate christmas coffee
    cognac copper coral cranberry cream crystal dark denim eggplant elephant espresso fuchsia gold
    granite grape graphite grass gray green grey heather indigo ivory ivy khaki lavender lemon
    leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor mushroom
    mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal rust
    sand sapphire seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger
    turquoise violet walnut wheat white wine yellow
"""
#: The colour names to which options are reduced, in the order in which they are tried. The first
#: one that is a substring wins ("rosewood" is "rose", "standard" is "tan"). From `COLOR_SET` in
#: `engine/normalize.py` of princeton-nlp/WebShop.
COLOURS = tuple(_COLOUR_NAMES.split())

#: A requested option: a value (human goals), or a pair of name and value (synthetic goals, where
#: the original compares the string of the whole pair with the chosen value).
Wanted = str | tuple[str, str]

MATCH_ABOVE = 85  # token-set ratio, 0 to 100
_LATIN_1 = dict.fromkeys(range(128, 256))  # removed by thefuzz, unlike other non-ASCII letters


@functools.lru_cache(maxsize=1 << 17)
def token_set_ratio(first: Wanted, second: Wanted) -> int:
    """`thefuzz.fuzz.token_set_ratio` of version 0.20: 0 to 100, symmetric except for rounding."""
    return round(fuzz.token_set_ratio(_normalized(first), _normalized(second)))


def _normalized(text: Wanted) -> str:
    return utils.default_process(str(text).translate(_LATIN_1))


@functools.lru_cache(maxsize=1 << 16)
def colour_of(option: Wanted) -> Wanted:
    """The first known colour that an option contains, or the option itself.

    For a pair of name and value, one of the two must be equal to the colour.
    """
    return next((colour for colour in COLOURS if colour in option), option)


def type_terms(product: Product, wanted: Product) -> dict[str, Any]:
    """How well the type of a product matches that of the target.

    Returns:
        ``r_type`` (0, 0.1, 0.5 or 1), ``query_match``, ``category_match`` and ``title_score``, the
        fraction of the target's nouns that occur in the product's name. For a name with a repeated
        noun, it is less than 1 even for the target itself: the original divides the size of a set
        by the length of a list.
    """
    query_match = product.query == wanted.query
    category_match = len(_categories(product) & _categories(wanted)) >= 2
    title_score = 0.2
    if wanted.nouns:
        title_score = len({*product.nouns} & {*wanted.nouns}) / len(wanted.nouns)
    r_type = 1.0 if query_match or category_match or title_score > 0.2 else 0.5
    if title_score < 0.1:
        r_type = 0.1
    if title_score == 0.0:
        r_type = 0.0
    return {
        "r_type": r_type,
        "query_match": query_match,
        "category_match": category_match,
        "title_score": title_score,
    }


def _categories(product: Product) -> set[str]:
    return {part.strip() for part in product.product_category.split("›")}


def n_attributes_matched(product: Product, wanted: Iterable[str]) -> int:
    """The number of requested attributes that a product has, or mentions in its texts."""
    return sum(_has_attribute(product, attribute) for attribute in wanted)


def _has_attribute(product: Product, wanted: str) -> bool:
    return (
        any(token_set_ratio(own, wanted) > MATCH_ABOVE for own in product.attributes)
        or wanted in product.name.lower()
        or wanted in " ".join(product.bullets).lower()
        or wanted in product.description.lower()
    )


def wanted_options(goal: Goal) -> tuple[Wanted, ...]:
    """The requested options, as the original compares them."""
    return tuple(goal.options.items() if isinstance(goal.options, Mapping) else goal.options)


def option_matches(chosen: str, wanted: Wanted) -> bool:
    """Whether a chosen value satisfies a requested option."""
    return token_set_ratio(colour_of(chosen), colour_of(wanted)) > MATCH_ABOVE


def n_options_matched(chosen: Iterable[str], wanted: Iterable[Wanted]) -> int:
    """The number of requested options that at least one chosen value satisfies."""
    values = tuple(chosen)
    return sum(any(option_matches(value, option) for value in values) for option in wanted)


def get_reward(
    product: Product,
    goal: Goal,
    goal_product: Product,
    price_usd: float,
    options: Mapping[str, str],
) -> tuple[float, dict[str, Any]]:
    """The reward of buying a product, and its terms.

    Args:
        product: the product that is bought.
        goal: the goal.
        goal_product: the product from which the goal was made.
        price_usd: the price of `product`.
        options: the chosen options, name to value.

    Returns:
        The reward in [0, 1], and its terms under the original's keys: ``r_type``, ``r_att``,
        ``r_option``, ``r_price`` (a bool), the weights ``w_att``, ``w_option`` and ``w_price``,
        which sum to 1, and the terms of `type_terms`. ``r_option`` and ``w_option`` are missing if
        the goal requests no options. The reward is the weighted sum times ``r_type``.
    """
    kind = type_terms(product, goal_product)
    wanted = wanted_options(goal)
    n_attributes, n_options = len(goal.attributes), len(wanted)
    attributes_matched = n_attributes_matched(product, goal.attributes)
    options_matched = n_options_matched(options.values(), wanted)
    # Differs from the reference: a price cap of 0 or less, which no goal has, is not ignored.
    r_price = price_usd <= goal.price_upper_usd
    n_terms = n_attributes + n_options + 1
    total = (attributes_matched + options_matched + r_price) / n_terms * kind["r_type"]
    terms = {
        "r_type": kind["r_type"],
        "r_att": attributes_matched / n_attributes,
        "w_att": n_attributes / n_terms,
        "query_match": kind["query_match"],
        "category_match": kind["category_match"],
        "title_score": kind["title_score"],
    }
    if wanted:
        terms |= {"r_option": options_matched / n_options, "w_option": n_options / n_terms}
    return total, terms | {"r_price": r_price, "w_price": 1 / n_terms}
