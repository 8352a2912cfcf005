"""The products of the mini dataset: families, titles, features and descriptions.

Texts are composed from `vocabulary.json`, where every noun is marked by an asterisk, so that the
nouns of a title are known without a tagger. Not here: requests (`requests`) and files (`dataset`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

N_MEMBERS = 3  # products of each family
_N_ATTRIBUTES = 5  # attributes of each product, in addition to its material
_ASIN_CHARACTERS = "0123456789BCDFGHJKLMNPQRSTVWXYZ"
T = TypeVar("T")


class Draw:
    """Seeded draws whose results do not depend on the Python version."""

    def __init__(self, seed: int) -> None:
        """Seed the generator."""
        self.uniform = random.Random(seed).random

    def pick(self, values: Sequence[T]) -> T:
        """One of the values."""
        return values[int(self.uniform() * len(values))]

    def sample(self, values: Sequence[T], n: int) -> list[T]:
        """A sample of `n` values without replacement, in random order."""
        rest = list(values)
        return [rest.pop(int(self.uniform() * len(rest))) for _ in range(n)]

    def some(self, values: Sequence[T], n: int) -> list[T]:
        """A sample of `n` values without replacement, in their original order."""
        return [values[place] for place in sorted(self.sample(range(len(values)), n))]

    def shuffled(self, values: Sequence[T]) -> list[T]:
        """All values in random order."""
        return self.sample(values, len(values))


@dataclass(frozen=True)
class Attribute:
    """An attribute with marked nouns, and a paraphrase of it."""

    marked: str
    clause: str

    @property
    def text(self) -> str:
        """The attribute without marks."""
        return plain(self.marked)


@dataclass(frozen=True)
class Kind:
    """A type of product; nouns are marked in `name`, `materials`, `extra` and attributes."""

    category: str
    path: str
    is_unseen: bool
    attributes: tuple[Attribute, ...]
    name: str
    plural: str
    alias: str
    usd: tuple[int, int]
    materials: tuple[str, ...]
    options: Mapping[str, Sequence[str]]
    use: str
    extra: str


@dataclass(frozen=True)
class Item:
    """A product; the last of its attributes is the material."""

    asin: str
    kind: Kind
    brand: str
    line: str
    material: str
    attributes: tuple[Attribute, ...]
    title: str
    options: Mapping[str, Sequence[str]]
    prices_cents: tuple[int, ...]


def plain(marked: str) -> str:
    """The text without marks."""
    return marked.replace("*", "")


def marked_nouns(marked: str) -> list[str]:
    """The marked nouns of a text, in lower case and in order."""
    return re.findall(r"\*(\w+)", marked.lower())


def read_kinds(vocabulary: Mapping[str, Any]) -> Iterator[Kind]:
    """The types of products of a vocabulary."""
    for category in vocabulary["categories"]:
        attributes = tuple(Attribute(*text.split(" | ")) for text in category["attributes"])
        for entry in category["types"]:
            sections = category["path"], entry["section"], entry["plural"].title()
            yield Kind(
                category=category["name"],
                path=" › ".join(sections),
                is_unseen=category.get("unseen", False),
                attributes=attributes,
                name=entry["name"],
                plural=entry["plural"],
                alias=entry["alias"],
                usd=tuple(entry["usd"]),
                materials=tuple(entry["materials"]),
                options={
                    name: vocabulary["palettes"][values] if isinstance(values, str) else values
                    for name, values in entry["options"].items()
                },
                use=entry["use"],
                extra=entry["extra"],
            )


def draw_family(
    draw: Draw, kind: Kind, vocabulary: Mapping[str, Any], asins: Iterator[str]
) -> Iterator[Item]:
    """The products of one brand and line; each lacks some attributes that the others have."""
    brand, line = draw.pick(vocabulary["brands"]), draw.pick(vocabulary["lines"])
    material = draw.pick(kind.materials)
    order = draw.shuffled(kind.attributes)
    cents = 100 * (kind.usd[0] + draw.uniform() * 0.6 * (kind.usd[1] - kind.usd[0]))
    for member in range(N_MEMBERS):
        # Neighbours share three of five attributes, the first and the last member one. The last
        # one tends to be the most expensive.
        own = draw.shuffled(order[2 * member : 2 * member + _N_ATTRIBUTES])
        if member == N_MEMBERS - 1 and draw.uniform() < 0.5:
            material = draw.pick(kind.materials)
        attributes = (*own, Attribute(material, f"is made of {plain(material)}"))
        price = int(cents * (1 + member * (0.2 + 0.7 * draw.uniform())))
        is_ranged = draw.uniform() < 0.2
        yield Item(
            asin=next(asins),
            kind=kind,
            brand=brand,
            line=line,
            material=material,
            attributes=attributes,
            title=_title(draw, kind, brand, line, material, attributes),
            options={
                name: draw.some(values, min(len(values), 2 + int(3 * draw.uniform())))
                for name, values in kind.options.items()
            },
            prices_cents=(price, int(price * (1.1 + 0.3 * draw.uniform())))
            if is_ranged
            else (price,),
        )


_TITLES = (
    "{brand} {line} {material} {name}, {first}, {second}, with {extra}",
    "{brand} {material} {name} with {extra}, {first} and {second}",
    "{first} {material} {name} by {brand}, *{line} *collection, {second}",
    "{brand} {line} {name} - {material}, {first}, {extra}",
    "{brand} {name}, {second}, {first}, {material}, {line}",
)


def _title(
    draw: Draw,
    kind: Kind,
    brand: str,
    line: str,
    material: str,
    attributes: Sequence[Attribute],
) -> str:
    marked = draw.pick(_TITLES).format(
        brand=re.sub(r"\b([A-Z])", r"*\1", brand),
        line="*" + line,
        material=material,
        name=kind.name,
        extra=kind.extra,
        first=attributes[0].marked,
        second=attributes[1].marked,
    )
    return re.sub(
        r"\b(?!(?:with|and|by|the|in|to|on)\b)[a-z]",
        lambda m: m[0].upper(),
        marked.replace("**", "*"),
    )


def _bullets(draw: Draw, item: Item) -> list[str]:
    frames = (
        "{} by design, for {}.",
        "{}, tested in everyday use with {} in mind.",
        "{}: what counts most for {}.",
        "{}, and made to stay that way.",
    )
    sentences = [
        _sentence(draw.pick(frames).format(attribute.text, item.kind.use))
        for attribute in item.attributes[1:4]
    ]
    choice = " and ".join(item.options)
    return [
        *draw.shuffled(sentences),
        _sentence(f"{plain(item.material)} with {plain(item.kind.extra)}."),
        f"Choose your {choice} above; questions are answered within a day.",
    ]


def _description(draw: Draw, item: Item) -> str:
    openings = (
        "{brand} made the {line} {name} for {use}.",
        "For {use}: the {line} {name} from {brand}.",
        "{brand} has been making {plural} for years, and the {line} is the favorite.",
    )
    opening = draw.pick(openings).format(
        brand=item.brand,
        line=item.line,
        name=plain(item.kind.name),
        plural=item.kind.plural,
        use=item.kind.use,
    )
    first, last = item.attributes[0], item.attributes[-2]
    clause = re.sub(r"\b(i|me)\b", "you", re.sub(r"\bmy\b", "your", first.clause))
    return f"{opening} {_sentence(last.text)}, and it {clause}."


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def product_entry(draw: Draw, item: Item) -> dict[str, Any]:
    """The entry of a product in the official product file."""
    return {
        "name": plain(item.title),
        "product_information": {},
        "brand": item.brand,
        "full_description": _description(draw, item),
        "pricing": " - ".join(f"${cents // 100}.{cents % 100:02}" for cents in item.prices_cents),
        "images": [""],
        "product_category": item.kind.path,
        "small_description": _bullets(draw, item),
        "customization_options": {
            name: [{"value": value, "image": None} for value in values]
            for name, values in item.options.items()
        },
        "asin": item.asin,
        "category": item.kind.category,
        "query": item.kind.plural,
    }


def attribute_entry(draw: Draw, item: Item) -> dict[str, Any]:
    """The entry of a product in the official attribute file: attributes and a synthetic request."""
    requested = [attribute.text for attribute in draw.sample(item.attributes, 2)]
    return {
        "attributes": [attribute.text for attribute in item.attributes],
        "instruction": f"Find me {', '.join(requested)} {item.kind.plural}",
        "instruction_attributes": requested,
    }


def draw_asins(draw: Draw) -> Iterator[str]:
    """An endless sequence of distinct product ids."""
    known: set[str] = set()
    while True:
        asin = "B0" + "".join(draw.pick(_ASIN_CHARACTERS) for _ in range(8))
        if asin not in known:
            known.add(asin)
            yield asin
