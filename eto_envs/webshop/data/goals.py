"""Prices, price caps and goals, drawn exactly in the original's call order.

The original draws the price of every product that has a price range, then one price cap for each
instruction, then shuffles the goals with seed 233; here all that is a function of a price seed.
Goals are made when asked for: the synthetic ones are every combination of a product's options, and
the full catalogue has millions. Not here: the sampling of goals by weight. Follows
`web_agent_site/engine/goal.py` and `generate_product_prices` in `engine/engine.py` of
princeton-nlp/WebShop at commit 64fa2a5.
"""

from __future__ import annotations

import math
import random
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eto_envs.webshop.data.catalogue import Catalogue
from eto_envs.webshop.data.jsonfiles import JsonLines, load_array
from eto_envs.webshop.data.records import Goal, Product

DEFAULT_PRICE_SEED = 20240302
SHUFFLE_SEED = 233  # env: `random.seed(233)` before the goals are shuffled
NO_CAP_USD = 1000000.0  # goal.py: the cap where fewer than two tens lie above the price
_TENS_USD = [10.0 * i for i in range(1, 100)]  # goal.py: PRICE_RANGE
KINDS = ("human", "synthetic")


class PriceDraws:
    """The prices and price caps of one seed.

    Attributes:
        prices_usd: float64 of shape (n products,), in US dollars.
    """

    def __init__(
        self, seed: int, low_usd: NDArray[np.float64], high_usd: NDArray[np.float64]
    ) -> None:
        """Draw the prices.

        Args:
            seed: what the original's global generator would be seeded with.
            low_usd: the price, or the lower end of its range, shape (n products,).
            high_usd: the upper end of the range, NaN where there is one price only.
        """
        generator = random.Random(seed)
        ranged = np.flatnonzero(~np.isnan(high_usd))
        share = np.array([generator.random() for _ in range(len(ranged))], dtype=np.float64)
        prices = np.array(low_usd, dtype="<f8")
        prices[ranged] += (high_usd[ranged] - low_usd[ranged]) * share  # as `random.uniform`
        self.prices_usd = prices
        self._state = generator.getstate()

    def caps_usd(self, rows: Iterable[int]) -> NDArray[np.float64]:
        """One price cap for each product in `rows`, in US dollars, drawn after the prices."""
        generator = random.Random()
        generator.setstate(self._state)
        prices = self.prices_usd
        return np.array([_cap_usd(float(prices[row]), generator) for row in rows], dtype="<f8")


def _cap_usd(price_usd: float, generator: random.Random) -> float:
    above = [tens for tens in _TENS_USD if tens > price_usd][:4]
    return max(generator.sample(above, 2)) if len(above) >= 2 else NO_CAP_USD


def price_text(cap_usd: float) -> str:
    """How an instruction words its price cap; empty where there is none."""
    return "" if cap_usd == NO_CAP_USD else f", and price lower than {cap_usd:.2f} dollars"


def shuffled_order(n_goals: int) -> NDArray[np.integer[Any]]:
    """Which unshuffled goal stands at each index; int32 of shape (n_goals,)."""
    # An array, not a list: the draws are the same and ten million goals take 40 MB, not 400.
    order = array("i", range(n_goals))
    random.Random(SHUFFLE_SEED).shuffle(order)
    return np.array(order, dtype="<i4")


def n_combinations(product: Product) -> int:
    """Number of synthetic goals of a product: the product of its options' sizes."""
    return math.prod(len(values) for values in product.options.values())


def combination(product: Product, number: int) -> dict[str, str]:
    """The `number`-th of a product's option combinations, as `itertools.product` orders them."""
    chosen = {}
    for name in sorted(product.options, reverse=True):
        number, digit = divmod(number, len(product.options[name]))
        chosen[name] = product.options[name][digit]
    return dict(reversed(chosen.items()))


def _added(terms: Iterable[float]) -> float:
    """The sum, rounded after each addition: `sum` does otherwise from Python 3.12 on."""
    total = 0.0
    for term in terms:
        total += term
    return total


def goal_weights(
    attributes: Iterable[tuple[str, ...]], n_goals: Sequence[int]
) -> NDArray[np.float64]:
    """The sampling weight of each instruction's goals: mean inverse frequency of its attributes.

    Args:
        attributes: what each instruction asks for; gone through twice, so no generator.
        n_goals: number of goals of each instruction.
    """
    counts: Counter[str] = Counter()
    for names, n in zip(attributes, n_goals, strict=True):
        for name in names:
            counts[name] += n
    return np.array(
        [
            _added(1.0 / counts[name] for name in names) / len(names) if n else 0.0
            for names, n in zip(attributes, n_goals, strict=True)
        ],
        dtype="<f8",
    )


class Goals(Sequence[Goal]):
    """The goals of one kind in the original's shuffled order, made when asked for."""

    def __init__(self, folder: Path, kind: str, draws: PriceDraws | None) -> None:
        """Open the goals of the bundle in `folder`.

        Args:
            folder: the bundle.
            kind: one of `KINDS`; names the files.
            draws: prices of another seed than the bundle's; None for the stored caps.
        """
        self._records = JsonLines(folder, kind)
        self._order = load_array(folder / f"{kind}_order.npy")
        if draws is None:
            self._caps_usd = load_array(folder / f"{kind}_caps_usd.npy")
        else:
            self._caps_usd = draws.caps_usd(load_array(folder / f"{kind}_rows.npy"))

    def __len__(self) -> int:
        """Number of goals."""
        return len(self._order)

    def __getitem__(self, index: int) -> Goal:  # type: ignore[override]
        """The goal of a session index that is not negative; slices are not supported."""
        if not 0 <= index < len(self):
            raise IndexError(f"goal {index}; there are {len(self)}")
        return self._make(int(index), int(self._order[index]))

    def _make(self, index: int, place: int) -> Goal:
        raise NotImplementedError


class HumanGoals(Goals):
    """Goals worded by people: one for each instruction."""

    def __init__(self, folder: Path, draws: PriceDraws | None = None) -> None:
        """Open the human goals of a bundle; see `Goals`."""
        super().__init__(folder, "human", draws)

    def _make(self, index: int, place: int) -> Goal:
        asin, text, attributes, options = self._records[place]
        cap_usd = float(self._caps_usd[place])
        return Goal(
            index=index,
            asin=asin,
            instruction=text.strip(".") + price_text(cap_usd),
            attributes=tuple(attributes),
            options=tuple(options),
            price_upper_usd=cap_usd,
        )


class SyntheticGoals(Goals):
    """Goals made from templates: one for each combination of an instructed product's options."""

    def __init__(self, folder: Path, catalogue: Catalogue, draws: PriceDraws | None = None) -> None:
        """Open the synthetic goals of a bundle; see `Goals`."""
        super().__init__(folder, "synthetic", draws)
        self._catalogue = catalogue
        self._starts = load_array(folder / "synthetic_starts.npy")
        self._weights = load_array(folder / "synthetic_weights.npy")

    def _make(self, index: int, place: int) -> Goal:
        # The last instruction that starts at or before the place: those before it have none.
        number = int(np.searchsorted(self._starts, np.int64(place), side="right")) - 1
        asin, text, attributes = self._records[number]
        product = self._catalogue.product(asin)
        options = combination(product, place - int(self._starts[number]))
        wanted = ", and ".join(f"{name}: {value}" for name, value in options.items())
        cap_usd = float(self._caps_usd[number])
        return Goal(
            index=index,
            asin=asin,
            instruction=f"{text}{' with ' + wanted if wanted else ''}{price_text(cap_usd)}",
            attributes=tuple(attributes),
            options=options,
            price_upper_usd=cap_usd,
            weight=float(self._weights[number]),
        )
