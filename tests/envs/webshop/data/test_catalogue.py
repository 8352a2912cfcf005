from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eto_envs.webshop.data.bundle import build_bundle
from eto_envs.webshop.data.catalogue import Asins, Catalogue


@pytest.fixture
def catalogue(source: Path, tmp_path: Path) -> Catalogue:
    return Catalogue(build_bundle(source, tmp_path / "bundle", nouns="heuristic"))


def test_every_product_is_found_by_its_id(catalogue: Catalogue) -> None:
    assert len(catalogue) == len(catalogue.asins) == 12
    for row, product in enumerate(catalogue):
        assert catalogue.asins[row] == product.asin
        assert catalogue.row(product.asin) == row
        assert catalogue.product(product.asin) == product


def test_a_product_is_whole(catalogue: Catalogue) -> None:
    product = catalogue.product("B000000003")
    assert product.name == "Red Cotton Shirt B000000003"
    assert product.price_range_usd == (10.0, 30.0)
    assert product.price_tag == "$10.0 to $30.0"
    assert product.options == {
        "size": ("small | regular", "large"),
        "color": ("red", "blue", "green"),
    }
    assert product.attributes == ("machine wash", "cotton")
    assert product.nouns == ("red", "cotton", "shirt", "b000000003")
    assert product.image == "https://example.org/shirt.jpg"


def test_decoded_products_are_kept(catalogue: Catalogue) -> None:
    assert catalogue.product("B000000003") is catalogue.product("B000000003")


@pytest.mark.parametrize("asin", ["", "B", "b000000003", "B0000000030", "Z", "A", "é", "\ud83d"])
def test_unknown_ids(catalogue: Catalogue, asin: str) -> None:
    with pytest.raises(KeyError):
        catalogue.product(asin)
    with pytest.raises(KeyError):
        catalogue.row(asin)


def test_groups(catalogue: Catalogue) -> None:
    assert list(catalogue.in_category("garden")) == ["B000000005"]
    assert len(catalogue.in_category("fashion")) == 11
    assert list(catalogue.of_query("hoses")) == ["B000000005"]
    assert len(catalogue.of_query("men's shirts")) == 11
    assert len(catalogue.in_category("nothing")) == len(catalogue.of_query("")) == 0


def test_ids_are_a_sequence() -> None:
    table = np.array([b"A", "Bé".encode(), b"C"])
    asins = Asins(table, [2, 0, 1])
    assert list(asins) == ["C", "A", "Bé"] == [asins[0], asins[1], asins[-1]]
    assert list(asins[1:]) == ["A", "Bé"]
    assert list(asins[5:9]) == []
    assert "Bé" in asins
    assert "n=3" in repr(asins)
    with pytest.raises(IndexError):
        asins[3]
