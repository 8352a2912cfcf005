"""The two records of WebShop: a product and a goal.

Their fields follow `web_agent_site/engine/engine.py` (`load_products`) and `engine/goal.py` of
princeton-nlp/WebShop at commit 64fa2a5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Product:
    """A product.

    Attributes:
        asin: its id, at most ten characters.
        name: its title.
        query: the search phrase with which it was crawled, in lower case and stripped.
        category: its coarse category, such as ``"beauty"``.
        product_category: its path, such as ``"Tools › Lighting › Chandeliers"``.
        description: its full description, which can be empty.
        bullets: the list of its features.
        price_tag: the price as displayed, ``"$12.0"`` or ``"$7.0 to $9.5"``.
        price_range_usd: one price, or the minimum and maximum, in US dollars.
        options: the values of each option, by its name; in lower case, in the order of the file.
        attributes: the attributes used for the reward; ``("DUMMY_ATTR",)`` if the file has none.
        nouns: the nouns of the name, in order, with repetitions; they determine `r_type`.
        image: the URL of the main picture, which can be empty.
        option_images: the URL of the picture of each option value that has one.
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
    """What the shopper should buy.

    Attributes:
        index: the position in the shuffled list of goals; the session id in the original.
        asin: the target product.
        instruction: the text that the agent reads, including the price cap.
        attributes: the requested attributes, at least one.
        options: the requested options: a tuple of values (human goals) or name to value
            (synthetic).
        price_upper_usd: the price cap in US dollars; 1000000 if there is none.
        weight: the sampling weight of the original (1 for human goals).
    """

    index: int
    asin: str
    instruction: str
    attributes: tuple[str, ...]
    options: tuple[str, ...] | Mapping[str, str]
    price_upper_usd: float
    weight: float = 1.0
