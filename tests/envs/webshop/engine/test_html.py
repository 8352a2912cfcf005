from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

from eto_envs.errors import MissingExtraError
from eto_envs.webshop.engine import html
from eto_envs.webshop.engine.engine import WebShopEngine
from eto_envs.webshop.engine.html import relative_url

WALK = [
    "search[lamp sofa]",
    "click[next >]",
    "click[< prev]",
    "click[next >]",
    "click[next >]",
    "click[s000000001]",
    "click[rosewood]",
    "click[a | ]",
    "click[features]",
    "click[< prev]",
    "click[reviews]",
    "click[< prev]",
    "click[buy now]",
]


class TextNodes(HTMLParser):
    """The visible text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = False
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.hidden = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self.hidden = False

    def handle_data(self, data: str) -> None:
        if data.strip() and not self.hidden:
            self.texts.append(data.strip())


def test_the_html_says_what_the_text_says(engine: WebShopEngine) -> None:
    session = engine.start(1)
    for action in WALK:
        outcome = engine.step(session, action)
        assert outcome.is_valid, action
        session = outcome.session
        parser = TextNodes()
        parser.feed(engine.html(session))
        assert parser.texts == [part for part in engine.text(session).split(" [SEP] ") if part]


def test_urls_are_quoted_as_flask_quotes_them() -> None:
    query = {"keywords": ["a b", "", "é&"], "options": {"size": "7.5"}, "page": 2}
    assert relative_url(query) == (
        "/?keywords=a+b&keywords=&keywords=%C3%A9%26&options=%7B'size':+'7.5'%7D&page=2"
    )
    assert relative_url({"keywords": ["\ud800"]}) == "/?keywords=?"


def test_missing_jinja_names_the_extra(
    engine: WebShopEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    html._templates.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"eto-gym\[browser\]"):
        engine.html(engine.start(0))


@pytest.mark.data
@pytest.mark.parametrize(
    "stem", ["multi_human", "multi_synth", "multi_human_attrs", "multi_synth_attrs"]
)
def test_recorded_pages(replay: Callable[[str], Iterator[Any]], stem: str) -> None:
    n_pages = 0
    for _, record, engine, session, _, _ in replay(stem):
        assert engine.html(session) == record["html"]
        n_pages += 1
    assert n_pages > 40
