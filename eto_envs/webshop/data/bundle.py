"""Builds a bundle, the compiled form of a dataset, from WebShop's official files.

A bundle consists of memory-mapped files with products, search index, goals, prices and splits, and
of ``bundle.json``, which records the sources and the size and hash of every file. It is built in a
temporary folder and moved into place when it is complete, so that an interrupted build leaves
nothing that looks like a bundle. Its bytes depend only on the source files, the nouns and the price
seed. Not here: parsing official files (`official`) and reading bundles (`catalogue`, `goals`,
`shop`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from eto_envs.errors import CorruptDataError, DataNotFoundError
from eto_envs.webshop.data import official
from eto_envs.webshop.data.catalogue import Catalogue, product_record
from eto_envs.webshop.data.goals import (
    DEFAULT_PRICE_SEED,
    PriceDraws,
    goal_weights,
    n_combinations,
    shuffled_order,
)
from eto_envs.webshop.data.jsonfiles import stream_list, write_json_lines
from eto_envs.webshop.data.manifest import FORMAT, MANIFEST, file_stamp, is_bundle
from eto_envs.webshop.data.nouns import NounsFrom, NounSource, noun_source
from eto_envs.webshop.data.records import Product

OFFICIAL_NAMES = {  # SHA-256 of the official product files
    "2ef591d65df3af89e972ab72468eb82cbf124d876552d9f3678667edd620a6c8": "full",
    "30a4765c3a327af72d9a9a95a6b2486d516f0fa1d3ecd83681901ce82a21b269": "small",
}
N_BATCH = 1024  # number of products whose names are tagged together
MIN_POOL_PRODUCTS = 50_000  # below this, starting processes costs more than it saves

Progress = Callable[[str, int], None]
"""Called regularly with the current stage and the number of products processed in it."""


@dataclass
class _Columns:
    """What is collected from the products while they are streamed."""

    asins: list[bytes] = field(default_factory=list)
    categories: dict[str, int] = field(default_factory=dict)
    queries: dict[str, int] = field(default_factory=dict)
    category_codes: list[int] = field(default_factory=list)
    query_codes: list[int] = field(default_factory=list)
    low_usd: list[float] = field(default_factory=list)
    high_usd: list[float] = field(default_factory=list)
    human: list[tuple[Any, ...]] = field(default_factory=list)
    human_rows: list[int] = field(default_factory=list)
    synthetic: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    synthetic_rows: list[int] = field(default_factory=list)
    synthetic_counts: list[int] = field(default_factory=list)

    def add(
        self,
        product: Product,
        annotation: official.Annotation | None,
        instructions: Iterable[official.HumanInstruction],
    ) -> None:
        """Add the next product of the catalogue."""
        row = len(self.asins)
        asin, prices = product.asin, product.price_range_usd
        self.asins.append(asin.encode("utf-8", "surrogatepass"))
        self.category_codes.append(
            self.categories.setdefault(product.category, len(self.categories))
        )
        self.query_codes.append(self.queries.setdefault(product.query, len(self.queries)))
        self.low_usd.append(prices[0])
        self.high_usd.append(prices[1] if len(prices) > 1 else float("nan"))
        for text, attributes, options in instructions:
            self.human.append((asin, text, attributes, options))
            self.human_rows.append(row)
        # Differs from the reference, which raises a KeyError for a product that is not in the
        # attribute file: here it has no synthetic goals.
        if annotation and annotation.instruction is not None:
            self.synthetic.append((asin, annotation.instruction, annotation.instruction_attributes))
            self.synthetic_rows.append(row)
            self.synthetic_counts.append(n_combinations(product))


def build_bundle(
    source: Path,
    target: Path,
    *,
    price_seed: int = DEFAULT_PRICE_SEED,
    nouns: NounsFrom = "auto",
    spacy_model: str | None = None,
    dataset: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Build a bundle from a folder of official files.

    Args:
        source: the folder; in addition to the three required files, it can contain ``nouns.json``
            and the splits ``train_indices.json``, ``test_indices.json`` and
            ``unseen_indices.json``.
        target: the folder of the bundle; replaced if it is a bundle already.
        price_seed: the seed of prices in ranges and of price caps; another one can be chosen when
            the bundle is opened.
        nouns: how to determine the nouns of product names, see `nouns.noun_source`.
        spacy_model: the name or folder of a spaCy model.
        dataset: the name that appears in results; None for the official name, or else that of the
            folder.
        progress: called regularly.

    Returns:
        `target`.

    Raises:
        DataNotFoundError: a file is missing, or the requested noun table or model.
        CorruptDataError: a file is truncated, altered or of the wrong kind.
        MissingExtraError: spaCy was requested and is not installed.
        FileExistsError: `target` exists and is not a bundle.
    """
    official.require_files(source)
    if target.exists() and not is_bundle(target):
        raise FileExistsError(f"{target} exists and is not a bundle; remove it or choose another")
    tagger = noun_source(nouns, source, spacy_model)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".tmp", dir=target.parent))
    folder.chmod(0o755)  # mkdtemp's folders are private
    try:
        report = progress or (lambda stage, count: None)
        columns = _write_products(source, folder, tagger, report)
        _write_columns(folder, columns)
        _write_index(folder, report)
        draws = PriceDraws(price_seed, np.array(columns.low_usd), np.array(columns.high_usd))
        _write_goals(folder, columns, draws)
        _write_splits(source, folder, len(columns.human))
        _write_manifest(source, folder, tagger.description, price_seed, dataset)
        _move_into_place(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return target


def _write_products(source: Path, folder: Path, tagger: NounSource, report: Progress) -> _Columns:
    annotations = official.read_annotations(source / official.ATTRIBUTES_FILE)
    human = official.read_human_instructions(source / official.HUMAN_FILE)
    columns = _Columns()

    def records() -> Iterator[dict[str, Any]]:
        products = official.read_products(source / official.PRODUCTS_FILE, annotations)
        while batch := list(itertools.islice(products, N_BATCH)):
            tagged = tagger.nouns([product.name for product in batch])
            for product, nouns in zip(batch, tagged, strict=True):
                asin = product.asin
                columns.add(product, annotations.get(asin), human.get(asin, ()))
                yield product_record(replace(product, nouns=nouns))
            report("products", len(columns.asins))

    if not write_json_lines(folder, "products", records()):
        raise CorruptDataError(f"{source / official.PRODUCTS_FILE} contains no usable product")
    return columns


def _write_columns(folder: Path, columns: _Columns) -> None:
    width = max(len(asin) for asin in columns.asins)
    asins = np.array(columns.asins, dtype=f"S{width}")
    _save(folder, "asins", asins)
    _save(folder, "asins_order", np.argsort(asins, kind="stable").astype("<i8"))
    _save(folder, "categories", np.array(columns.category_codes, dtype="<i4"))
    _save(folder, "queries", np.array(columns.query_codes, dtype="<i4"))
    _save(folder, "low_usd", np.array(columns.low_usd, dtype="<f8"))
    _save(folder, "high_usd", np.array(columns.high_usd, dtype="<f8"))
    groups = {"categories": list(columns.categories), "queries": list(columns.queries)}
    _save_json(folder / "groups.json", groups)


def _write_index(folder: Path, report: Progress) -> None:
    from eto_envs.webshop.search.index import SearchIndex

    catalogue = Catalogue(folder)
    with _analyzed(catalogue) as token_lists:
        counted = _counted(token_lists, report)
        index = SearchIndex.build(catalogue.asins, counted)
    index.save(folder / "index")


@contextlib.contextmanager
def _analyzed(catalogue: Catalogue) -> Iterator[Iterable[Sequence[str]]]:
    from eto_envs.webshop.search.words import analyze

    texts = (official.searched_text(product) for product in catalogue)
    if len(catalogue) < MIN_POOL_PRODUCTS:
        yield (analyze(text) for text in texts)
        return
    # spawn: a forked child would inherit locks held by other threads of the caller.
    with multiprocessing.get_context("spawn").Pool() as pool:
        yield pool.imap(analyze, texts, chunksize=256)


def _counted(token_lists: Iterable[Sequence[str]], report: Progress) -> Iterator[Sequence[str]]:
    for count, token_list in enumerate(token_lists, start=1):
        if count % N_BATCH == 0:
            report("search index", count)
        yield token_list


def _write_goals(folder: Path, columns: _Columns, draws: PriceDraws) -> None:
    _save(folder, "prices_usd", draws.prices_usd)
    counts = np.array(columns.synthetic_counts, dtype="<i8")
    goals = {
        "human": (columns.human, columns.human_rows, len(columns.human)),
        "synthetic": (columns.synthetic, columns.synthetic_rows, int(counts.sum())),
    }
    for kind, (records, rows, n_goals) in goals.items():
        write_json_lines(folder, kind, records)
        _save(folder, f"{kind}_rows", np.array(rows, dtype="<i4"))
        _save(folder, f"{kind}_caps_usd", draws.caps_usd(rows))
        _save(folder, f"{kind}_order", shuffled_order(n_goals))
    _save(folder, "synthetic_starts", np.cumsum(counts) - counts)
    attributes = [record[2] for record in columns.synthetic]
    _save(folder, "synthetic_weights", goal_weights(attributes, columns.synthetic_counts))


def _write_splits(source: Path, folder: Path, n_goals: int) -> None:
    splits = {}
    for split, name in official.SPLIT_FILES.items():
        path = source / name
        if not path.is_file():
            continue
        indices = list(stream_list(path))
        wrong = [i for i in indices if type(i) is not int or not 0 <= i < n_goals]
        if wrong:
            raise CorruptDataError(
                f"{path} contains goal {wrong[0]!r}, but the goals of {source} are numbered 0 to"
                f" {n_goals - 1}; the file belongs to another dataset: remove or replace it"
            )
        splits[split] = indices
    missing = [name for name in ("train", "seen") if name not in splits]
    if splits and missing:
        raise DataNotFoundError(
            f"{source} has {', '.join(official.SPLIT_FILES[name] for name in splits)} but no"
            f" {official.SPLIT_FILES[missing[0]]}; add it or remove all of them"
        )
    _save_json(folder / "splits.json", splits)


def _write_manifest(
    source: Path, folder: Path, nouns_source: str, price_seed: int, dataset: str | None
) -> None:
    names = (*official.REQUIRED_FILES, official.NOUNS_FILE, *official.SPLIT_FILES.values())
    sources = {name: file_stamp(source / name) for name in names if (source / name).is_file()}
    if nouns_source != "file":
        sources.pop(official.NOUNS_FILE, None)  # it exists but was not used
    official_name = OFFICIAL_NAMES.get(sources[official.PRODUCTS_FILE]["sha256"])
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    shapes = {name: len(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in _COUNTED}
    manifest = {
        "format": FORMAT,
        "dataset": dataset or official_name or source.resolve().name,
        "price_seed": price_seed,
        "nouns": nouns_source,
        "counts": {label: shapes[name] for name, label in _COUNTED.items()},
        "source": sources,
        "files": {path.relative_to(folder).as_posix(): file_stamp(path) for path in files},
    }
    _save_json(folder / MANIFEST, manifest)


_COUNTED = {
    "asins": "products",
    "human_order": "human_goals",
    "synthetic_order": "synthetic_goals",
}


def _save(folder: Path, name: str, values: np.ndarray[Any, Any]) -> None:
    np.save(folder / f"{name}.npy", values, allow_pickle=False)


def _save_json(path: Path, value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def _move_into_place(folder: Path, target: Path) -> None:
    if not target.exists():
        folder.replace(target)
        return
    # A folder cannot atomically replace one that is not empty: move the old bundle away first.
    aside = folder.with_suffix(".old")
    target.replace(aside)
    folder.replace(target)
    shutil.rmtree(aside, ignore_errors=True)
