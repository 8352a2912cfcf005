"""The products of a bundle, read from disk one at a time.

`Asins` is a lazy sequence of product ids. Nothing is loaded when a `Catalogue` is opened, so that
1.18 million products take milliseconds, and processes share memory-mapped pages. Not here: building
bundles (`bundle`), prices and goals (`goals`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from eto_envs.errors import CorruptDataError
from eto_envs.files import read_json_object
from eto_envs.webshop.data.jsonfiles import JsonLines, load_array
from eto_envs.webshop.data.manifest import REBUILD
from eto_envs.webshop.data.records import Product

N_CACHED_PRODUCTS = 2048  # about 10 kB each when decoded


class Asins(Sequence[str]):
    """A lazy sequence of product ids: some rows of the catalogue, or all of them."""

    def __init__(self, table: NDArray[np.bytes_], rows: Sequence[int] | NDArray[Any]) -> None:
        """Refer to rows of a table.

        Args:
            table: the ids of all products in catalogue order, UTF-8, of shape (n_products,).
            rows: the rows of the sequence, in order.
        """
        self._table = table
        self._rows = rows

    def __len__(self) -> int:
        """Number of ids."""
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Asins: ...
    def __getitem__(self, index: int | slice) -> str | Asins:
        """The id at an index, or the ids of a slice."""
        if isinstance(index, slice):
            return Asins(self._table, self._rows[index])
        asin: bytes = self._table[self._rows[index]]
        return asin.decode()

    def __iter__(self) -> Iterator[str]:
        """The ids in order."""
        return (self._table[row].decode() for row in self._rows)

    def __repr__(self) -> str:
        """The first few ids, and their number."""
        return f"Asins({list(self[:3])}{', …' if len(self) > 3 else ''}, n={len(self)})"


def product_record(product: Product) -> dict[str, Any]:
    """The product as JSON, field by field."""
    return {field: getattr(product, field) for field in Product.__slots__}


_TEXTS = ("asin", "name", "query", "category", "product_category", "description", "price_tag")
_LISTS_OF_TEXTS = ("bullets", "attributes", "nouns")


def _product(record: Any) -> Product:
    """The product of a record; raises TypeError, ValueError or KeyError if it is none."""
    texts = [*(record[name] for name in (*_TEXTS, "image")), *record["option_images"].values()]
    for name in _LISTS_OF_TEXTS:
        record[name] = _tuple(record[name])
        texts += record[name]
    record["options"] = {name: _tuple(values) for name, values in record["options"].items()}
    for values in record["options"].values():
        texts += values
    record["price_range_usd"] = _tuple(record["price_range_usd"])
    if not {*map(type, texts)} <= {str} or not {*map(type, record["price_range_usd"])} <= {float}:
        raise TypeError("a field has the wrong type")
    if not 1 <= len(record["price_range_usd"]) <= 2:
        raise ValueError(f"{len(record['price_range_usd'])} prices")
    return Product(**record)


def _tuple(value: object) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.60} is not a list")
    return tuple(value)


class Catalogue:
    """The products of a bundle in catalogue order.

    Attributes:
        asins: the ids of all products.
        product: ``product(asin) -> Product``, with a cache of a few thousand products; raises
            KeyError for an unknown id.
    """

    asins: Asins
    product: Callable[[str], Product]

    def __init__(self, folder: Path) -> None:
        """Open the catalogue of the bundle in `folder`.

        Raises:
            CorruptDataError: its files are damaged, or do not fit each other.
        """
        self._lines = JsonLines(folder, "products", REBUILD)
        n = len(self._lines)
        self._place = folder / "products.jsonl"
        self._table = load_array(folder / "asins.npy", "S", n, hint=REBUILD)
        order = folder / "asins_order.npy"
        self._sorter = load_array(order, "<i8", n, below=n, hint=REBUILD)
        self._groups_file = folder / "groups.json"
        self._codes = {
            kind: load_array(folder / f"{kind}.npy", "<i4", n, hint=REBUILD)
            for kind in ("categories", "queries")
        }
        self.asins = Asins(self._table, range(len(self._table)))
        self.product = functools.lru_cache(N_CACHED_PRODUCTS)(self._read)

    def __len__(self) -> int:
        """Number of products."""
        return len(self._table)

    def row(self, asin: str) -> int:
        """The position of a product in the catalogue, by binary search.

        Raises:
            KeyError: there is no product of this id.
        """
        key = asin.encode("utf-8", "surrogatepass")
        # Convert the key to the type of the table, or NumPy would convert the whole table.
        place = np.searchsorted(
            self._table, np.array(key, dtype=self._table.dtype), sorter=self._sorter
        )
        if place < len(self._table):
            row = int(self._sorter[place])
            if self._table[row] == key:
                return row
        raise KeyError(asin)

    def _read(self, asin: str) -> Product:
        return self._at(self.row(asin))

    def _at(self, row: int) -> Product:
        record = self._lines[row]
        try:
            product = _product(record)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise CorruptDataError(
                f"{self._place}, record {row} is not a product ({error!r}). {REBUILD}"
            ) from error
        if product.asin != self.asins[row]:
            raise CorruptDataError(f"{self._place}, record {row} is another product. {REBUILD}")
        return product

    def __iter__(self) -> Iterator[Product]:
        """All products in order, decoded one at a time and not cached."""
        return map(self._at, range(len(self)))

    def asins_at(self, rows: Sequence[int] | NDArray[Any]) -> Asins:
        """The ids of some rows."""
        return Asins(self._table, rows)

    def in_category(self, category: str) -> Asins:
        """The products of a category, in catalogue order; empty for an unknown one."""
        return self._members("categories", category)

    def of_query(self, query: str) -> Asins:
        """The products crawled under a query, in catalogue order; empty for an unknown one."""
        return self._members("queries", query)

    def _members(self, kind: str, name: str) -> Asins:
        code = self._group_codes[kind].get(name, -1)
        return Asins(self._table, np.flatnonzero(self._codes[kind] == code))

    @functools.cached_property
    def _group_codes(self) -> dict[str, dict[str, int]]:
        groups = read_json_object(self._groups_file, REBUILD)
        for kind in self._codes:
            names = groups.get(kind)
            if not isinstance(names, list) or not {*map(type, names)} <= {str}:
                raise CorruptDataError(f"{self._groups_file} has no list of {kind}. {REBUILD}")
        return {
            kind: {name: code for code, name in enumerate(groups[kind])} for kind in self._codes
        }
