"""An expert shopper that knows the goal: a short, natural way to the best reward it can reach.

It searches with words a person would use, opens the product the goal was made from, chooses the
options that count and buys. Where the original's reward rules deny that product a full reward (a
wanted "rosewood" is compared with "rose"), it looks for one among the results that gets more. The
original has no such expert; ETO's expert trajectories are a data set. Not here: the rules
themselves (`engine`, `reward`), which every plan is tried on.
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
SHORT_NAME, LONG_NAME = 5, 10  # words of a product's name that a query may take over
PERFECT = 1.0

#: Plans and their rewards by engine and goal index, as `next_action` makes them; gone with their
#: engine.
_plans: WeakKeyDictionary[WebShopEngine, dict[int, tuple[list[str], float]]] = WeakKeyDictionary()

Choice = tuple[str, ...]  # the values to click


class _Purchase(NamedTuple):
    """A product to buy, with the values to choose and the reward this brings."""

    reward: float
    asin: str
    choice: Choice


def plan(engine: WebShopEngine, goal: Goal) -> list[str]:
    """The actions of an expert, from the search page to the purchase.

    Args:
        engine: the shop's engine; the plan is tried on it.
        goal: one of the goals of the engine's shop.

    Returns:
        At most `MAX_ACTIONS` actions, typically 3 to 5, with the highest reward found: that of the
        goal's own product, or of another product among the results if that one brings more. A
        single search that finds nothing if no query finds anything.
    """
    queries = list(_queries(engine.shop.product(goal.asin), goal))
    own = _best_purchase(engine, goal, goal.asin)
    best = _actions(engine, queries, own)
    if own.reward >= PERFECT and best:
        return best
    # Ties go to the goal's own product, then to what the more natural query finds first.
    best_reward = own.reward if best else -1.0
    for asin in _found_products(engine, queries):
        other = _best_purchase(engine, goal, asin)
        if other.reward > best_reward and (actions := _actions(engine, queries, other)):
            best, best_reward = actions, other.reward
        if best_reward >= PERFECT:
            break
    return best or [f"search[{queries[0]}]"]


def remaining_plan(engine: WebShopEngine, session: Session) -> list[str]:
    """What the expert does from here, from any state of a session.

    Args:
        engine: the shop's engine.
        session: the present state, on whatever page.

    Returns:
        The shortest end of the goal's `plan` that still leads to the plan's reward. The whole plan
        does so from every page, because a search does.
    """
    plans = _plans.setdefault(engine, {})
    if session.goal_index not in plans:
        actions = plan(engine, engine.shop.goals[session.goal_index])
        aim = _reward_of(engine, engine.start(session.goal_index), actions)
        plans[session.goal_index] = actions, aim
    actions, aim = plans[session.goal_index]
    for start in range(len(actions) - 1, 0, -1):
        if _reward_of(engine, session, actions[start:]) >= aim:
            return actions[start:]
    return list(actions)


def next_action(engine: WebShopEngine, session: Session) -> str:
    """What the expert does next: the first action of `remaining_plan`."""
    return remaining_plan(engine, session)[0]


def _reward_of(engine: WebShopEngine, session: Session, actions: Sequence[str]) -> float:
    """The last purchase's reward, or -1 if nothing is bought or an action is invalid."""
    reward = -1.0
    for action in actions:
        outcome = engine.step(session, action)
        if not outcome.is_valid:
            return -1.0
        session = outcome.session
        reward = outcome.reward if outcome.done else reward
    return reward


def _queries(product: Product, goal: Goal) -> Iterator[str]:
    """Search texts, the most natural first, then longer ones that find the product more surely."""
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
    """The phrases as one query that an action can carry, each word once."""
    text = " ".join(phrases).lower().replace("[", " ").replace("]", " ")
    return " ".join(dict.fromkeys(text.split()))


def _found_products(engine: WebShopEngine, queries: Sequence[str]) -> list[str]:
    found = (asin for query in queries for asin in engine.shop.search(query))
    return list(dict.fromkeys(found))


def _actions(engine: WebShopEngine, queries: Sequence[str], purchase: _Purchase) -> list[str]:
    """The way to a purchase by the first query that finds it soonest; empty if there is none."""
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
    """Option names and values that satisfy the most wanted options with the fewest clicks."""
    wanted = wanted_options(goal)
    # By what they satisfy: the cheapest choices so far. An option name takes one value.
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
    """For each set of wanted options that a value satisfies: the value that comes closest."""
    offers: dict[frozenset[int], tuple[int, str]] = {}
    for value in values:
        satisfied = frozenset(i for i, want in enumerate(wanted) if option_matches(value, want))
        if not satisfied:
            continue
        # Some values cannot be clicked: brackets, equal values under two names.
        if engine.step(page, f"click[{value}]").session.options != ((name, value),):
            continue
        closeness = max(_closeness(value, wanted[i]) for i in satisfied)
        if satisfied not in offers or closeness > offers[satisfied][0]:
            offers[satisfied] = (closeness, value)
    return {satisfied: value for satisfied, (_, value) in offers.items()}


def _closeness(value: str, wanted: Wanted) -> int:
    text = wanted if isinstance(wanted, str) else wanted[1]
    return 101 if value == text else token_set_ratio(value, text)
