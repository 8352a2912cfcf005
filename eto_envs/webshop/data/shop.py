"""The shop: one immutable dataset, opened once per process and shared by all its environments.

`Shop` combines products, prices, search, goals and splits; `open_shop` opens it, and
`ensure_bundle` builds and caches the bundle of a folder of official files. Not here: pages, clicks
and rewards (`engine`).
"""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from eto_envs.errors import CorruptDataError, DataNotFoundError, UnknownNameError
from eto_envs.files import read_json_object
from eto_envs.webshop.data import official
from eto_envs.webshop.data.bundle import build_bundle
from eto_envs.webshop.data.catalogue import Catalogue
from eto_envs.webshop.data.goals import (
    KINDS,
    Goals,
    HumanGoals,
    PriceDraws,
    SyntheticGoals,
    load_prices,
)
from eto_envs.webshop.data.manifest import FORMAT, REBUILD, is_bundle, verify_bundle
from eto_envs.webshop.data.records import Product

GoalKind = Literal["human", "synthetic"]
N_HITS = 50  # the original shows at most 50 results of a search
SEEN_EVERY = 10  # without published splits, every tenth goal is reserved for testing
MAX_AUTO_BUILD_BYTES = 200_000_000
MAX_HASHED_BYTES = 32_000_000  # hashing a larger bundle would make opening it slow


class Shop:
    """The products, prices, search, goals and splits of one dataset; immutable.

    Attributes:
        dataset: the name of the dataset, as it appears in results.
        price_seed: the seed of prices in ranges and of price caps.
        nouns_source: how the nouns of product names were determined.
        fingerprint: SHA-256 of everything besides the goals that affects scores: the products with
            their nouns, and the prices.
        asins: the ids of all products, in catalogue order.
        goals: the goals in the original's shuffled order, made on demand.
        splits: the goal indices of each split, in order. If the dataset has published lists for
            ``train``, ``seen`` and ``unseen``, these are used; duplicates are removed (ETO's train
            list contains 4116 twice). Otherwise, and for synthetic goals, ``seen`` is every tenth
            goal and ``train`` the rest. ``train_clean`` is ``train`` without the goals of the other
            splits.
        product: ``product(asin) -> Product``; raises KeyError for an unknown id.
    """

    product: Callable[[str], Product]

    def __init__(
        self, folder: Path, *, goals: GoalKind = "human", price_seed: int | None = None
    ) -> None:
        """Open the bundle in `folder`; `open_shop` does so once per process.

        Args:
            folder: a bundle.
            goals: the kind of goals.
            price_seed: the seed of other prices and price caps; None for the bundle's own.

        Raises:
            DataNotFoundError: the folder does not contain a bundle.
            CorruptDataError: the bundle is damaged.
            UnknownNameError: there is no such kind of goals.
        """
        if goals not in KINDS:
            raise UnknownNameError("kind of goals", goals, KINDS)
        from eto_envs.webshop.search.index import SearchIndex

        manifest = verify_bundle(folder, MAX_HASHED_BYTES)
        stored_seed: int = manifest["price_seed"]
        self.dataset: str = manifest["dataset"]
        self.nouns_source: str = manifest["nouns"]
        self.price_seed = stored_seed if price_seed is None else price_seed
        self._catalogue = Catalogue(folder)
        self._index = SearchIndex.open(folder / "index")
        n = len(self._catalogue)
        if len(self._index) != n:
            raise CorruptDataError(f"{folder / 'index'} is of another catalogue. {REBUILD}")
        draws = None
        if self.price_seed != stored_seed:
            low_usd = load_prices(folder / "low_usd.npy", n)
            high_usd = load_prices(folder / "high_usd.npy", n, may_lack=True)
            draws = PriceDraws(self.price_seed, low_usd, high_usd)
        stored = folder / "prices_usd.npy"
        self._prices_usd = draws.prices_usd if draws else load_prices(stored, n)
        self.asins: Sequence[str] = self._catalogue.asins
        self.goals: Goals = (
            HumanGoals(folder, self._catalogue, draws)
            if goals == "human"
            else SyntheticGoals(folder, self._catalogue, draws)
        )
        published = {}
        if goals == "human":
            published = _read_splits(folder / "splits.json", len(self.goals))
        self.splits = _splits(published, len(self.goals))
        self.product = self._catalogue.product
        self._lists = official.SPLIT_FILES if published else {}
        self._goals_file = official.HUMAN_FILE if goals == "human" else official.ATTRIBUTES_FILE
        self._products_sha256: str = manifest["files"]["products.jsonl"]["sha256"]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the products, the nouns with their source, and the prices."""
        digest = hashlib.sha256(f"{self._products_sha256}\n{self.nouns_source}\n".encode())
        digest.update(np.ascontiguousarray(self._prices_usd, dtype="<f8").tobytes())
        return digest.hexdigest()

    def source(self, split: str) -> str:
        """The official file that determines which goals are in a split."""
        listed = self._lists.get("train" if split == "train_clean" else split)
        return listed if listed is not None and len(self.goals) else self._goals_file

    def price_usd(self, asin: str) -> float:
        """The price of a product, in US dollars.

        Raises:
            KeyError: there is no product of this id.
        """
        return float(self._prices_usd[self._catalogue.row(asin)])

    def search(self, text: str) -> Sequence[str]:
        """At most 50 products that match a query, best first.

        Raises:
            TooManyTermsError: the query has more than 1,024 distinct words.
        """
        return self._catalogue.asins_at(self._index.top(text, N_HITS))

    def in_category(self, category: str) -> Sequence[str]:
        """The products of a category, in catalogue order; empty for an unknown one."""
        return self._catalogue.in_category(category)

    def of_query(self, query: str) -> Sequence[str]:
        """The products crawled under a query, in catalogue order; empty for an unknown one."""
        return self._catalogue.of_query(query)


class _Rest(Sequence[int]):
    """The numbers below `n` that are not multiples of `SEEN_EVERY`, computed on demand."""

    def __init__(self, n: int) -> None:
        self._n = n

    def __len__(self) -> int:
        return self._n - len(range(0, self._n, SEEN_EVERY))

    def __getitem__(self, place: int) -> int:  # type: ignore[override]
        if not 0 <= place < len(self):
            raise IndexError(place)
        # Each multiple of `SEEN_EVERY` is skipped: one before the first number (0), and another
        # after every `SEEN_EVERY - 1` numbers.
        return place + place // (SEEN_EVERY - 1) + 1


def _read_splits(path: Path, n_goals: int) -> dict[str, list[int]]:
    splits = read_json_object(path, REBUILD)
    for split in (*splits, *(("train", "seen") if splits else ())):
        indices = splits.get(split)
        is_list = isinstance(indices, list) and {*map(type, indices)} <= {int}
        if not is_list or not all(0 <= index < n_goals for index in indices or ()):
            raise CorruptDataError(f"{path} is damaged: {split!r} is no list of goals. {REBUILD}")
    return splits


def _splits(published: Mapping[str, Sequence[int]], n_goals: int) -> Mapping[str, Sequence[int]]:
    splits: dict[str, Sequence[int]] = {}
    if not published:
        rest = _Rest(n_goals)
        splits = {"train": rest, "train_clean": rest, "seen": range(0, n_goals, SEEN_EVERY)}
        return MappingProxyType(splits)
    for split, indices in published.items():
        splits[split] = tuple(dict.fromkeys(indices))
    tested = {*splits["seen"], *splits.get("unseen", ())}
    splits["train_clean"] = tuple(index for index in splits["train"] if index not in tested)
    return MappingProxyType(splits)


def open_shop(folder: Path, *, goals: GoalKind = "human", price_seed: int | None = None) -> Shop:
    """The shop of a bundle, opened once per process for each set of arguments.

    Args:
        folder: a bundle.
        goals: the kind of goals.
        price_seed: the seed of other prices and price caps; None for the bundle's own.

    Raises:
        DataNotFoundError: the folder does not contain a bundle.
        CorruptDataError: the bundle is damaged.
        UnknownNameError: there is no such kind of goals.
    """
    return _open_shop(Path(folder).resolve(), goals, price_seed)


@functools.lru_cache(maxsize=16)
def _open_shop(folder: Path, goals: GoalKind, price_seed: int | None) -> Shop:
    return Shop(folder, goals=goals, price_seed=price_seed)


def ensure_bundle(source: Path, cache: Path) -> Path:
    """The bundle of a folder: the folder itself if it is one, else a cached bundle built from it.

    The cache key consists of the folder's path and the sizes and times of its files, so that a
    changed file triggers a new build. If several processes need a bundle, one builds it and the
    others wait.

    Args:
        source: a bundle, or a folder of official files.
        cache: the folder for cached bundles.

    Raises:
        DataNotFoundError: a file is missing, or the dataset is too large for an implicit build.
        CorruptDataError: a file is truncated, altered or of the wrong kind.
    """
    if is_bundle(source):
        return source
    official.require_files(source)
    size = (source / official.PRODUCTS_FILE).stat().st_size
    if size > MAX_AUTO_BUILD_BYTES:
        raise DataNotFoundError(
            f"{source} has no bundle yet, and building one from {size / 1e9:.1f} GB of products"
            f" takes a long time: run `eto data build webshop {source}` once"
        )
    from filelock import FileLock

    prefix, target = cached_bundle(source, cache)
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{prefix}.lock"):
        if not is_bundle(target):
            build_bundle(source, target)
            for outdated in cache.glob(f"{prefix}-*"):
                if outdated != target:
                    shutil.rmtree(outdated, ignore_errors=True)
    return target


def cached_bundle(source: Path, cache: Path) -> tuple[str, Path]:
    """The prefix of all bundles of a source folder, and the folder for its current state."""
    place = source.resolve()
    state = [str(FORMAT)]
    names = (*official.REQUIRED_FILES, official.NOUNS_FILE, *official.SPLIT_FILES.values())
    for name in names:
        if (place / name).is_file():
            stat = (place / name).stat()
            state.append(f"{name} {stat.st_size} {stat.st_mtime_ns}")
    prefix = f"{place.name}-{_short_hash(str(place))}"
    return prefix, cache / f"{prefix}-{_short_hash(*state)}"


def _short_hash(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:12]
