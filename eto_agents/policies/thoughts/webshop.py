"""Thoughts in WebShop: what the request names, and what a page shows of it.

Pages are read in the text mode, as ETO shows them; of other modes only the action is spoken of.
What is wanted is what the request says word for word: a page's value counts as asked for if its
words stand in the request.
"""

from __future__ import annotations

import random
import re
from typing import Final, NamedTuple

from eto_agents.policies.thoughts.narrator import Narrator, Style, joined

_CAP = re.compile(r"price lower than ([\d.]+) dollars")
_PRICE = re.compile(r"\$([\d.]+)(?: to \$([\d.]+))?")
_ASIN = re.compile(r"[A-Z0-9]{10}")
_ACTION = re.compile(r"(search|click)\[(.*)\]", re.DOTALL)
_WORD = re.compile(r"[a-z0-9]+(?:[.'][a-z0-9]+)*")
_SUB_PAGES: Final = ("description", "features", "reviews", "attributes")

_NAME_WORDS = """
    color size style flavor scent material quantity pattern fit type length width name model number
    of items unit count package item shape capacity configuration metal stone power theme
    resistance ruling lid skin bulb ink point
"""
_NAMES: Final = frozenset(_NAME_WORDS.split())
"""Words that names of options are made of; a text of nothing else is no value."""

_COMMON_WORDS = """
    a an and are as at be by can could do for from get help i i'd i'm in is it looking me my need of
    on one or please some that the there this to want which with would you price lower than dollars
    free
"""
_COMMON: Final = frozenset(_COMMON_WORDS.split())
"""Words that say nothing about a product."""


class Product(NamedTuple):
    """A product as a page shows it.

    Attributes:
        title: its name.
        price: the price as written, empty if there is none.
        low_usd: the price, or the lower end of its range; infinite if there is none.
        high_usd: the upper end.
    """

    title: str
    price: str
    low_usd: float
    high_usd: float


class WebShopNarrator(Narrator):
    """The thoughts of one WebShop episode."""

    def __init__(self, style: Style, rng: random.Random) -> None:
        """Begin; the request is read from the first page."""
        super().__init__(style, rng)
        self._request = ""
        self._cap_usd: float | None = None
        self._parts: list[str] = []
        self._chosen: list[str] = []
        self._product: Product | None = None
        self._n_searches = 0

    def see(self, observation: str, action: str) -> None:
        """Read a page; clicks on values leave no other trace than one's memory of them."""
        self._parts = observation.split(" [SEP] ")
        if "Instruction:" in self._parts[:-1]:
            self._request = self._parts[self._parts.index("Instruction:") + 1]
            cap = _CAP.search(self._request)
            self._cap_usd = float(cap[1]) if cap else None
        self._n_searches += action.startswith("search[")
        target = _target(action)
        if self._is_product_page():
            value = self._find(target)
            if value is not None and value in self._values():
                group = self._group_of(value)
                self._chosen = [c for c in self._chosen if self._group_of(c) != group] + [value]
            elif _ASIN.fullmatch(target.upper()):
                self._chosen = []  # the shop forgets, too
            self._product = self._shown_product()

    # Reading pages

    def _is_product_page(self) -> bool:
        return "Buy Now" in self._parts

    def _find(self, target: str) -> str | None:
        """The part of the page that a click on `target` means."""
        return next((part for part in self._parts if part.lower() == target), None)

    def _option_parts(self) -> list[str]:
        """Names and values of options, in the page's order."""
        parts = self._parts
        end = next((i for i, part in enumerate(parts) if part.startswith("Price: ")), 0)
        start = parts.index("< Prev") + 1 if "< Prev" in parts else 0
        return parts[start : max(start, end - 1)]

    def _values(self) -> list[str]:
        """The values; the first part is a name, and so is what consists of words for names."""
        return [
            part
            for i, part in enumerate(self._option_parts())
            if i and not set(_words(part)) <= _NAMES
        ]

    def _group_of(self, value: str) -> str:
        """The name of the option that a value belongs to, as far as it can be told."""
        values, name = self._values(), ""
        for part in self._option_parts():
            if part == value:
                return name
            name = name if part in values else part
        return name

    def _shown_product(self) -> Product | None:
        parts = self._parts
        at = next((i for i, part in enumerate(parts) if part.startswith("Price: ")), 0)
        return _product(parts[at - 1], parts[at]) if at else None

    def _listed_product(self, asin: str) -> Product | None:
        """A product in a list of results."""
        found = self._find(asin)
        at = self._parts.index(found) if found is not None else len(self._parts)
        if at + 2 >= len(self._parts) or not _ASIN.fullmatch(self._parts[at]):
            return None
        return _product(self._parts[at + 1], self._parts[at + 2])

    def _names(self, text: str) -> bool:
        """Whether the request has the words of `text` in this order."""
        words, request = _words(text), _words(self._request)
        n = len(words)
        return n > 0 and any(request[i : i + n] == words for i in range(len(request) - n + 1))

    def _missing(self) -> list[str]:
        """Values on the page that the request names and that are not chosen yet."""
        groups = {self._group_of(value) for value in self._chosen}
        named = [v for v in self._values() if self._names(v) and self._group_of(v) not in groups]
        # "red" is not asked for where "cherry red" is.
        return [v for v in named if not any(v != o and f" {v} " in f" {o} " for o in named)]

    def _price_fits(self, product: Product | None) -> bool:
        return (
            product is not None and self._cap_usd is not None and product.high_usd < self._cap_usd
        )

    # Brief

    def brief(self, action: str) -> str:
        """What is still to be had, in the request's words."""
        verb, target = _kind(action), _target(action)
        if verb == "search":
            return "search"
        if target == "buy now":
            return "have all, buy" if not self._missing() else "buy"
        if self._is_product_page() and self._find(target) in self._values():
            value = self._find(target) or target
            rest = [v for v in self._missing() if self._group_of(v) != self._group_of(value)]
            return f"need {', '.join([value, *rest])}"
        product = self._listed_product(target)
        if product is not None:
            shared = self._shared(product.title)[:3]
            return f"open {' '.join(shared)}".strip()
        return target

    def _shared(self, title: str) -> list[str]:
        """Words of a title that the request has too, in the title's order."""
        request = set(_words(self._request)) - _COMMON
        words = dict.fromkeys(_words(title))
        return [word for word in words if word in request or f"{word}s" in request]

    # Full

    def full(self, action: str) -> str:
        """Why this action, with what the page shows."""
        verb, target = _kind(action), _target(action)
        if verb == "search":
            return self._searching(target)
        if target == "buy now":
            return self._buying()
        if self._is_product_page():
            value = self._find(target)
            if value is not None and value in self._values():
                return self._choosing(value)
        product = self._listed_product(target)
        if product is not None:
            return self._opening(product)
        return self._moving(target)

    def _searching(self, query: str) -> str:
        limit = f"It has to cost less than {_usd(self._cap_usd)}. " if self._cap_usd else ""
        if self._n_searches:
            return self.pick(
                f"I search again, for {query}.",
                f"The last search did not give me what I want. I try {query}.",
            )
        return self.pick(
            f"I look for {query} first. {limit}",
            f"{limit}I begin with a search for {query}.",
            f"Let me see what the shop has under {query}. {limit}",
        )

    def _opening(self, product: Product) -> str:
        name = product.title.split(",")[0].split(" - ")[0]
        shared = self._shared(product.title)[:5]
        why = [f"Its title has {joined(shared)}, like the request."] if shared else []
        if self._price_fits(product):
            why.append(f"It costs {product.price}, less than {_usd(self._cap_usd)}.")
        elif product.price and self._cap_usd is not None:
            why.append(f"It costs {product.price}; the limit is {_usd(self._cap_usd)}.")
        start = self.pick(f"I open {name}.", f"{name} is worth a look.", f"Next I look at {name}.")
        return " ".join([start, *why])

    def _choosing(self, value: str) -> str:
        group = self._group_of(value)
        rest = [v for v in self._missing() if self._group_of(v) != group]
        after = ""
        if rest:
            after = f" {self.pick('The request names', 'It also says')} {joined(rest)}."
        if not self._names(value):
            return self.pick(
                f"For {group} I take {value}, though the request does not name it so.",
                f"The request does not say {value}, but I take it for {group}.",
            )
        return (
            self.pick(
                f"The request says {value}, and the page has it under {group}.",
                f"For {group} I was asked for {value}.",
                f"The {group} has to be {value}.",
            )
            + after
        )

    def _buying(self) -> str:
        chosen = f"I have chosen {joined(self._chosen)}. " if self._chosen else ""
        price = ""
        if self._price_fits(self._product) and self._product is not None:
            price = f"{self._product.price} is below {_usd(self._cap_usd)}. "
        return f"{chosen}{price}" + self.pick("I buy it.", "I can buy it now.", "Time to buy.")

    def _moving(self, target: str) -> str:
        if target == "next >":
            return self.pick(
                "I open none of these products. I turn to the next page.",
                "Not one of these; I look at the next page.",
            )
        if target in _SUB_PAGES:
            return f"I read the {target} of this product."
        if target in ("< prev", "back to search"):
            return self.pick("I go back.", "Back, to look further.")
        return f"I click {target}."


def _kind(action: str) -> str:
    found = _ACTION.fullmatch(action)
    return found[1] if found else ""


def _target(action: str) -> str:
    """What an action searches for or clicks, in lower case; the action itself if it is neither."""
    found = _ACTION.fullmatch(action)
    return (found[2] if found else action).lower()


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _product(title: str, price: str) -> Product:
    found = _PRICE.search(price)
    if found is None:
        return Product(title, "", float("inf"), float("inf"))
    low_usd = float(found[1])
    return Product(title, found[0], low_usd, float(found[2]) if found[2] else low_usd)


def _usd(amount: float | None) -> str:
    return f"{amount:g} dollars"
