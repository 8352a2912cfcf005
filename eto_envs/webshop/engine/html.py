"""The HTML of pages, as the original's templates render it.

The files in ``templates`` are reconstructed from recorded pages of princeton-nlp/WebShop
(Copyright (c) 2022 The Trustees of Princeton University, for academic and research use only; commit
64fa2a5). Their output is identical, including unclosed elements and blank lines. They are rendered
by Jinja2, without Flask; Jinja2 is optional (extra ``browser``) and imported when it is first
needed. Not here: the text modes, which do not require HTML (`pages`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from eto_envs.errors import require
from eto_envs.webshop.data.records import Product
from eto_envs.webshop.engine.pages import Session

TEMPLATES = {
    "index": "search.html",
    "results": "results.html",
    "item": "item.html",
    "sub": "sub_page.html",
    "done": "done.html",
}


def relative_url(query: Mapping[str, Any]) -> str:
    """A URL of the shop, as written by Flask's `url_for`: a list repeats its key."""
    pairs = [
        (key, value)
        for key, values in query.items()
        for value in (values if isinstance(values, list | tuple) else (values,))
    ]
    # Differs from the reference: an unpaired surrogate becomes "?"; the original raises an error.
    return "/?" + urlencode(pairs, safe="!$'()*,/:;?@", errors="replace")


@functools.cache
def _templates() -> Mapping[str, Any]:
    jinja2 = require("jinja2", extra="browser")
    folder = Path(__file__).with_name("templates")
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True)
    return {kind: environment.get_template(name) for kind, name in TEMPLATES.items()}


class HtmlPages:
    """Writes pages as HTML."""

    def __init__(self, product: Callable[[str], Product], *, show_attrs: bool = False) -> None:
        """Write pages about the products of a catalogue.

        Args:
            product: returns the product with a given id.
            show_attrs: whether product pages have the button ``Attributes``.
        """
        self._product = product
        self._show_attrs = show_attrs

    def html(self, session: Session, instruction: str) -> str:
        """The page in mode ``html``.

        Raises:
            MissingExtraError: jinja2 is not installed.
        """
        names: dict[str, Any] = session._asdict()
        names["options"] = dict(session.options)
        names["shown"] = [self._product(asin) for asin in session.shown]
        names["url"] = lambda **query: relative_url({"session_id": session.goal_index, **query})
        if session.kind in ("item", "sub"):
            product = self._product(session.asin)
            names |= {"product": product, "option_images": _option_images(product)}
        text: str = _templates()[session.kind].render(
            names, instruction=instruction, show_attrs=self._show_attrs
        )
        return text


def _option_images(product: Product) -> dict[str, str | None]:
    """The URL of each option value's picture, or None if it has none."""
    return {
        value: product.option_images.get(value)
        for values in product.options.values()
        for value in values
    }
