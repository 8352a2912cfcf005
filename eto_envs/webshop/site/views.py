"""The pages of the site: from a visit to HTML.

The text nodes inside ``#page`` are those of the original's page, so that its text equals the
observation of `ETO-WebShop-v0`; everything around it (header, notices, the verdict) is ours. Jinja2
escapes everything. Not here: the effects of actions (`eto_envs.webshop.engine`) and HTTP (`app`).
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
from eto_envs.webshop.site.sessions import Visit, Visits

TEMPLATES = {
    "index": "search.html",
    "results": "results.html",
    "item": "item.html",
    "sub": "sub_page.html",
    "done": "done.html",
}
N_TASKS_PER_PAGE = 20


class SiteOptions(NamedTuple):
    """The appearance and limits of the site.

    Attributes:
        play: whether the site is for people, with a list of tasks, a step counter and the verdict.
        pictures: whether to show the pictures of products, which are on other servers.
        max_query_chars: the maximum length of a query.
    """

    play: bool = False
    pictures: bool = False
    max_query_chars: int = 1000


class Option(NamedTuple):
    """A value of an option group.

    Attributes:
        value: the value.
        is_chosen: whether it is selected.
        can_be_chosen: whether an action can choose it: of two equal values, only the last can be
            chosen, and values with brackets cannot.
    """

    value: str
    is_chosen: bool
    can_be_chosen: bool


class Line(NamedTuple):
    """A line of the verdict: a requirement, and whether the purchased product meets it."""

    term: str
    wanted: str
    is_met: bool


@functools.cache
def _environment() -> Any:
    jinja2 = require("jinja2", extra="browser")
    markupsafe = require("markupsafe", extra="browser")

    def write(value: Any) -> Any:
        # Browsers convert a carriage return to a line feed unless it is a character reference.
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
    # Texts of products can contain unpaired surrogates, which UTF-8 cannot encode.
    return text.encode("utf-8", "replace").decode()


def error_page(status: int, reason: str, detail: str, options: SiteOptions) -> str:
    """The page for a request that is rejected."""
    return _render("error.html", site=options, status=status, reason=reason, detail=detail)


class TaskRow(NamedTuple):
    """A task in the list, and the number of finished visits."""

    task: Task
    n_finished: int


def task_list(visits: Visits, page: int, finished: Mapping[str, int], options: SiteOptions) -> str:
    """A page of the list of tasks, with `N_TASKS_PER_PAGE` tasks; pages are numbered from 1.

    Raises:
        IndexError: there is no such page.
    """
    n_pages = max(1, -(-len(visits.tasks) // N_TASKS_PER_PAGE))  # rounded up
    if not 1 <= page <= n_pages:
        raise IndexError(f"pages are numbered 1 to {n_pages}")
    start = (page - 1) * N_TASKS_PER_PAGE
    rows = [
        TaskRow(task, finished.get(task.id, 0))
        for task in visits.tasks[start : start + N_TASKS_PER_PAGE]
    ]
    return _render(
        "tasks.html",
        site=options,
        tasks=visits.tasks,
        rows=rows,
        page=page,
        n_pages=n_pages,
        n_finished=sum(finished.values()),
    )


def visit_page(visits: Visits, visit: Visit, options: SiteOptions) -> str:
    """The current page of a visit."""
    engine, session = visits.engine, visit.session
    names: dict[str, Any] = {
        "site": options,
        "visit": visit,
        "session": session,
        "instruction": visit.task.goal,
        "limit": visits.limit(visit.task),
        "has_search_bar": engine.has_search_bar(session),
        "clickables": engine.clickables(session),
    }
    if session.kind == "results":
        names["products"] = [engine.shop.product(asin) for asin in session.shown]
    if session.kind in ("item", "sub"):
        product = engine.shop.product(session.asin)
        names["product"] = product
        names["groups"] = _option_groups(engine, visit, product)
    if session.kind == "done":
        names["options_json"] = options_json(dict(session.options))
    if options.play and visit.end:
        names["verdict"] = verdict(engine, visit)
        names["wanted"] = engine.shop.product(engine.shop.goals[session.goal_index].asin)
    if visit.end == "out of steps":
        return _render("over.html", **names)
    return _render(TEMPLATES[session.kind], **names)


def _option_groups(
    engine: WebShopEngine, visit: Visit, product: Product
) -> Sequence[tuple[str, list[Option]]]:
    chosen = dict(visit.session.options)
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


def verdict(engine: WebShopEngine, visit: Visit) -> list[Line]:
    """The requirements of the goal, for each term of the reward, and whether they are met."""
    session, shop = visit.session, engine.shop
    goal = shop.goals[session.goal_index]
    bought = shop.product(session.asin) if session.kind == "done" else None
    options = dict(session.options).values() if bought else ()
    terms = visit.reward_info or {}
    r_type = terms.get("r_type", 0.0)
    kind = "the requested kind of product"
    if bought is not None and r_type < 1.0:
        kind += f" (all other terms count {r_type:.0%})"
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
