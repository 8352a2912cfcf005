"""What the site's pages show: from a trip to HTML.

What stands inside ``#page`` is, text node by text node, what the original's page has, so that it
reads as `ETO-WebShop-v0` observes it; everything around it (header, notices, the verdict) is ours.
Everything is escaped by Jinja2. Not here: what an action does (`eto_envs.webshop.engine`), HTTP
(`app`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eto_envs.errors import require
from eto_envs.tasks import Task
from eto_envs.webshop.data.records import Product
from eto_envs.webshop.engine.engine import WebShopEngine, parse_action
from eto_envs.webshop.engine.pages import options_json
from eto_envs.webshop.engine.reward import n_attributes_matched, option_matches, wanted_options
from eto_envs.webshop.site.sessions import Trip, Trips

TEMPLATES = {
    "index": "search.html",
    "results": "results.html",
    "item": "item.html",
    "sub": "sub_page.html",
    "done": "done.html",
}
N_TASKS_PER_PAGE = 20


class Look(NamedTuple):
    """How the site looks.

    Attributes:
        play: whether it is for people: a list of tasks, steps that are left, the verdict.
        pictures: whether to show the products' own pictures, which other servers send.
        max_query_chars: the longest search text.
    """

    play: bool = False
    pictures: bool = False
    max_query_chars: int = 1000


class Option(NamedTuple):
    """A value of an option group.

    Attributes:
        value: the value.
        is_chosen: whether it is selected.
        can_be_chosen: whether the engine takes a click on it for this value of this group: of
            two equal values only the last counts, and no action can say one with brackets.
    """

    value: str
    is_chosen: bool
    can_be_chosen: bool


class Line(NamedTuple):
    """A line of the verdict: what was wanted, and whether the bought product has it."""

    term: str
    wanted: str
    is_met: bool


@functools.cache
def _environment() -> Any:
    jinja2 = require("jinja2", extra="browser")
    markupsafe = require("markupsafe", extra="browser")

    def write(value: Any) -> Any:
        # A browser turns a carriage return into a line feed unless it is written as a reference.
        return markupsafe.Markup(str(markupsafe.escape(value)).replace("\r", "&#13;"))

    folder = Path(__file__).with_name("templates")
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        finalize=write,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _render(template: str, **names: Any) -> str:
    text: str = _environment().get_template(template).render(**names)
    # UTF-8 has no unpaired surrogates; a product text may.
    return text.encode("utf-8", "replace").decode()


def error_page(status: int, reason: str, detail: str, look: Look) -> str:
    """The page of a request that cannot be served."""
    return _render("error.html", look=look, status=status, reason=reason, detail=detail)


class TaskRow(NamedTuple):
    """A task on the list, and how often it was finished."""

    task: Task
    n_finished: int


def task_list(trips: Trips, page: int, finished: Mapping[str, int], look: Look) -> str:
    """The list of tasks, `N_TASKS_PER_PAGE` a page, from page 1.

    Raises:
        IndexError: there is no such page.
    """
    n_pages = max(1, -(-len(trips.tasks) // N_TASKS_PER_PAGE))
    if not 1 <= page <= n_pages:
        raise IndexError(f"pages go from 1 to {n_pages}")
    start = (page - 1) * N_TASKS_PER_PAGE
    rows = [
        TaskRow(task, finished.get(task.id, 0))
        for task in trips.tasks[start : start + N_TASKS_PER_PAGE]
    ]
    return _render(
        "tasks.html",
        look=look,
        tasks=trips.tasks,
        rows=rows,
        page=page,
        n_pages=n_pages,
        n_finished=sum(finished.values()),
    )


def trip_page(trips: Trips, trip: Trip, look: Look) -> str:
    """The present page of a trip."""
    engine, session = trips.engine, trip.session
    names: dict[str, Any] = {
        "look": look,
        "trip": trip,
        "session": session,
        "instruction": trip.task.goal,
        "limit": trips.limit(trip.task),
        "has_search_bar": engine.has_search_bar(session),
        "clickables": engine.clickables(session),
    }
    if session.kind == "results":
        names["products"] = [engine.shop.product(asin) for asin in session.shown]
    if session.kind in ("item", "sub"):
        product = engine.shop.product(session.asin)
        names["product"] = product
        names["groups"] = _option_groups(engine, trip, product)
    if session.kind == "done":
        names["options_json"] = options_json(dict(session.options))
    if look.play and trip.end:
        names["verdict"] = verdict(engine, trip)
        names["wanted"] = engine.shop.product(engine.shop.goals[session.goal_index].asin)
    if trip.end == "out of steps":
        return _render("over.html", **names)
    return _render(TEMPLATES[session.kind], **names)


def _option_groups(
    engine: WebShopEngine, trip: Trip, product: Product
) -> Sequence[tuple[str, list[Option]]]:
    chosen = dict(trip.session.options)
    last_group = {value: name for name, values in product.options.items() for value in values}
    return [
        (
            name,
            [
                Option(
                    value,
                    chosen.get(name) == value,
                    last_group[value] == name
                    and parse_action(f"click[{value}]") == ("click", value),
                )
                for value in values
            ],
        )
        for name, values in product.options.items()
    ]


def verdict(engine: WebShopEngine, trip: Trip) -> list[Line]:
    """What was wanted, term by term of the reward, and what of it was bought."""
    session, shop = trip.session, engine.shop
    goal = shop.goals[session.goal_index]
    bought = shop.product(session.asin) if session.kind == "done" else None
    options = dict(session.options).values() if bought else ()
    terms = trip.reward_info or {}
    r_type = terms.get("r_type", 0.0)
    kind = "the kind of product that was asked for"
    if bought is not None and r_type < 1.0:
        kind += f" (all else counts {r_type:.0%})"
    lines = [Line("Product", kind, r_type == 1.0)]
    for attribute in goal.attributes:
        met = bought is not None and n_attributes_matched(bought, (attribute,)) == 1
        lines.append(Line("Attribute", attribute, met))
    for option in wanted_options(goal):
        text = option if isinstance(option, str) else ": ".join(option)
        lines.append(Line("Option", text, any(option_matches(o, option) for o in options)))
    if goal.price_upper_usd < 1_000_000:
        cap = f"at most ${goal.price_upper_usd:.2f}"
        if bought is not None:
            cap += f" (it cost ${shop.price_usd(session.asin):.2f})"
        lines.append(Line("Price", cap, bool(terms.get("r_price", False))))
    return lines
