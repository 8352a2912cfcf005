"""Prices, price caps and goals, drawn in exactly the original's order of calls.

The original draws a price for every product with a price range, then a price cap for each
instruction, and then shuffles the goals with seed 233. Here, all of this is a function of a price
seed. Goals are made on demand: there is a synthetic goal for every combination of a product's
options, which gives millions for the full catalogue. Not here: sampling goals by weight. Follows
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

from eto_envs.errors import CorruptDataError
from eto_envs.webshop.data.catalogue import Catalogue
from eto_envs.webshop.data.jsonfiles import JsonLines, load_array
from eto_envs.webshop.data.manifest import REBUILD
from eto_envs.webshop.data.records import Goal, Product

DEFAULT_PRICE_SEED = 20240302
SHUFFLE_SEED = 233  # env: `random.seed(233)` before the goals are shuffled
NO_CAP_USD = 1000000.0  # goal.py: the cap if fewer than two multiples of ten exceed the price
_TENS_USD = [10.0 * i for i in range(1, 100)]  # goal.py: PRICE_RANGE
KINDS = ("human", "synthetic")


class PriceDraws:
    """The prices and price caps of one seed.

    Attributes:
        prices_usd: float64 of shape (n_products,), in US dollars.
    """

    def __init__(
        self, seed: int, low_usd: NDArray[np.float64], high_usd: NDArray[np.float64]
    ) -> None:
        """Draw the prices.

        Args:
            seed: the seed for the original's global generator.
            low_usd: float64 of shape (n_products,), the price, or the minimum of its range.
            high_usd: float64 of shape (n_products,), the maximum of the range; NaN if the product
                has a single price.
        """
        generator = random.Random(seed)
        ranged = np.flatnonzero(~np.isnan(high_usd))
        draws = np.array([generator.random() for _ in range(len(ranged))], dtype=np.float64)
        prices = np.array(low_usd, dtype="<f8")
        prices[ranged] += (high_usd[ranged] - low_usd[ranged]) * draws  # like `random.uniform`
        self.prices_usd = prices
        self._state = generator.getstate()

    def caps_usd(self, rows: Iterable[int]) -> NDArray[np.float64]:
        """A price cap for each product in `rows`, in US dollars, drawn after the prices."""
        generator = random.Random()
        generator.setstate(self._state)
        prices = self.prices_usd
        return np.array([_cap_usd(float(prices[row]), generator) for row in rows], dtype="<f8")


def _cap_usd(price_usd: float, generator: random.Random) -> float:
    above = [tens for tens in _TENS_USD if tens > price_usd][:4]
    return max(generator.sample(above, 2)) if len(above) >= 2 else NO_CAP_USD


def price_text(cap_usd: float) -> str:
    """The price cap as worded in an instruction; empty if there is none."""
    return "" if cap_usd == NO_CAP_USD else f", and price lower than {cap_usd:.2f} dollars"


def load_prices(path: Path, n: int, *, may_lack: bool = False) -> NDArray[np.float64]:
    """An array of numbers that are not negative, such as prices in US dollars.

    Args:
        path: the file.
        n: the number of values.
        may_lack: whether a value may be NaN.

    Raises:
        CorruptDataError: the file is damaged.
    """
    prices = load_array(path, "<f8", n, hint=REBUILD)
    fine = (prices >= 0) & (prices < np.inf)
    if not (fine | np.isnan(prices) if may_lack else fine).all():
        raise CorruptDataError(f"{path} contains a value that is no price. {REBUILD}")
    return prices


def shuffled_order(n_goals: int) -> NDArray[np.integer[Any]]:
    """The unshuffled position of the goal at each index; int32 of shape (n_goals,)."""
    # An array, not a list: the draws are the same, and ten million goals take 40 MB, not 400.
    order = array("i", range(n_goals))
    random.Random(SHUFFLE_SEED).shuffle(order)
    return np.array(order, dtype="<i4")


def n_combinations(product: Product) -> int:
    """The number of synthetic goals of a product: the product of its options' numbers of values."""
    return math.prod(len(values) for values in product.options.values())


def combination(product: Product, number: int) -> dict[str, str]:
    """The `number`-th of a product's option combinations, in the order of `itertools.product`.

    The digits of `number` in a mixed radix system are the indices of the values, where the radices
    are the options' numbers of values; the last option in alphabetical order varies fastest.
    """
    chosen = {}
    for name in sorted(product.options, reverse=True):
        number, digit = divmod(number, len(product.options[name]))
        chosen[name] = product.options[name][digit]
    return dict(reversed(chosen.items()))


def _sum(terms: Iterable[float]) -> float:
    """The sum, rounded after each addition; `sum` compensates for rounding since Python 3.12."""
    total = 0.0
    for term in terms:
        total += term
    return total


def goal_weights(
    attributes: Iterable[tuple[str, ...]], n_goals: Sequence[int]
) -> NDArray[np.float64]:
    """The sampling weight of the goals of each instruction: mean inverse attribute frequency.

    Args:
        attributes: the attributes of each instruction; iterated twice, so not a generator.
        n_goals: the number of goals of each instruction.

    Returns:
        float64 of shape (n_instructions,).
    """
    counts: Counter[str] = Counter()
    for names, n in zip(attributes, n_goals, strict=True):
        for name in names:
            counts[name] += n
    return np.array(
        [
            _sum(1.0 / counts[name] for name in names) / len(names) if n else 0.0
            for names, n in zip(attributes, n_goals, strict=True)
        ],
        dtype="<f8",
    )


class Goals(Sequence[Goal]):
    """The goals of one kind in the original's shuffled order, made on demand."""

    def __init__(
        self, folder: Path, kind: str, catalogue: Catalogue, draws: PriceDraws | None
    ) -> None:
        """Open the goals of the bundle in `folder`.

        Args:
            folder: the bundle.
            kind: one of `KINDS`, which determines the files.
            catalogue: the products of the bundle.
            draws: the prices of another seed; None for the price caps stored in the bundle.

        Raises:
            CorruptDataError: a file is damaged.
        """
        self._catalogue = catalogue
        self._place = folder / f"{kind}.jsonl"
        self._records = JsonLines(folder, kind, REBUILD)
        n = len(self._records)
        order = folder / f"{kind}_order.npy"
        self._order = load_array(order, "<i4", hint=REBUILD)
        load_array(order, "<i4", below=len(self._order), hint=REBUILD)
        if draws is None:
            self._caps_usd = load_prices(folder / f"{kind}_caps_usd.npy", n)
        else:
            path = folder / f"{kind}_rows.npy"
            rows = load_array(path, "<i4", n, below=len(catalogue), hint=REBUILD)
            self._caps_usd = draws.caps_usd(rows)

    def __len__(self) -> int:
        """Number of goals."""
        return len(self._order)

    def __getitem__(self, index: int) -> Goal:  # type: ignore[override]
        """The goal at a non-negative index; slices are not supported."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no goal {index}; the number of goals is {len(self)}")
        try:
            return self._make(int(index), int(self._order[index]))
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise CorruptDataError(
                f"{self._place} is damaged: goal {index} cannot be made ({error!r}). {REBUILD}"
            ) from error

    def _make(self, index: int, place: int) -> Goal:
        """The goal; raises an error of Python's if its record is damaged."""
        raise NotImplementedError

    def _texts(self, values: object) -> tuple[str, ...]:
        if not isinstance(values, list) or not {*map(type, values)} <= {str}:
            raise TypeError(f"{values!r:.60} is not a list of texts")
        return tuple(values)


class HumanGoals(Goals):
    """Goals written by people: one for each instruction."""

    def __init__(self, folder: Path, catalogue: Catalogue, draws: PriceDraws | None = None) -> None:
        """Open the human goals of a bundle; see `Goals`."""
        super().__init__(folder, "human", catalogue, draws)
        n = len(self._records)
        load_array(folder / "human_order.npy", "<i4", n, hint=REBUILD)

    def _make(self, index: int, place: int) -> Goal:
        asin, text, attributes, options = self._records[place]
        cap_usd = float(self._caps_usd[place])
        self._catalogue.row(asin)  # the product must exist
        return Goal(
            index=index,
            asin=asin,
            instruction=text.strip(".") + price_text(cap_usd),
            attributes=self._texts(attributes),
            options=self._texts(options),
            price_upper_usd=cap_usd,
        )


class SyntheticGoals(Goals):
    """Goals made from templates: one for each combination of the options of a product.

    Only products with a synthetic instruction have goals. `synthetic_starts.npy` is int64 of shape
    (n_instructions,): instruction i has the unshuffled goals from `starts[i]` to `starts[i + 1]`.
    """

    def __init__(self, folder: Path, catalogue: Catalogue, draws: PriceDraws | None = None) -> None:
        """Open the synthetic goals of a bundle; see `Goals`."""
        super().__init__(folder, "synthetic", catalogue, draws)
        n = len(self._records)
        starts = folder / "synthetic_starts.npy"
        self._starts = load_array(starts, "<i8", n, below=len(self) + 1, hint=REBUILD)
        self._weights = load_prices(folder / "synthetic_weights.npy", n)

    def _make(self, index: int, place: int) -> Goal:
        # The last instruction that starts at or before the place. Others that start at the same
        # place come before it and have no goals.
        number = int(np.searchsorted(self._starts, np.int64(place), side="right")) - 1
        asin, text, attributes = self._records[number]
        if not isinstance(text, str):
            raise TypeError(f"{text!r:.60} is not a text")
        product = self._catalogue.product(asin)
        options = combination(product, place - int(self._starts[number]))
        wanted = ", and ".join(f"{name}: {value}" for name, value in options.items())
        cap_usd = float(self._caps_usd[number])
        return Goal(
            index=index,
            asin=asin,
            instruction=f"{text}{' with ' + wanted if wanted else ''}{price_text(cap_usd)}",
            attributes=self._texts(attributes),
            options=options,
            price_upper_usd=cap_usd,
            weight=float(self._weights[number]),
        )
