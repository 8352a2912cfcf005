"""A tiny dataset in the official layout, a small shop in memory, and the recorded episodes."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eto_envs.webshop.data.records import Goal, Product
from eto_envs.webshop.engine.engine import Outcome, ReferenceCrash, Session, WebShopEngine
from eto_envs.webshop.search.index import TooManyTermsError

GOLDEN_PRICE_SEED = 20240302


def product(asin: str, **changes: Any) -> dict[str, Any]:
    """A product as the official file has it."""
    entry = {
        "asin": asin,
        "name": f"Red Cotton Shirt {asin}",
        "query": "  Men's Shirts ",
        "category": "fashion",
        "product_category": "Clothing › Men › Shirts",
        "full_description": "A shirt.",
        "small_description": ["soft cotton", "machine wash"],
        "pricing": "$12.50",
        "customization_options": {
            "Size": [{"value": "Small/Regular "}, {"value": "Large"}],
            "Color": [{"value": "Red"}, {"value": "Blue"}, {"value": "Green"}],
        },
        "images": ["https://example.org/shirt.jpg"],
    }
    return {**entry, **changes}


def write_source(folder: Path, products: Any, attributes: Any = None, human: Any = None) -> Path:
    """Write a dataset folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "items_shuffle.json").write_text(json.dumps(products), encoding="utf-8")
    (folder / "items_ins_v2.json").write_text(json.dumps(attributes or {}), encoding="utf-8")
    (folder / "items_human_ins.json").write_text(json.dumps(human or {}), encoding="utf-8")
    return folder


@pytest.fixture
def make_product() -> Callable[..., dict[str, Any]]:
    return product


@pytest.fixture
def make_source(tmp_path: Path) -> Callable[..., Path]:
    """``make_source(products, attributes, human)`` writes a dataset folder."""
    return lambda *files: write_source(tmp_path / "source", *files)


def request_entry(text: str, attributes: list[str], options: list[str]) -> dict[str, Any]:
    return {
        "instruction": text,
        "instruction_attributes": attributes,
        "instruction_options": options,
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twelve shirts, a ranged price, synthetic and human requests for all of them."""
    asins = [f"B{number:09}" for number in range(12)]
    products = [product(asin) for asin in asins]
    products[3]["pricing"] = "$10.00 - $30.00"
    products[5] |= {"category": "garden", "query": "hoses"}
    attributes = {
        asin: {
            "attributes": ["machine wash", "cotton"],
            "instruction": "Find me cotton shirts",
            "instruction_attributes": ["cotton"],
        }
        for asin in asins
    }
    human = {asin: [request_entry(f"a shirt {asin}.", ["cotton"], ["red"])] for asin in asins}
    return write_source(tmp_path / "source", products, attributes, human)


@pytest.fixture(scope="session")
def real_source(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 394 real products with the nouns of spaCy's en_core_web_md 3.8."""
    folder = tmp_path_factory.mktemp("real")
    for path in (shared_data / "webshop/catalogue").glob("items_*.json"):
        shutil.copyfile(path, folder / path.name)
    nouns = gzip.decompress((shared_data / "webshop/golden/nouns_md38.json.gz").read_bytes())
    (folder / "nouns.json").write_bytes(nouns)
    return folder


def lamp(asin: str, name: str, **changes: Any) -> Product:
    fields: dict[str, Any] = {
        "query": "desk lamps",
        "category": "garden",
        "product_category": "Home › Lighting › Lamps",
        "description": f"About {name}.",
        "bullets": ("Bright", " ", "Made of steel "),
        "price_tag": "$12.5",
        "price_range_usd": (12.5,),
        "options": {"color": ("black", "white | red"), "size": ("small", "large [xl]")},
        "attributes": ("easy clean", "living room"),
        "nouns": tuple(word.lower() for word in name.split()),
    }
    return Product(asin=asin, name=name, **(fields | changes))


class FakeShop:
    """Twenty-three lamps, three sofas and two requests; found by whole words."""

    def __init__(self) -> None:
        products = [lamp(f"B{i:09d}", f"Lamp number {i} of oak") for i in range(23)]
        products += [
            lamp(
                "S000000001",
                "Rosewood Sofa Sofa <b>",
                query="sofas",
                product_category="Home › Sofas",
                bullets=(),
                description="",
                attributes=(),
                options={
                    "wood": ("rosewood", "same", "café"),
                    "search": ("search", "same", "description", "a | "),
                },
            ),
            lamp("S000000002", "Plain Sofa", query="sofas", options={}),
            lamp(
                "S000000003",
                "Oak Frame Sofa",
                query="sofas",
                price_tag="$5.0 to $8.0",
                price_range_usd=(5.0, 8.0),
                options={"style": ("wood",)},
            ),
        ]
        self._products = {product.asin: product for product in products}
        self.asins = list(self._products)
        self.goals = [
            Goal(0, "B000000003", "find me a lamp", ("easy clean",), ("red", "small"), 20.0),
            Goal(1, "S000000001", "a sofa", ("oak frame",), {"wood": "rosewood"}, 10.0),
        ]

    def product(self, asin: str) -> Product:
        return self._products[asin]

    def price_usd(self, asin: str) -> float:
        return self._products[asin].price_range_usd[-1]

    def search(self, text: str) -> list[str]:
        words = set(text.split())
        if len(words) > 1024:
            raise TooManyTermsError(f"{len(words)} distinct terms")
        ranked = []
        for asin, product in self._products.items():
            about = " ".join((product.name, product.query, *product.attributes)).lower()
            ranked.append((-len(words & set(about.split())), asin))
        return [asin for score, asin in sorted(ranked) if score][:50]

    def in_category(self, category: str) -> list[str]:
        return [asin for asin in self.asins if self._products[asin].category == category]

    def of_query(self, query: str) -> list[str]:
        return [asin for asin in self.asins if self._products[asin].query == query]


@pytest.fixture(scope="session")
def shop() -> FakeShop:
    return FakeShop()


@pytest.fixture(scope="session")
def engine(shop: FakeShop) -> WebShopEngine:
    return WebShopEngine(shop)


@pytest.fixture(scope="session")
def official_shop(
    real_source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Any]:
    """`official_shop(kind)`: the real products, with prices and nouns as when recorded."""
    from eto_envs.webshop.data.bundle import build_bundle
    from eto_envs.webshop.data.shop import open_shop

    target = tmp_path_factory.mktemp("webshop") / "bundle"
    bundle = build_bundle(real_source, target, price_seed=GOLDEN_PRICE_SEED)
    return lambda kind: open_shop(bundle, goals=kind)


class Moment(NamedTuple):
    """One recorded page beside what the engine has in its place; `outcome` is None at reset."""

    episode: dict[str, Any]
    record: dict[str, Any]
    engine: WebShopEngine
    session: Session
    outcome: Outcome | None
    crash: ReferenceCrash | None = None


Replay = Callable[[str], Iterator[Moment]]


@pytest.fixture
def replay(shared_data: Path, official_shop: Callable[[str], Any]) -> Replay:
    """`replay(stem)`: every moment of the episodes in ``golden/<stem>.jsonl.gz``."""

    def moments(stem: str) -> Iterator[Moment]:
        shop = official_shop("human" if "human" in stem else "synthetic")
        with gzip.open(shared_data / "webshop" / "golden" / f"{stem}.jsonl.gz", "rt") as lines:
            for line in lines:
                yield from _replayed(shop, json.loads(line))

    return moments


def _replayed(shop: Any, episode: dict[str, Any]) -> Iterator[Moment]:
    show_attrs = episode.get("show_attrs", False)
    engine = WebShopEngine(shop, show_attrs=show_attrs, strict_reference=True)
    session = engine.start(episode["goal_index"])
    yield Moment(episode, episode["init"], engine, session, None)
    for record in episode["steps"]:
        try:
            outcome = engine.step(session, record["action"])
        except ReferenceCrash as crash:
            yield Moment(episode, record, engine, session, None, crash)
            return
        session = outcome.session
        yield Moment(episode, record, engine, session, outcome)
