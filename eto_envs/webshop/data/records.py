"""The two records that all of WebShop is about: a product and a goal.

Field by field they follow `web_agent_site/engine/engine.py` (`load_products`) and
`engine/goal.py` of princeton-nlp/WebShop at commit 64fa2a5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Product:
    """A product as pages show it and rewards judge it.

    Attributes:
        asin: its id, at most ten characters.
        name: the title.
        query: the search phrase it was crawled under, lower case and stripped.
        category: coarse category such as ``"beauty"``.
        product_category: path such as ``"Tools › Lighting › Chandeliers"``.
        description: full description, may be empty.
        bullets: the feature list.
        price_tag: the price as shown, ``"$12.0"`` or ``"$7.0 to $9.5"``.
        price_range_usd: one price, or the lower and the upper one, in US dollars.
        options: option name to its values, both lower case, in file order.
        attributes: the attributes that rewards match; ``("DUMMY_ATTR",)`` if it was in no file.
        nouns: nouns of the name, in order, with repetitions; decides `r_type`.
        image: URL of the main picture, may be empty.
        option_images: option value to the URL of its picture, where it has one.
    """

    asin: str
    name: str
    query: str
    category: str
    product_category: str
    description: str
    bullets: tuple[str, ...]
    price_tag: str
    price_range_usd: tuple[float, ...]
    options: Mapping[str, tuple[str, ...]]
    attributes: tuple[str, ...]
    nouns: tuple[str, ...]
    image: str = ""
    option_images: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a shopper is asked to buy.

    Attributes:
        index: position in the shuffled goal list; the session id of the original.
        asin: the target product.
        instruction: the text the agent reads, price cap included.
        attributes: attributes asked for, at least one.
        options: values asked for: a tuple of values (human goals) or name to value (synthetic).
        price_upper_usd: the price cap in US dollars; 1000000 where there is none.
        weight: sampling weight of the original (1 for human goals).
    """

    index: int
    asin: str
    instruction: str
    attributes: tuple[str, ...]
    options: tuple[str, ...] | Mapping[str, str]
    price_upper_usd: float
    weight: float = 1.0
