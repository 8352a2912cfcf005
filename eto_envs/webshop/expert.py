"""An expert shopper that knows the goal and takes a short, natural route to the best reward.

It searches with words that a person would use, opens the product from which the goal was made,
chooses the relevant options and buys it. If the original's reward rules do not give this product
the full reward (a requested "rosewood" is compared with "rose"), it looks for a better one among
the results. The original has no such expert; ETO's expert trajectories are a data set. Not here:
the rules (`engine`), against which every plan is tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

from eto_envs.webshop.data.records import Goal, Product
from eto_envs.webshop.engine.engine import N_PER_PAGE, WebShopEngine
from eto_envs.webshop.engine.pages import Session
from eto_envs.webshop.engine.reward import (
    Wanted,
    get_reward,
    option_matches,
    token_set_ratio,
    wanted_options,
)

MAX_ACTIONS = 10  # the step limit of ETO's protocol
MAX_PAGES = 5
SHORT_NAME, LONG_NAME = 5, 10  # words of a product's name to include in a query
PERFECT = 1.0

#: Plans and their rewards by engine and goal index; freed together with the engine.
_plans: WeakKeyDictionary[WebShopEngine, dict[int, tuple[list[str], float]]] = WeakKeyDictionary()

Choice = tuple[str, ...]  # the values to click


class _Purchase(NamedTuple):
    """A product to buy, with the option values to choose and the resulting reward."""

    reward: float
    asin: str
    choice: Choice


def plan(engine: WebShopEngine, goal: Goal) -> list[str]:
    """The expert's actions, from the search page to the purchase.

    Args:
        engine: the engine of the shop, on which the plan is tested.
        goal: one of the goals of this shop.

    Returns:
        At most `MAX_ACTIONS` actions, typically 3 to 5, with the highest reward found: that of the
        goal's own product, or of another product among the results if it gives more. If no query
        finds a product, a single search.
    """
    queries = list(_queries(engine.shop.product(goal.asin), goal))
    own = _best_purchase(engine, goal, goal.asin)
    best = _actions(engine, queries, own)
    if own.reward >= PERFECT and best:
        return best
    # Ties go to the goal's own product, then to the first result of the more natural query.
    best_reward = own.reward if best else -1.0
    for asin in _found_products(engine, queries):
        other = _best_purchase(engine, goal, asin)
        if other.reward > best_reward and (actions := _actions(engine, queries, other)):
            best, best_reward = actions, other.reward
        if best_reward >= PERFECT:
            break
    return best or [f"search[{queries[0]}]"]


def remaining_plan(engine: WebShopEngine, session: Session) -> list[str]:
    """The expert's remaining actions, from any state of a session.

    Args:
        engine: the engine of the shop.
        session: the current state, on any page.

    Returns:
        The shortest suffix of the goal's `plan` that leads to the reward of the plan. The whole
        plan does so from every page, because it begins with a search.
    """
    plans = _plans.setdefault(engine, {})
    if session.goal_index not in plans:
        actions = plan(engine, engine.shop.goals[session.goal_index])
        reward = _reward_of(engine, engine.start(session.goal_index), actions)
        plans[session.goal_index] = actions, reward
    actions, reward = plans[session.goal_index]
    for start in range(len(actions) - 1, 0, -1):
        if _reward_of(engine, session, actions[start:]) >= reward:
            return actions[start:]
    return list(actions)


def next_action(engine: WebShopEngine, session: Session) -> str:
    """The expert's next action: the first of `remaining_plan`."""
    return remaining_plan(engine, session)[0]


def _reward_of(engine: WebShopEngine, session: Session, actions: Sequence[str]) -> float:
    """The reward of the last purchase, or -1 if nothing is bought or an action is invalid."""
    reward = -1.0
    for action in actions:
        outcome = engine.step(session, action)
        if not outcome.is_valid:
            return -1.0
        session = outcome.session
        reward = outcome.reward if outcome.done else reward
    return reward


def _queries(product: Product, goal: Goal) -> Iterator[str]:
    """Queries, starting with the most natural; longer ones are more likely to find the product."""
    options = goal.options if isinstance(goal.options, tuple) else tuple(goal.options.values())
    words = product.name.split()
    short_name, long_name = " ".join(words[:SHORT_NAME]), " ".join(words[:LONG_NAME])
    yield from (
        _joined(goal.attributes[0], product.query),
        _joined(*goal.attributes[:2], product.query),
        _joined(product.query, *options),
        _joined(*goal.attributes, product.query),
        _joined(*goal.attributes, product.query, *options),
        _joined(short_name),
        _joined(product.query, short_name),
        _joined(long_name),
        _joined(*goal.attributes, long_name),
        _joined(product.name),
    )


def _joined(*phrases: str) -> str:
    """The phrases as one query without brackets, with each word once."""
    text = " ".join(phrases).lower().replace("[", " ").replace("]", " ")
    return " ".join(dict.fromkeys(text.split()))


def _found_products(engine: WebShopEngine, queries: Sequence[str]) -> list[str]:
    """The products that the queries find, without duplicates."""
    found = (asin for query in queries for asin in engine.shop.search(query))
    return list(dict.fromkeys(found))


def _actions(engine: WebShopEngine, queries: Sequence[str], purchase: _Purchase) -> list[str]:
    """The actions for a purchase, with the query that ranks it best; empty if none finds it."""
    # Search, product and "buy now" are three actions; options and pages share what is left.
    best_page = min(MAX_PAGES, MAX_ACTIONS - 3 - len(purchase.choice)) + 1
    best_query = ""
    for query in queries:
        results = list(engine.shop.search(query))
        if purchase.asin not in results:
            continue
        page = results.index(purchase.asin) // N_PER_PAGE + 1
        if page < best_page:
            best_page, best_query = page, query
        if page == 1:
            break
    if not best_query:
        return []
    turns = ["click[next >]"] * (best_page - 1)
    clicks = [f"click[{value}]" for value in (purchase.asin.lower(), *purchase.choice, "buy now")]
    return [f"search[{best_query}]", *turns, *clicks]


def _best_purchase(engine: WebShopEngine, goal: Goal, asin: str) -> _Purchase:
    shop = engine.shop
    product = shop.product(asin)
    chosen = _best_options(engine, Session(goal.index, "item", asin=asin), product, goal)
    options = dict(chosen)
    reward, _ = get_reward(product, goal, shop.product(goal.asin), shop.price_usd(asin), options)
    return _Purchase(reward, asin, tuple(options.values()))


def _best_options(
    engine: WebShopEngine, page: Session, product: Product, goal: Goal
) -> tuple[tuple[str, str], ...]:
    """The options that satisfy the most requests with the fewest clicks, as name and value."""
    wanted = wanted_options(goal)
    # Dynamic programming over option names, each of which takes one value: for every set of
    # satisfied requests, the choice with the fewest clicks.
    choices: dict[frozenset[int], tuple[tuple[str, str], ...]] = {frozenset(): ()}
    for name, values in product.options.items():
        offers = _offers(engine, page, name, values, wanted)
        for satisfied, chosen in list(choices.items()):
            for more, value in offers.items():
                union, longer = satisfied | more, (*chosen, (name, value))
                if union not in choices or len(longer) < len(choices[union]):
                    choices[union] = longer
    return max(choices.items(), key=lambda item: (len(item[0]), -len(item[1])))[1]


def _offers(
    engine: WebShopEngine,
    page: Session,
    name: str,
    values: Sequence[str],
    wanted: Sequence[Wanted],
) -> dict[frozenset[int], str]:
    """For each set of requested options that a value satisfies, the closest such value."""
    offers: dict[frozenset[int], tuple[int, str]] = {}
    for value in values:
        satisfied = frozenset(i for i, want in enumerate(wanted) if option_matches(value, want))
        if not satisfied:
            continue
        # Some values cannot be clicked: those with brackets, or that occur under two names.
        if engine.step(page, f"click[{value}]").session.options != ((name, value),):
            continue
        closeness = max(_closeness(value, wanted[i]) for i in satisfied)
        if satisfied not in offers or closeness > offers[satisfied][0]:
            offers[satisfied] = (closeness, value)
    return {satisfied: value for satisfied, (_, value) in offers.items()}


def _closeness(value: str, wanted: Wanted) -> int:
    """The similarity of a value to a requested option, 0 to 100; 101 if they are equal."""
    text = wanted if isinstance(wanted, str) else wanted[1]
    return 101 if value == text else token_set_ratio(value, text)
