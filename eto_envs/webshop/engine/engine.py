"""The effect of actions: WebShop's server and browser as a pure function of an immutable state.

The rules are those of `envs/web_agent_text_env.py` (`WebAgentTextEnv`, `SimServer`, `SimBrowser`)
and `engine/engine.py` of princeton-nlp/WebShop at commit 64fa2a5, in the version of
Yifan-Song793/ETO at commit a2fc5da. Episodes do not end here: actions after a purchase have the
same effect as in the original. Not here: products, prices and search (`Shop`), the content of pages
(`pages`, `html`), the step limit and everything else about episodes.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from eto_envs.errors import BackendError
from eto_envs.webshop.data.records import Goal, Product
from eto_envs.webshop.engine.html import HtmlPages
from eto_envs.webshop.engine.pages import (
    SUB_PAGES,
    Pages,
    Session,
    instruction_text,
    page_url,
)
from eto_envs.webshop.engine.reward import get_reward
from eto_envs.webshop.search.index import TooManyTermsError

__all__ = ["Outcome", "ReferenceCrash", "Session", "Shop", "WebShopEngine", "parse_action"]

KEYWORDS = "<keywords>"
"""What stands for any words in the list of admissible actions."""

N_CACHED_GOALS = 4096
N_PER_PAGE = 10
N_RANDOM = 50  # number of results of search[<r>]
PAGE_NAMES = ("search_results", "item_page", "item_sub_page", "done")
#: The change of the page number by a button, depending on the page it is on.
TURNS = {
    ("next >", "search_results"): 1,
    ("< prev", "search_results"): -1,
    ("< prev", "item_page"): 0,
}


class Shop(Protocol):
    """What the engine requires of a dataset."""

    @property
    def asins(self) -> Sequence[str]:
        """The ids of all products, in catalogue order."""

    @property
    def goals(self) -> Sequence[Goal]:
        """The goals, in the original's shuffled order."""

    def product(self, asin: str, /) -> Product:
        """A product by its id; KeyError for an unknown one."""

    def price_usd(self, asin: str, /) -> float:
        """The price of a product, in US dollars."""

    def search(self, text: str, /) -> Sequence[str]:
        """At most 50 product ids, best first; TooManyTermsError beyond 1,024 distinct terms."""

    def in_category(self, category: str, /) -> Sequence[str]:
        """The products of a category, in catalogue order."""

    def of_query(self, query: str, /) -> Sequence[str]:
        """The products crawled under a query, in catalogue order."""


class ReferenceCrash(BackendError):
    """The original raises an exception here (only with `strict_reference=True`).

    Attributes:
        error_type: the name of the original's exception type.
        error_message: its message.
    """

    def __init__(self, error_type: str, error_message: str) -> None:
        """Wrap the original's exception."""
        super().__init__(f"the original raises {error_type}: {error_message}")
        self.error_type = error_type
        self.error_message = error_message

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by type and message."""
        return type(self), (self.error_type, self.error_message)


class Outcome(NamedTuple):
    """The result of an action.

    Attributes:
        session: the new state; unchanged after an invalid action.
        reward: the reward of a purchase, in [0, 1]; otherwise 0.
        done: whether the action was a purchase.
        is_valid: whether the original acts on the action or lists it as clickable. A search for the
            placeholder `KEYWORDS` itself has the original's results, but is not valid.
        reward_info: the terms of the reward (`reward.get_reward`) of a purchase; otherwise None.
    """

    session: Session
    reward: float = 0.0
    done: bool = False
    is_valid: bool = True
    reward_info: dict[str, Any] | None = None


def parse_action(action: str) -> tuple[str, str | None]:
    r"""Name and argument of an action: the groups of ``re.match(r"(.+)\[(.+)\]", action)``.

    Without a match, the action and None. The regular expression itself would take quadratic time in
    the number of opening brackets.
    """
    line, _, _ = action.partition("\n")
    end = line.rfind("]")
    start = line.rfind("[", 1, max(end - 1, 0))
    if start < 0:
        return action, None
    return line[:start], line[start + 1 : end]


class WebShopEngine:
    """The pages of a shop and the effects of clicks and searches; stateless."""

    def __init__(
        self,
        shop: Shop,
        *,
        show_attrs: bool = False,
        strict_reference: bool = False,
        seed: int = 0,
    ) -> None:
        """Serve a shop.

        Args:
            shop: products, prices, search and goals.
            show_attrs: whether item pages have the button ``Attributes``.
            strict_reference: raise `ReferenceCrash` where the original raises an exception, instead
                of treating the action as invalid.
            seed: the seed of the random products of ``search[<r>]``.
        """
        self.shop = shop
        self._strict_reference = strict_reference
        self._seed = seed
        self._pages = Pages(shop.product, show_attrs=show_attrs)
        self._goal = functools.lru_cache(N_CACHED_GOALS)(shop.goals.__getitem__)
        self._html = HtmlPages(shop.product, show_attrs=show_attrs)

    def start(self, goal_index: int) -> Session:
        """The search page of a goal.

        Raises:
            IndexError: there is no such goal.
        """
        if not 0 <= goal_index < len(self.shop.goals):
            n_goals = len(self.shop.goals)
            raise IndexError(f"goal index {goal_index} is not in the range 0 to {n_goals - 1}")
        return Session(goal_index)

    def step(self, session: Session, action: str) -> Outcome:
        """Carry out an action, which can be any string.

        Raises:
            ReferenceCrash: the original raises an exception, and `strict_reference` is set.
        """
        name, argument = parse_action(action)
        if argument is None or name not in ("search", "click"):
            return Outcome(session, is_valid=False)
        argument = argument.lower()
        if name == "search":
            # Every page accepts searches, whether it has a search bar or not.
            outcome = self._search(session, tuple(argument.split(" ")))
            return outcome._replace(is_valid=outcome.is_valid and argument.strip() != KEYWORDS)
        targets = self._pages.targets(session)
        if argument not in targets:
            return Outcome(session, is_valid=False)
        return self._click(session, argument, targets[argument])

    def clickables(self, session: Session) -> list[str]:
        """The labels that can be clicked, in lower case and the original's order."""
        return list(self._pages.targets(session))

    def has_search_bar(self, session: Session) -> bool:
        """Whether the page has a search bar (searching works without one, too)."""
        return session.kind == "index"

    def text(self, session: Session) -> str:
        """The page in mode ``text``."""
        return self._pages.text(session, self._instruction(session))

    def text_rich(self, session: Session) -> str:
        """The page in mode ``text_rich``."""
        return self._pages.text_rich(session, self._instruction(session))

    def html(self, session: Session) -> str:
        """The page in mode ``html``.

        Raises:
            MissingExtraError: jinja2 is not installed.
        """
        return self._html.html(session, self._instruction(session))

    def url(self, session: Session) -> str:
        """The URL of the page, as in the original."""
        return page_url(session)

    def instruction_text(self, session: Session) -> str:
        """The instruction, preceded by ``Instruction:``."""
        return instruction_text(self._instruction(session))

    def _instruction(self, session: Session) -> str:
        return self._goal(session.goal_index).instruction

    def _click(self, session: Session, name: str, target: str | None) -> Outcome:
        """Click on `name`.

        The order of the cases is the original's, which compares the label before it considers what
        kind of element was clicked.
        """
        if name == "search":
            return Outcome(session)
        if name == "buy now":
            return self._buy(session)
        if name == "back to search":
            return Outcome(Session(session.goal_index, n_draws=session.n_draws))
        if name in ("next >", "< prev"):
            url = page_url(session)
            # The original searches the whole URL for the names of pages, including the keywords.
            here = next((page for page in PAGE_NAMES if page in url), "")
            if (name, here) in TURNS:
                turn = TURNS[name, here]
                return self._search(session, session.keywords, session.page + turn)
        if name in SUB_PAGES:
            return Outcome(session._replace(kind="sub", sub_page=SUB_PAGES[name]))
        if target is not None and session.kind == "results":
            visited = session.visited
            if target not in visited:
                visited = (*visited, target)
            return Outcome(session._replace(kind="item", asin=target, visited=visited))
        if target is not None:
            options = tuple(({**dict(session.options), target: name}).items())
            return Outcome(session._replace(kind="item", options=options))
        return Outcome(session._replace(kind="item"))

    def _buy(self, session: Session) -> Outcome:
        shop, goal = self.shop, self._goal(session.goal_index)
        product, wanted = shop.product(session.asin), shop.product(goal.asin)
        price_usd, options = shop.price_usd(session.asin), dict(session.options)
        reward, terms = get_reward(product, goal, wanted, price_usd, options)
        return Outcome(session._replace(kind="done", reward=reward), reward, True, True, terms)

    def _search(self, session: Session, keywords: tuple[str, ...], page: int = 1) -> Outcome:
        try:
            found, n_draws = self._found(session, keywords)
        except ReferenceCrash:
            if self._strict_reference:
                raise
            # Differs from the reference: the action is invalid, and the page does not change.
            return Outcome(session, is_valid=False)
        # Page 0 is empty, like the slice from -10 to 0.
        shown = tuple(found[(page - 1) * N_PER_PAGE : page * N_PER_PAGE])
        results = session._replace(
            kind="results",
            keywords=keywords,
            page=page,
            total=len(found),
            shown=shown,
            asin="",
            options=(),
            n_draws=n_draws,
        )
        return Outcome(results)

    def _found(self, session: Session, keywords: tuple[str, ...]) -> tuple[Sequence[str], int]:
        """The results of a search, and the number of random result lists drawn so far."""
        command, *rest = keywords
        n_draws = session.n_draws
        if command == "<r>":
            return self._draw(session), n_draws + 1
        if command == "<a>":
            raise ReferenceCrash("TypeError", "'NoneType' object is not subscriptable")
        if command == "<c>":
            if not rest:
                raise ReferenceCrash("IndexError", "list index out of range")
            return self.shop.in_category(rest[0].strip()), n_draws
        if command == "<q>":
            return self.shop.of_query(" ".join(rest).strip()), n_draws
        try:
            return self.shop.search(" ".join(keywords)), n_draws
        except TooManyTermsError as error:
            message = (
                "JVM exception occurred: maxClauseCount is set to 1024"
                " org.apache.lucene.search.BooleanQuery$TooManyClauses"
            )
            raise ReferenceCrash("JavaException", message) from error

    def _draw(self, session: Session) -> list[str]:
        # Differs from the reference, which uses the global generator and raises an exception if
        # there are fewer than 50 products.
        asins = self.shop.asins
        draws = random.Random(f"{self._seed}/{session.goal_index}/{session.n_draws}")
        rows = draws.sample(range(len(asins)), min(N_RANDOM, len(asins)))
        return [asins[row] for row in rows]
