"""The content of pages, as text.

`Session` is the state of one shopper. `Pages` determines what can be clicked and writes a page in
the modes ``text`` and ``text_rich``. There are also functions for URLs and for previous
observations. The rules are those of `envs/web_agent_text_env.py` (`get_available_actions`,
`convert_html_to_text`) of princeton-nlp/WebShop at commit 64fa2a5, which extracts links and visible
text nodes from HTML; here, the same nodes are generated directly. Not here: the HTML (`html`) and
the effects of actions (`engine`).
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
    """The state of one shopper: everything that pages and later states depend on.

    Sessions are immutable, hashable and picklable: storing one is a snapshot, and stepping from it
    twice is a fork.

    Attributes:
        goal_index: the index of the goal; also the id of the session in URLs.
        kind: the kind of the current page.
        keywords: the words of the last search.
        page: the number of the results page, from 1 (pages 0 and below are empty).
        total: the number of results of the last search.
        shown: the products on the results page.
        asin: the current or last product; empty if none has been opened.
        options: the chosen option names and values, in the order in which they were chosen.
        visited: the products opened since the search page, in order.
        sub_page: ``"Description"``, ``"Features"``, ``"Reviews"`` or ``"Attributes"``.
        n_draws: the number of random result lists drawn so far.
        reward: the reward of the last purchase, in [0, 1].
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
    """The URL of the page, as in the original; nothing in it is percent-encoded."""
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
    """The instruction, as the original returns it separately from the page."""
    return f"Instruction: {_collapsed(instruction)}"


def with_history(
    observation: str,
    observations: Sequence[str],
    actions: Sequence[str],
    *,
    n_observations: int,
    n_actions: int,
) -> str:
    """Prepend previous observations and actions to an observation, oldest first.

    Args:
        observation: the current observation.
        observations: the previous ones, starting with that of `reset`.
        actions: all actions so far.
        n_observations: the number of previous observations to include.
        n_actions: the number of previous actions to include.
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
    """A sequence of text nodes, and their representation in mode ``text``."""

    nodes: tuple[tuple[NodeKind, str], ...]
    plain: str


def _block(nodes: Iterable[tuple[NodeKind, str]]) -> Block:
    kept = tuple(nodes)
    return Block(kept, SEPARATOR.join(text.strip() for _, text in kept))


def _collapsed(content: str) -> str:
    """The content of an element, as Beautiful Soup normalises it.

    Content that consists of ASCII white space becomes one line feed if it contains one, or else one
    space.
    """
    if not content or content.strip(" \n\t\f\r"):
        return content
    return "\n" if "\n" in content else " "


def _nodes(content: str, kind: NodeKind = "text") -> list[tuple[NodeKind, str]]:
    """The text node of an element with this content, if it has one.

    The original omits nodes that consist of a line feed, and keeps spaces as empty segments.
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
        """Write pages about the products of a catalogue.

        Args:
            product: returns the product with a given id.
            show_attrs: whether product pages have the button ``Attributes``.
        """
        self._product = product
        self._show_attrs = show_attrs
        self._row = functools.lru_cache(N_CACHED_PRODUCTS)(self._write_row)
        self._item = functools.lru_cache(N_CACHED_PRODUCTS)(self._write_item)
        self._sub_page = functools.lru_cache(N_CACHED_PRODUCTS)(self._write_sub_page)
        self._item_targets = functools.lru_cache(N_CACHED_PRODUCTS)(self._find_item_targets)

    def targets(self, session: Session) -> Mapping[str, str | None]:
        """What can be clicked: labels, in lower case and the original's order, with their targets.

        The target is a product on a results page, the name of an option on a product page, and None
        for a button.
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
            # A value replaces an earlier one with the same text, or a button with that label.
            targets.update(dict.fromkeys(values, name))
        return targets

    def text(self, session: Session, instruction: str) -> str:
        """The page in mode ``text``: stripped text nodes joined by ``" [SEP] "``."""
        blocks = self._blocks(session, instruction)
        return SEPARATOR.join([block.plain for block in blocks if block.nodes])

    def text_rich(self, session: Session, instruction: str) -> str:
        """The page in mode ``text_rich``: one node per line, with marks around clickable ones."""
        url = page_url(session)
        lines: list[str] = []
        clicked: list[str] = []
        for block in self._blocks(session, instruction):
            for kind, text in block.nodes:
                mark = "button"
                # The original looks for the value in the URL, where non-ASCII characters are
                # escaped, and where it also finds quoted keywords.
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
        return _block([])  # the original never loads the reviews


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
