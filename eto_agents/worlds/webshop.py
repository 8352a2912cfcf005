"""WebShop: its prompts, narrator, flaws, and why purchases fail.

Pages are parsed in the text mode that ETO uses; in other modes thoughts mention the action only. An
option's value counts as requested if the request contains its words in the same order.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from eto_agents.react.parse import INVALID, STRICT, Format
from eto_agents.worlds.base import Failure, World
from eto_agents.worlds.narrator import Narrator, Style, joined
from eto_envs.shaping import Info

if TYPE_CHECKING:
    from eto_agents.trajectory import Trajectory


class WebShop(World):
    """A web shop in which the agent buys what a request describes."""

    name = "webshop"
    title = "WebShop"
    env_id = "ETO-WebShop-v0"
    format = Format(STRICT, INVALID, "Observation:\n")
    variants = ("webshop",)
    published: ClassVar = {"webshop": "webshop"}
    columns: ClassVar = {"webshop": "seen"}
    dataset = "full"
    goal = r"Instruction: \[SEP\] (.*?) \[SEP\]"
    failure_rules: ClassVar = {
        "wrong_purchase": ("wrong purchase", "WebShop: something was bought, for a score below 1.")
    }
    has_more_tasks = True
    licence = (
        "The texts of pages and instructions are WebShop's, with product texts from amazon.com, "
        "for research and academic use only."
    )

    @property
    def flaws(self) -> type[Any]:
        """The flaws of a hurried shopper."""
        return WebShopFlaws

    def narrator(self, style: Style, rng: random.Random) -> Narrator:
        """Make a narrator of thoughts about the request and the page."""
        return WebShopNarrator(style, rng)

    def outcome(self, trajectory: Trajectory) -> Hashable:
        """The product and the options that were bought, as the last page states them."""
        last = trajectory.steps[-1].observation if trajectory.steps else ""
        bought = PURCHASE.search(last)
        return None if bought is None else bought.groups()

    def failures(self, trajectory: Trajectory) -> list[Failure]:
        """A purchase that scores less than 1, or no purchase before the step limit."""
        last = (len(trajectory.steps) - 1,) if trajectory.steps else ()
        if _bought(trajectory):
            detail = "; ".join([f"score {trajectory.score:.2f}", *_missed(trajectory)])
            return [Failure("wrong_purchase", detail, last)]
        if trajectory.status == "truncated":
            return [Failure("gave_up", "nothing was bought", last)]
        return []

    def write_more_tasks(self, folder: Path, n_rounds: int) -> None:
        """Generate goals for other options of the same products, in other words."""
        from eto_envs.webshop.mini.dataset import build_mini_bundle

        build_mini_bundle(folder, n_rounds)


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
"""Words in the names of options; a text that consists of these only is not a value."""

_COMMON_WORDS = """
    a an and are as at be by can could do for from get help i i'd i'm in is it looking me my need of
    on one or please some that the there this to want which with would you price lower than dollars
    free
"""
_COMMON: Final = frozenset(_COMMON_WORDS.split())
"""Words of a request that do not describe a product."""


class Product(NamedTuple):
    """A product as a page shows it.

    Attributes:
        title: the product's title.
        price: the price as it is written; empty if there is none.
        low_usd: the price, or the lower end of its range; infinite if there is none.
        high_usd: the price, or the upper end of its range; infinite if there is none.
    """

    title: str
    price: str
    low_usd: float
    high_usd: float


class WebShopNarrator(Narrator):
    """Writes the thoughts of one WebShop episode."""

    def __init__(self, style: Style, rng: random.Random) -> None:
        """Start; the request is read from the first page."""
        super().__init__(style, rng)
        self._request = ""
        self._cap_usd: float | None = None
        self._parts: list[str] = []
        self._chosen: list[str] = []
        self._product: Product | None = None
        self._n_searches = 0

    def see(self, observation: str, action: str) -> None:
        """Parse a page, and remember the chosen options, which pages do not show."""
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
                self._chosen = []  # opening a product resets the options in the shop, too
            self._product = self._shown_product()

    # Parsing pages

    def _is_product_page(self) -> bool:
        return "Buy Now" in self._parts

    def _find(self, target: str) -> str | None:
        """The part of the page with the label `target`; None if there is none."""
        return next((part for part in self._parts if part.lower() == target), None)

    def _option_parts(self) -> list[str]:
        """The names and values of options, in the order of the page."""
        parts = self._parts
        end = next((i for i, part in enumerate(parts) if part.startswith("Price: ")), 0)
        start = parts.index("< Prev") + 1 if "< Prev" in parts else 0
        return parts[start : max(start, end - 1)]

    def _values(self) -> list[str]:
        """The values of options, without their names.

        The first part is a name, and so is any part that consists of `_NAMES` only.
        """
        return [
            part
            for i, part in enumerate(self._option_parts())
            if i and not set(_words(part)) <= _NAMES
        ]

    def _group_of(self, value: str) -> str:
        """The name of the option that a value belongs to, as far as the page shows it."""
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
        """A product in the list of search results; None if it is not there."""
        part = self._find(asin)
        at = self._parts.index(part) if part is not None else len(self._parts)
        if at + 2 >= len(self._parts) or not _ASIN.fullmatch(self._parts[at]):
            return None
        return _product(self._parts[at + 1], self._parts[at + 2])

    def _names(self, text: str) -> bool:
        """Whether the request contains the words of `text` in the same order."""
        words, request = _words(text), _words(self._request)
        n = len(words)
        return n > 0 and any(request[i : i + n] == words for i in range(len(request) - n + 1))

    def _missing(self) -> list[str]:
        """Values on the page that the request names and that have not been chosen yet."""
        groups = {self._group_of(value) for value in self._chosen}
        named = [v for v in self._values() if self._names(v) and self._group_of(v) not in groups]
        # "red" is not requested if "cherry red" is.
        return [v for v in named if not any(v != o and f" {v} " in f" {o} " for o in named)]

    def _price_fits(self, product: Product | None) -> bool:
        return (
            product is not None and self._cap_usd is not None and product.high_usd < self._cap_usd
        )

    # Brief thoughts

    def brief(self, action: str) -> str:
        """What is still missing, in the words of the request."""
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
        """Words of a title that the request contains, too, in the order of the title."""
        request = set(_words(self._request)) - _COMMON
        words = dict.fromkeys(_words(title))
        return [word for word in words if word in request or f"{word}s" in request]

    # Full thoughts

    def full(self, action: str) -> str:
        """The reason for the action, given what the page shows."""
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
    match = _ACTION.fullmatch(action)
    return match[1] if match else ""


def _target(action: str) -> str:
    """What an action searches for or clicks on, in lower case; else the whole action."""
    match = _ACTION.fullmatch(action)
    return (match[2] if match else action).lower()


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _product(title: str, price: str) -> Product:
    match = _PRICE.search(price)
    if match is None:
        return Product(title, "", float("inf"), float("inf"))
    low_usd = float(match[1])
    return Product(title, match[0], low_usd, float(match[2]) if match[2] else low_usd)


def _usd(amount: float | None) -> str:
    return f"{amount:g} dollars"


@dataclass
class WebShopFlaws:
    """An expert that shops in a hurry.

    Attributes:
        rng: random generator of the flaws.
        settle: probability of taking the first product of the search results.
        skip_option: probability of not choosing an option that is needed, for each option.
        read: probability of reading a product's description, features or reviews first.
        vague: probability of leaving a word out of the first search.
    """

    rng: random.Random
    settle: float = 0.35
    skip_option: float = 0.25
    read: float = 0.2
    vague: float = 0.2

    def __post_init__(self) -> None:
        """Start an episode."""
        # After settling for the first product: the choices that the expert made for the right one.
        self._settled_choices: list[str] | None = None
        self._handled: set[str] = set()
        self._n_seen = 0
        self._has_read = False

    def choose(self, observation: str, info: Info) -> str:
        """Return the next action."""
        plan, admissible = info["expert_plan"], info["admissible_actions"]
        self._n_seen += 1
        if self._n_seen == 1:
            return self._search(plan[0])
        if "click[buy now]" in admissible:
            return self._on_product(plan, admissible)
        if "click[< prev]" in admissible and self._has_read:
            return "click[< prev]"  # back from the page that was read
        products = [a for a in admissible if _is_choice(a)]
        if products and self._n_seen == 2 and self.rng.random() < self.settle:
            self._settled_choices = [a for a in plan if _is_choice(a)][1:]
            return str(products[0])
        return str(plan[0])

    def _search(self, action: str) -> str:
        words = action[len("search[") : -1].split()
        if len(words) > 2 and self.rng.random() < self.vague:
            words.pop(self.rng.randrange(len(words)))
        return f"search[{' '.join(words)}]"

    def _on_product(self, plan: Sequence[str], admissible: Sequence[str]) -> str:
        if not self._has_read:
            self._has_read = True
            pages = [p for p in ("description", "features", "reviews") if _click(p) in admissible]
            if pages and self.rng.random() < self.read:
                return _click(self.rng.choice(pages))
        choices = plan if self._settled_choices is None else self._settled_choices
        for action in choices:
            if not _is_choice(action) or action not in admissible or action in self._handled:
                continue
            self._handled.add(action)
            if self.rng.random() >= self.skip_option:
                return action
        return "click[buy now]"


def _click(label: str) -> str:
    return f"click[{label}]"


_BUTTONS = {_click(label) for label in ("back to search", "next >", "< prev", "buy now")}


def _is_choice(action: str) -> bool:
    """Whether an action opens a product or chooses an option."""
    return action.startswith("click[") and action not in _BUTTONS


PURCHASE = re.compile(
    r"Purchased \[SEP\] asin \[SEP\] (.*?) \[SEP\] options \[SEP\] (.*?) \[SEP\] attrs"
)
"""Matches the last page of a purchase; its groups are the product's id and the chosen options."""

_OPTION_NAMES = """
    bulb type, capacity, color, fit type, flavor, flavor name, ink color, item package quantity,
    item shape, lid, material type, model, number of items, pattern name, point size, power,
    resistance, ruling, scent, scent name, size, skin type, special size type, style, theme,
    unit count, wattage
"""
OPTION_NAMES: Final = frozenset(name.strip() for name in _OPTION_NAMES.split(","))
"""Names of options: WebShop's text pages do not distinguish them from values."""

_THANKS = "Thank you for shopping with us!"
_PRICE_CAP = re.compile(r"price (?:lower|less) than \$?(\d+(?:\.\d+)?)")
_PAGE_PRICE = re.compile(r"Price: \$(\d+(?:\.\d+)?)$")  # not a range: it does not say what was paid
_HEADING_END = "< Prev"


def _bought(t: Trajectory) -> bool:
    return bool(t.steps) and _THANKS in t.steps[-1].observation


def _missed(t: Trajectory) -> list[str]:
    """Terms of a purchase's reward that are below 1, as far as the episode shows them."""
    last = t.steps[-1]
    terms = [f"{k} {v:.2f}" for k, v in last.reward_terms.items() if k.startswith("r_") and v < 1]
    if terms:
        return terms
    if t.score == 0:
        return ["another kind of product, or nothing of what was asked for"]
    page = _page_before_last(t).split(" [SEP] ")
    missed = _price_above_cap(t.goal, page) + _options_not_chosen(t.goal, page, last.observation)
    return missed or ["attributes or options missed, the log does not say which"]


def _page_before_last(t: Trajectory) -> str:
    return t.steps[-2].observation if len(t.steps) > 1 else t.initial_observation


def _price_above_cap(goal: str, page: list[str]) -> list[str]:
    cap = _PRICE_CAP.search(goal)
    price = next((match for part in page if (match := _PAGE_PRICE.match(part))), None)
    if cap is None or price is None or float(price[1]) <= float(cap[1]):
        return []
    return [f"price ${price[1]} above ${cap[1]}"]


def _options_not_chosen(goal: str, page: list[str], receipt: str) -> list[str]:
    """Values of options that are in the instruction and on the page, but were not chosen."""
    bought = PURCHASE.search(receipt)
    prices = [i for i, part in enumerate(page) if part.startswith("Price: ")]
    if bought is None or not prices or _HEADING_END not in page:
        return []
    try:
        chosen = {str(value).lower() for value in json.loads(bought[2]).values()}
    except (ValueError, AttributeError):
        return []
    offered = page[page.index(_HEADING_END) + 2 : prices[-1] - 1]  # the first is an option's name
    values = {text.strip().lower() for text in offered} - OPTION_NAMES
    named = {v for v in values if re.search(rf"(?<!\w){re.escape(v)}(?!\w)", goal.lower())}
    # "beige" is not requested if "sand beige" is.
    whole = sorted(v for v in named if not any(v != other and v in other for other in named))
    missing = [value for value in whole if value and value not in chosen]
    return [f"asked for and not chosen: {', '.join(missing)}"] if missing else []
