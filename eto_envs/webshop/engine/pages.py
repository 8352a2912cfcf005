"""What a page says, as text.

Here are `Session`, the state of one shopping trip, and `Pages`, which says what can be clicked and
writes the page in the modes ``text`` and ``text_rich``; also url and previous observations. The
rules are those of `envs/web_agent_text_env.py` (`get_available_actions`, `convert_html_to_text`) of
princeton-nlp/WebShop at commit 64fa2a5, which finds links and visible text nodes in the HTML page;
here the same ones are made without HTML. Not here: the HTML itself (`html`) and what an action does
(`engine`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from eto_envs.webshop.data.records import Product

BASE_URL = "http://127.0.0.1:3000"
SEPARATOR = " [SEP] "
SUB_PAGES = {name.lower(): name for name in ("Description", "Features", "Reviews", "Attributes")}
N_CACHED_PRODUCTS = 4096

PageKind = Literal["index", "results", "item", "sub", "done"]


class Session(NamedTuple):
    """One shopping trip: all that its pages and its future depend on.

    Immutable, hashable and picklable, so that keeping one is a snapshot and stepping it twice
    forks it.

    Attributes:
        goal_index: which goal; also the session's id in urls.
        kind: which page is shown.
        keywords: the words of the last search.
        page: number of the results page, from 1 (0 and less are empty pages).
        total: number of results of the last search.
        shown: the products on the results page.
        asin: the product looked at, or the last one; empty before any.
        options: chosen option names and values, in the order of choice.
        visited: products opened since the search page, in order.
        sub_page: ``"Description"``, ``"Features"``, ``"Reviews"`` or ``"Attributes"``.
        n_draws: how many random result lists were drawn.
        reward: of the last purchase, in [0, 1].
    """

    goal_index: int
    kind: PageKind = "index"
    keywords: tuple[str, ...] = ()
    page: int = 0
    total: int = 0
    shown: tuple[str, ...] = ()
    asin: str = ""
    options: tuple[tuple[str, str], ...] = ()
    visited: tuple[str, ...] = ()
    sub_page: str = ""
    n_draws: int = 0
    reward: float = 0.0


def page_url(session: Session) -> str:
    """The url that the original gives the page; nothing in it is quoted."""
    goal_index, options = session.goal_index, dict(session.options)
    if session.kind == "index":
        return f"{BASE_URL}/{goal_index}"
    if session.kind == "done":
        return f"{BASE_URL}/done/{goal_index}/{session.asin}/{options}"
    search = f"{'+'.join(session.keywords)}/{session.page}"
    if session.kind == "results":
        return f"{BASE_URL}/search_results/{goal_index}/{search}"
    product = f"{goal_index}/{session.asin}/{search}"
    if session.kind == "item":
        return f"{BASE_URL}/item_page/{product}/{json.dumps(options)}"
    return f"{BASE_URL}/item_sub_page/{product}/{session.sub_page}/{options}"


def instruction_text(instruction: str) -> str:
    """The heading that the original hands out beside the page."""
    return f"Instruction: {_collapsed(instruction)}"


def with_history(
    observation: str,
    observations: Sequence[str],
    actions: Sequence[str],
    *,
    n_observations: int,
    n_actions: int,
) -> str:
    """An observation after what came before it, oldest first.

    Args:
        observation: the present one.
        observations: the previous ones, the reset's first.
        actions: all actions so far.
        n_observations: how many previous observations to show.
        n_actions: how many previous actions to show.
    """
    parts = [observation]
    for back in range(1, max(n_observations, n_actions) + 1):
        if back <= min(n_actions, len(actions)):
            parts.append(actions[-back])
        if back <= min(n_observations, len(observations)):
            parts.append(observations[-back])
    return SEPARATOR.join(reversed(parts))


NodeKind = Literal["text", "button", "option", "link"]


class Block(NamedTuple):
    """A run of text nodes, with what ``text`` mode makes of them."""

    nodes: tuple[tuple[NodeKind, str], ...]
    plain: str


def _block(nodes: Iterable[tuple[NodeKind, str]]) -> Block:
    kept = tuple(nodes)
    return Block(kept, SEPARATOR.join(text.strip() for _, text in kept))


def _collapsed(content: str) -> str:
    """The content of an element as Beautiful Soup keeps it.

    Nothing but ASCII white space becomes one line feed, if it has any, or one blank.
    """
    if not content or content.strip(" \n\t\f\r"):
        return content
    return "\n" if "\n" in content else " "


def _nodes(content: str, kind: NodeKind = "text") -> list[tuple[NodeKind, str]]:
    """The text node that an element with this content has, if any.

    The original leaves out nodes that are one line feed, and keeps blanks as empty segments.
    """
    text = _collapsed(content)
    return [] if text in ("", "\n") else [(kind, text)]


def _texts(*texts: str) -> list[tuple[NodeKind, str]]:
    return [("text", text) for text in texts]


def _buttons(*texts: str) -> list[tuple[NodeKind, str]]:
    return [("button", text) for text in texts]


def options_json(options: Mapping[str, str]) -> str:
    """The options as Flask's `tojson` writes them into a page."""
    escaped = {ord(char): f"\\u{ord(char):04x}" for char in "<>&'"}
    return json.dumps(options, sort_keys=True).translate(escaped)


class Pages:
    """Writes pages as text."""

    def __init__(self, product: Callable[[str], Product], *, show_attrs: bool = False) -> None:
        """Write pages about the products that `product` finds by their id.

        Args:
            product: ``product(asin)``.
            show_attrs: whether item pages have the button ``Attributes``.
        """
        self._product = product
        self._show_attrs = show_attrs
        self._row = functools.lru_cache(N_CACHED_PRODUCTS)(self._write_row)
        self._item = functools.lru_cache(N_CACHED_PRODUCTS)(self._write_item)
        self._sub_page = functools.lru_cache(N_CACHED_PRODUCTS)(self._write_sub_page)
        self._item_targets = functools.lru_cache(N_CACHED_PRODUCTS)(self._find_item_targets)

    def targets(self, session: Session) -> Mapping[str, str | None]:
        """What can be clicked, in lower case and the original's order, and what it stands for.

        That is the product on a results page, the option's name on an item page, None for a
        button.
        """
        if session.kind == "index":
            return {"search": None}
        if session.kind == "done":
            return {}
        if session.kind == "item":
            return self._item_targets(session.asin)
        targets: dict[str, str | None] = {"back to search": None}
        if session.kind == "sub" or session.page > 1:
            targets["< prev"] = None
        if session.kind == "results":
            targets["next >"] = None
            for asin in session.shown:
                targets[asin.lower()] = asin
        return targets

    def _find_item_targets(self, asin: str) -> Mapping[str, str | None]:
        buttons = ["back to search", "< prev", "description", "features", "reviews"]
        buttons += ["attributes", "buy now"] if self._show_attrs else ["buy now"]
        targets: dict[str, str | None] = dict.fromkeys(buttons)
        for name, values in self._product(asin).options.items():
            # A value takes the place of an equal one before it, and of a button of that text.
            targets.update(dict.fromkeys(values, name))
        return targets

    def text(self, session: Session, instruction: str) -> str:
        """The page in mode ``text``: stripped text nodes joined by ``" [SEP] "``."""
        blocks = self._blocks(session, instruction)
        return SEPARATOR.join([block.plain for block in blocks if block.nodes])

    def text_rich(self, session: Session, instruction: str) -> str:
        """The page in mode ``text_rich``: a node a line, with marks around what can be clicked."""
        url = page_url(session)
        lines: list[str] = []
        clicked: list[str] = []
        for block in self._blocks(session, instruction):
            for kind, text in block.nodes:
                mark = "button"
                # The original looks for the value in the url, where other letters than ASCII
                # are escaped and a quoted keyword counts.
                if kind == "option" and f'"{text}"' in url:
                    mark = "clicked button"
                    clicked.append(f"You have clicked {text}.\n")
                elif kind == "link" and text in session.visited:
                    mark = "clicked button"
                lead = {"option": "  ", "link": "\n"}.get(kind, "")
                lines.append(text if kind == "text" else f"{lead}[{mark}] {text} [{mark}_]")
        return "".join(reversed(clicked)) + "".join(f"{line}\n" for line in lines)

    def _blocks(self, session: Session, instruction: str) -> list[Block]:
        if session.kind == "done":
            return [_done_block(session)]
        request = _nodes(instruction)
        if session.kind == "index":
            return [_block([*_texts("WebShop", "Instruction: "), *request, *_buttons("Search")])]
        head = [*_texts("Instruction:"), *request, *_buttons("Back to Search")]
        if session.kind == "results":
            head += _texts(f"Page {session.page} (Total results: {session.total})")
            head += _buttons("< Prev", "Next >") if session.page > 1 else _buttons("Next >")
            return [_block(head), *map(self._row, session.shown)]
        head += _buttons("< Prev")
        if session.kind == "item":
            return [_block(head), self._item(session.asin)]
        return [_block(head), self._sub_page(session.asin, session.sub_page)]

    def _write_row(self, asin: str) -> Block:
        product = self._product(asin)
        return _block([("link", asin), *_nodes(product.name), *_nodes(product.price_tag)])

    def _write_item(self, asin: str) -> Block:
        product = self._product(asin)
        nodes: list[tuple[NodeKind, str]] = []
        for name, values in product.options.items():
            nodes += _nodes(name)
            for value in values:
                nodes += _nodes(value, "option")
        nodes += _nodes(product.name)
        nodes += _texts(f"Price: {product.price_tag}", "Rating: N.A.")
        nodes += _buttons("Description", "Features", "Reviews")
        nodes += _buttons("Attributes", "Buy Now") if self._show_attrs else _buttons("Buy Now")
        return _block(nodes)

    def _write_sub_page(self, asin: str, sub_page: str) -> Block:
        product = self._product(asin)
        if sub_page == "Description":
            return _block(_nodes(product.description))
        if sub_page == "Features":
            return _block(node for bullet in product.bullets for node in _nodes(f" {bullet}"))
        if sub_page == "Attributes":
            nodes = [node for attribute in product.attributes for node in _nodes(f" {attribute}")]
            kinds = (product.category, product.query, product.product_category)
            return _block(nodes + [node for kind in kinds for node in _nodes(kind)])
        return _block([])  # the original never loads its reviews


def _done_block(session: Session) -> Block:
    options = options_json(dict(session.options))
    purchased = ["asin", session.asin, "options", options]
    for name in ("attrs", "category", "query", "product category"):
        purchased += [name, "None"]
    target = "asin,options,attrs,price upper,instuction text,category,product category,query"
    return _block(
        _texts(
            *("Thank you for shopping with us!", "Your code: ", "None"),
            *(" (Paste it in your MTurk interface.)", "Purchased", *purchased),
            *("Target", *target.split(","), "Goal ", "None"),
            *("Reward", "Your score (min 0.0, max 1.0)", str(session.reward)),
            *("Reward Details ", "None"),
        )
    )
