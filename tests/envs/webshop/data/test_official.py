from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_envs.errors import CorruptDataError, DataNotFoundError
from eto_envs.webshop.data import official
from eto_envs.webshop.data.official import Annotation, parse_price, read_products, searched_text

Make = Callable[..., Any]


def read(source: Path, annotations: dict[str, Annotation] | None = None) -> list[Any]:
    return list(read_products(source / official.PRODUCTS_FILE, annotations or {}))


@pytest.mark.parametrize(
    ("pricing", "tag", "prices"),
    [
        (None, "$100.0", (100.0,)),
        ("", "$100.0", (100.0,)),
        ("$12.50", "$12.5", (12.5,)),
        ("$1,299.00", "$1299.0", (1299.0,)),
        ("$7.00 - $9.50", "$7.0 to $9.5", (7.0, 9.5)),
        ("$19.00$21.99$30", "$19.0 to $21.99", (19.0, 21.99)),
    ],
)
def test_prices(pricing: str | None, tag: str, prices: tuple[float, ...]) -> None:
    assert parse_price(pricing) == (tag, prices)


@pytest.mark.parametrize("pricing", ["12.50", "$", "$free"])
def test_prices_that_cannot_be_read(pricing: str) -> None:
    with pytest.raises(ValueError, match="dollar sign"):
        parse_price(pricing)


def test_texts_and_options(make_source: Make, make_product: Make) -> None:
    entry = make_product("B01", small_description="one text", images=[])
    entry["customization_options"]["Fit"] = None
    (product,) = read(make_source([entry]))
    assert product.query == "men's shirts"
    assert product.bullets == ("one text",)
    assert product.options == {
        "size": ("small | regular", "large"),
        "color": ("red", "blue", "green"),
    }
    assert product.attributes == ("DUMMY_ATTR",)
    assert product.image == ""


def test_the_trailing_blank_of_an_option_stays(make_source: Make, make_product: Make) -> None:
    options = {"Size": [{"value": "a/"}]}
    (product,) = read(make_source([make_product("B01", customization_options=options)]))
    assert product.options == {"size": ("a | ",)}


def test_attributes_of_the_attribute_file(make_source: Make, make_product: Make) -> None:
    source = make_source([make_product(asin) for asin in ("B01", "B02", "B03")])
    notes = {"B01": Annotation(("x",), None, ()), "B02": Annotation((), None, ())}
    found = [product.attributes for product in read(source, notes)]
    assert found == [("x",), (), ("DUMMY_ATTR",)]


def test_odd_and_repeated_ids_are_dropped(make_source: Make, make_product: Make) -> None:
    asins = ["nan", "B0123456789", "B012345678", "B01", "B01"]
    entries = [make_product(asin, name=f"{i}") for i, asin in enumerate(asins)]
    assert [(p.asin, p.name) for p in read(make_source(entries))] == [
        ("B012345678", "2"),
        ("B01", "3"),
    ]


def test_searched_text(make_source: Make, make_product: Make) -> None:
    (product,) = read(make_source([make_product("B01", name="A Shirt")]))
    assert searched_text(product) == (
        "a shirt a shirt. soft cotton size: small | regular, large, and color: red, blue, green"
    )
    (product,) = read(make_source([make_product("B01", small_description=[])]))
    assert "soft" not in searched_text(product)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"asin": 5}, "entry 0"),
        ({"name": ["x"]}, "'B01'.*name"),
        ({"query": 5}, "'B01'.*query"),
        ({"pricing": "12"}, "'B01'.*dollar sign"),
        ({"customization_options": {"Size": [{}]}}, "'B01'.*value"),
        ({"customization_options": ["Size"]}, "'B01'"),
    ],
)
def test_fields_of_the_wrong_kind(
    make_source: Make, make_product: Make, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(CorruptDataError, match=said):
        read(make_source([make_product("B01") | changes]))


@pytest.mark.parametrize("field", ["name", "query", "category", "small_description"])
def test_missing_fields(make_source: Make, make_product: Make, field: str) -> None:
    entry = make_product("B01")
    del entry[field]
    with pytest.raises(CorruptDataError, match=f"'B01' has no field '{field}'"):
        read(make_source([entry]))


def test_annotations(make_source: Make) -> None:
    asked = {"attributes": ["a", "b"], "instruction": "Find", "instruction_attributes": ["a"]}
    source = make_source([], {"B01": asked, "B02": {"attributes": []}, "B03": {}})
    assert official.read_annotations(source / official.ATTRIBUTES_FILE) == {
        "B01": Annotation(("a", "b"), "Find", ("a",)),
        "B02": Annotation((), None, ()),
        "B03": Annotation(None, None, ()),
    }


@pytest.mark.parametrize(
    "entry",
    [
        [],
        {"attributes": "a"},
        {"instruction": "Find"},
        {"instruction": "Find", "instruction_attributes": []},
        {"instruction": 5, "instruction_attributes": ["a"]},
    ],
)
def test_damaged_annotations(make_source: Make, entry: object) -> None:
    with pytest.raises(CorruptDataError, match="'B01'"):
        official.read_annotations(make_source([], {"B01": entry}) / official.ATTRIBUTES_FILE)


def test_requests_for_no_attribute_are_left_out(make_source: Make) -> None:
    entries = [
        {"instruction": text, "instruction_attributes": attributes, "instruction_options": []}
        for text, attributes in (("x", ["a"]), ("y", []))
    ]
    found = official.read_human_instructions(
        make_source([], {}, {"B01": entries}) / "items_human_ins.json"
    )
    assert found == {"B01": [("x", ("a",), ())]}


@pytest.mark.parametrize(
    "entry", [{}, ["x"], [{"instruction": "x"}], [{"instruction_attributes": []}]]
)
def test_damaged_requests(make_source: Make, entry: object) -> None:
    with pytest.raises(CorruptDataError, match="'B01'"):
        official.read_human_instructions(make_source([], {}, {"B01": entry}) / official.HUMAN_FILE)


def test_a_folder_without_the_files(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"items_shuffle\.json, items_ins_v2\.json"):
        official.require_files(tmp_path)
    with pytest.raises(DataNotFoundError, match="not a folder"):
        official.require_files(tmp_path / "nowhere")
