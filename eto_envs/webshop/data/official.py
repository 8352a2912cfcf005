"""Reads WebShop's official files and converts them to products, as the original does.

Follows `load_products` in `web_agent_site/engine/engine.py` of princeton-nlp/WebShop at commit
64fa2a5. Not here: nouns (`nouns`), goals and prices in ranges (`goals`), and writing (`bundle`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

from eto_envs.errors import CorruptDataError, DataNotFoundError
from eto_envs.webshop.data.jsonfiles import DOWNLOAD_AGAIN, stream_list, stream_object
from eto_envs.webshop.data.records import Product

PRODUCTS_FILE = "items_shuffle.json"
ATTRIBUTES_FILE = "items_ins_v2.json"
HUMAN_FILE = "items_human_ins.json"
NOUNS_FILE = "nouns.json"
SPLIT_FILES = {
    "train": "train_indices.json",
    "seen": "test_indices.json",
    "unseen": "unseen_indices.json",
}
REQUIRED_FILES = (PRODUCTS_FILE, ATTRIBUTES_FILE, HUMAN_FILE)

DUMMY_ATTRIBUTES = ("DUMMY_ATTR",)  # engine.py: the attributes of a product without an entry
DEFAULT_PRICE_USD = 100.0  # engine.py: the price of a product without a price
MAX_ASIN_CHARS = 10


class Annotation(NamedTuple):
    """A product's entry in the attribute file.

    Attributes:
        attributes: the attributes used for the reward; None if the entry has no such field.
        instruction: the synthetic request, None if there is none.
        instruction_attributes: the attributes that it requests.
    """

    attributes: tuple[str, ...] | None
    instruction: str | None
    instruction_attributes: tuple[str, ...]


class HumanInstruction(NamedTuple):
    """One request that a person wrote for a product; fields as in the human file."""

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]


def require_files(folder: Path) -> None:
    """Check that a folder contains the three official files.

    Raises:
        DataNotFoundError: a file or the folder is missing.
    """
    if not folder.is_dir():
        raise DataNotFoundError(f"{folder} is not a folder with {', '.join(REQUIRED_FILES)}")
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise DataNotFoundError(
            f"{folder} has no {', '.join(missing)}; a WebShop folder contains"
            f" {', '.join(REQUIRED_FILES)}. `eto data download` gets the official files."
        )


def string_tuple(value: object, path: Path, where: str) -> tuple[str, ...]:
    """A JSON list of strings as a tuple of interned strings; raises `CorruptDataError`."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise CorruptDataError(
            f"{path}: {where} is {value!r:.80}, not a list of strings. {DOWNLOAD_AGAIN}"
        )
    return tuple(sys.intern(text) for text in value)


def read_annotations(path: Path) -> dict[str, Annotation]:
    """The attribute file, by ASIN.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: it is damaged, or an entry lacks a required field.
    """
    annotations = {}
    for asin, entry in stream_object(path):
        if not isinstance(entry, dict):
            message = f"{path}: the entry of {asin!r} is not an object. {DOWNLOAD_AGAIN}"
            raise CorruptDataError(message)
        attributes = instruction_attributes = None
        if "attributes" in entry:
            attributes = string_tuple(entry["attributes"], path, f"attributes of {asin!r}")
        instruction = entry.get("instruction")
        if instruction is not None:
            where = f"instruction_attributes of {asin!r}"
            instruction_attributes = string_tuple(entry.get("instruction_attributes"), path, where)
            if not isinstance(instruction, str) or not instruction_attributes:
                raise CorruptDataError(
                    f"{path}: the instruction of {asin!r} is not a string or requests no attribute."
                    f" {DOWNLOAD_AGAIN}"
                )
        annotations[asin] = Annotation(attributes, instruction, instruction_attributes or ())
    return annotations


def read_human_instructions(path: Path) -> dict[str, list[HumanInstruction]]:
    """The human file, by ASIN; requests without attributes are omitted, as in `goal.py`.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: it is damaged, or an entry lacks a required field.
    """
    instructions = {}
    for asin, entries in stream_object(path):
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise CorruptDataError(f"{path}: the entry of {asin!r} is not a list of objects")
        usable = []
        for entry in entries:
            text = entry.get("instruction")
            if not isinstance(text, str):
                raise CorruptDataError(f"{path}: an entry of {asin!r} has no instruction")
            attributes, options = (
                string_tuple(entry.get(field), path, f"{field} of {asin!r}")
                for field in ("instruction_attributes", "instruction_options")
            )
            if attributes:
                usable.append(HumanInstruction(text, attributes, options))
        instructions[asin] = usable
    return instructions


def read_products(path: Path, annotations: Mapping[str, Annotation]) -> Iterator[Product]:
    """The products in file order, without nouns, as the original's `load_products` makes them.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: it is damaged, or an entry lacks a required field.
    """
    known: set[str] = set()
    for position, entry in enumerate(stream_list(path)):
        asin = entry.get("asin") if isinstance(entry, dict) else None
        if not isinstance(asin, str):
            raise CorruptDataError(f"{path}: entry {position} is not a product with an asin")
        if asin == "nan" or len(asin) > MAX_ASIN_CHARS or asin in known:
            continue
        known.add(asin)
        try:
            product = _product(asin, entry, annotations.get(asin))
        except KeyError as error:
            raise CorruptDataError(f"{path}: product {asin!r} has no field {error}") from error
        except (TypeError, AttributeError, ValueError, IndexError, InvalidOperation) as error:
            raise CorruptDataError(
                f"{path}: a field of product {asin!r} has the wrong type: {error!r}"
            ) from error
        yield product


def _product(asin: str, entry: Mapping[str, Any], annotation: Annotation | None) -> Product:
    price_tag, price_range_usd = parse_price(entry.get("pricing"))
    attributes = annotation.attributes if annotation else None
    images = entry.get("images")
    return Product(
        asin=asin,
        name=_text(entry["name"], "name"),
        query=_text(entry["query"], "query").lower().strip(),
        category=_text(entry["category"], "category"),
        product_category=_text(entry["product_category"], "product_category"),
        description=_text(entry["full_description"], "full_description"),
        bullets=_bullets(entry["small_description"]),
        price_tag=price_tag,
        price_range_usd=price_range_usd,
        options=_options(entry["customization_options"]),
        attributes=DUMMY_ATTRIBUTES if attributes is None else attributes,
        nouns=(),
        image=_text(images[0], "images") if images else "",
        option_images=_option_images(entry["customization_options"]),
    )


def _text(value: object, field: str) -> str:
    # Differs from the reference: null becomes an empty text, not "None" or a crash.
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{field} is {value!r:.80}, not a string")
    return value


def _bullets(value: object) -> tuple[str, ...]:
    bullets = value if isinstance(value, list) else [value]
    return tuple(_text(bullet, "small_description") for bullet in bullets)


def parse_price(pricing: str | None) -> tuple[str, tuple[float, ...]]:
    """The price tag on pages, and the price or the minimum and maximum price in US dollars.

    Raises:
        ValueError: there is no dollar sign, or no number after it.
    """
    if not pricing:
        return f"${DEFAULT_PRICE_USD}", (DEFAULT_PRICE_USD,)
    try:
        prices = [float(Decimal(re.sub(r"[^\d.]", "", part))) for part in pricing.split("$")[1:]]
    except InvalidOperation as error:
        raise ValueError(f"price {pricing!r} has no number after a dollar sign") from error
    if not prices:
        raise ValueError(f"price {pricing!r} has no dollar sign")
    if len(prices) == 1:
        return f"${prices[0]}", (prices[0],)
    return f"${prices[0]} to ${prices[1]}", (prices[0], prices[1])


def _options(customization: Mapping[str, Any] | None) -> dict[str, tuple[str, ...]]:
    return {
        name.lower(): tuple(_option_value(content) for content in contents)
        for name, contents in (customization or {}).items()
        if contents is not None
    }


def _option_images(customization: Mapping[str, Any] | None) -> dict[str, str]:
    images = {
        _option_value(content): content.get("image")
        for contents in (customization or {}).values()
        for content in contents or ()
    }
    return {value: _text(image, "image") for value, image in images.items() if image is not None}


def _option_value(content: Mapping[str, Any]) -> str:
    text: str = content["value"].strip().replace("/", " | ").lower()
    return text


def searched_text(product: Product) -> str:
    """The text of a product that the search index covers.

    Follows `search_engine/convert_product_file_format.py` of the same repository.
    """
    options = ", and ".join(f"{name}: {', '.join(v)}" for name, v in product.options.items())
    # Differs from the reference, which crashes if the feature list is empty.
    first_bullet = product.bullets[0] if product.bullets else ""
    return " ".join([product.name, product.description, first_bullet, options]).lower()
