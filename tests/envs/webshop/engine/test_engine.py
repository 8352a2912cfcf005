from __future__ import annotations

import pickle
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_envs.errors import BackendError
from eto_envs.webshop.engine.engine import (
    Outcome,
    ReferenceCrash,
    Session,
    WebShopEngine,
    parse_action,
)

LAMP = ("search[lamp]", "click[b000000003]")
SOFA = ("search[sofa]", "click[s000000001]")


def after(engine: WebShopEngine, *actions: str, goal_index: int = 0) -> Session:
    session = engine.start(goal_index)
    for action in actions:
        session = engine.step(session, action).session
    return session


# --- actions ---------------------------------------------------------------------------------


@given(st.text(alphabet="ab[]\n ", max_size=30) | st.text(max_size=30))
def test_actions_are_parsed_as_the_original_pattern_does(action: str) -> None:
    match = re.match(r"(.+)\[(.+)\]", action)
    expected = match.groups() if match else (action, None)
    assert parse_action(action) == expected


def test_a_long_action_is_parsed_at_once(engine: WebShopEngine) -> None:
    session = engine.start(0)
    started_s = time.process_time()
    for action in ("[" * 100_000, "a[" * 50_000 + "]", "search[" + "x" * 100_000 + "]"):
        engine.step(session, action)
    assert time.process_time() - started_s < 20  # the pattern itself takes a minute


@pytest.mark.parametrize(
    "action",
    [
        "",
        "search[]",
        "click[]",
        "Search[lamp]",
        " search[lamp]",
        "search [lamp]",
        "search[a[b] c]",
        "buy[lamp]",
        "click[buy now]",
        "search",
        "\nsearch[lamp]",
    ],
)
def test_what_the_original_does_not_know_changes_nothing(
    engine: WebShopEngine, action: str
) -> None:
    session = engine.start(0)
    assert engine.step(session, action) == Outcome(session, 0.0, False, False, None)


@pytest.mark.parametrize("action", ["search[LAMP]", "search[lamp] now", "search[lamp]\nclick[x]"])
def test_case_and_what_follows_do_not_matter(engine: WebShopEngine, action: str) -> None:
    assert engine.step(engine.start(0), action).session == after(engine, "search[lamp]")


def test_a_blank_search_finds_nothing_and_is_valid(engine: WebShopEngine) -> None:
    outcome = engine.step(engine.start(0), "search[ ]")
    assert outcome.is_valid
    assert outcome.session.keywords == ("", "")
    assert outcome.session.total == 0


@pytest.mark.parametrize("action", ["search[<keywords>]", "search[<Keywords> ]"])
def test_the_placeholder_itself_is_searched_for_and_not_valid(
    engine: WebShopEngine, action: str
) -> None:
    session = engine.start(0)
    outcome = engine.step(session, action)
    assert not outcome.is_valid
    assert outcome.session.kind == "results"  # as in the original
    assert outcome.session.keywords == tuple(action[7:-1].lower().split(" "))
    assert engine.step(session, "search[<keywords> lamp]").is_valid


def test_click_search_is_listed_and_does_nothing(engine: WebShopEngine) -> None:
    session = engine.start(0)
    assert engine.clickables(session) == ["search"]
    assert engine.has_search_bar(session)
    assert engine.step(session, "click[Search]") == Outcome(session)


# --- pages -----------------------------------------------------------------------------------


def test_results_can_be_paged_without_end(engine: WebShopEngine) -> None:
    session = after(engine, "search[lamp]")
    assert engine.clickables(session)[:3] == ["back to search", "next >", "b000000000"]
    session = after(engine, "search[lamp]", *["click[next >]"] * 8)
    assert (session.page, session.total, session.shown) == (9, 23, ())
    assert engine.clickables(session) == ["back to search", "< prev", "next >"]
    session = engine.step(session, "click[< prev]").session
    assert session.page == 8


def test_item_page_lists_buttons_then_values(engine: WebShopEngine, shop: Any) -> None:
    buttons = ["back to search", "< prev", "description", "features", "reviews", "buy now"]
    values = ["black", "white | red", "small", "large [xl]"]
    session = after(engine, *LAMP)
    assert engine.clickables(session) == buttons + values
    assert not engine.has_search_bar(session)
    shown = WebShopEngine(shop, show_attrs=True)
    assert "attributes" in shown.clickables(session)


def test_values_with_brackets_cannot_be_clicked(engine: WebShopEngine) -> None:
    assert not engine.step(after(engine, *LAMP), "click[large [xl]]").is_valid


def test_an_option_takes_one_value_and_keeps_its_place(engine: WebShopEngine) -> None:
    session = after(engine, *LAMP, "click[black]", "click[small]", "click[white | red]")
    assert session.options == (("color", "white | red"), ("size", "small"))
    assert engine.url(session).endswith('/1/{"color": "white | red", "size": "small"}')


def test_options_live_through_sub_pages_only(engine: WebShopEngine) -> None:
    chosen = (*LAMP, "click[black]")
    assert after(engine, *chosen, "click[features]", "click[< prev]").options
    assert not after(engine, *chosen, "click[< prev]").options
    assert not after(engine, *chosen, "search[lamp]").options
    assert not after(engine, *chosen, "click[back to search]").options


def test_visited_products_are_kept_until_back_to_search(engine: WebShopEngine) -> None:
    session = after(engine, *LAMP, "click[< prev]", "click[b000000003]", *SOFA)
    assert session.visited == ("B000000003", "S000000001")
    assert after(engine, *LAMP, "click[back to search]") == engine.start(0)


def test_values_that_read_like_buttons_act_as_buttons(engine: WebShopEngine) -> None:
    session = after(engine, *SOFA)
    assert engine.clickables(session) == [
        *("back to search", "< prev", "description", "features", "reviews", "buy now"),
        *("rosewood", "same", "café", "search", "a | "),
    ]
    assert engine.step(session, "click[description]").session.kind == "sub"
    assert engine.step(session, "click[search]") == Outcome(session)


def test_of_equal_values_the_last_option_is_clicked(engine: WebShopEngine) -> None:
    assert after(engine, *SOFA, "click[same]").options == (("search", "same"),)


def test_trailing_blanks_belong_to_the_value(engine: WebShopEngine) -> None:
    session = after(engine, *SOFA)
    assert not engine.step(session, "click[a |]").is_valid
    assert engine.step(session, "click[a | ]").session.options == (("search", "a | "),)


def test_keywords_in_the_url_mislead_prev(engine: WebShopEngine) -> None:
    item = after(engine, "search[lamp search_results]", "click[b000000003]")
    session = engine.step(item, "click[< prev]").session
    assert (session.kind, session.page, session.shown, session.total) == ("results", 0, (), 23)
    sub = after(engine, "search[lamp item_page]", "click[b000000003]", "click[reviews]")
    assert engine.step(sub, "click[< prev]").session.kind == "results"


# --- searches by command ---------------------------------------------------------------------


def test_categories_and_queries_list_everything(engine: WebShopEngine) -> None:
    assert after(engine, "search[<c> garden]").total == 26
    assert after(engine, "search[<q> desk lamps]").total == 23
    assert after(engine, "search[<q> no such]").total == 0


def test_random_lists_are_drawn_anew_and_reproducible(shop: Any, engine: WebShopEngine) -> None:
    first = after(engine, "search[<r>]")
    assert first.total == 26  # all there are, of 50
    second = engine.step(first, "click[next >]").session
    again = engine.step(second, "click[< prev]").session
    assert (first.n_draws, second.n_draws, again.n_draws) == (1, 2, 3)
    assert again.shown != first.shown
    assert after(WebShopEngine(shop), "search[<r>]") == first
    assert after(WebShopEngine(shop, seed=1), "search[<r>]") != first
    assert after(engine, "search[<r>]", goal_index=1).shown != first.shown


CRASHES = {
    "search[<a> steel]": "TypeError",
    "search[<c>]": "IndexError",
    f"search[{' '.join(map(str, range(1025)))}]": "JavaException",
}


@pytest.mark.parametrize("action", CRASHES, ids=CRASHES.values())
def test_where_the_original_raises(shop: Any, engine: WebShopEngine, action: str) -> None:
    session = after(engine, *LAMP, "click[black]")
    assert engine.step(session, action) == Outcome(session, is_valid=False)
    with pytest.raises(ReferenceCrash) as caught:
        WebShopEngine(shop, strict_reference=True).step(session, action)
    assert isinstance(caught.value, BackendError)
    assert caught.value.error_type == CRASHES[action]
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.error_type, str(copy)) == (caught.value.error_type, str(caught.value))


# --- purchases -------------------------------------------------------------------------------


def test_a_purchase_is_rewarded_and_ends(engine: WebShopEngine) -> None:
    item = after(engine, *LAMP, "click[white | red]", "click[small]")
    outcome = engine.step(item, "click[Buy Now]")
    assert (outcome.reward, outcome.done, outcome.is_valid) == (1.0, True, True)
    assert outcome.reward_info is not None
    assert outcome.reward_info["r_option"] == 1.0
    assert engine.clickables(outcome.session) == []


def test_after_a_purchase_a_search_goes_on(engine: WebShopEngine) -> None:
    done = after(engine, *LAMP, "click[buy now]")
    assert engine.step(done, "click[buy now]") == Outcome(done, is_valid=False)
    again = engine.step(done, "search[lamp]")
    assert (again.is_valid, again.session.kind) == (True, "results")


@pytest.mark.parametrize("goal_index", [-1, 2])
def test_there_is_no_such_goal(engine: WebShopEngine, goal_index: int) -> None:
    with pytest.raises(IndexError, match="range 0 to 1"):
        engine.start(goal_index)


# --- properties ------------------------------------------------------------------------------

known = st.sampled_from(
    [
        *("search[lamp]", "search[sofa search_results]", "search[<r>]", "search[<c> garden]"),
        *("click[next >]", "click[< prev]", "click[back to search]", "click[buy now]"),
        *("click[b000000003]", "click[s000000001]", "click[s000000002]", "click[description]"),
        *("click[features]", "click[reviews]", "click[attributes]", "click[black]", "click[same]"),
    ]
)
anything = st.text(st.characters(), max_size=20)
actions = known | anything | anything.map("search[{}]".format) | anything.map("click[{}]".format)


@settings(deadline=None)
@given(st.lists(actions, max_size=12), st.booleans())
def test_any_text_is_an_action_and_any_moment_a_snapshot(
    engine: WebShopEngine, texts: list[str], show_attrs: bool
) -> None:
    engine = WebShopEngine(engine.shop, show_attrs=show_attrs)
    session = engine.start(0)
    for number, action in enumerate(texts):
        snapshot = pickle.loads(pickle.dumps(session))
        assert snapshot == session
        assert hash(snapshot) == hash(session)
        outcome = engine.step(session, action)
        assert engine.step(snapshot, action) == outcome
        assert 0.0 <= outcome.reward <= 1.0
        assert outcome.done == (outcome.reward_info is not None)
        assert outcome.is_valid or outcome.session == session
        session = outcome.session
        check_well_formed(engine, session, number)


def check_well_formed(engine: WebShopEngine, session: Session, number: int) -> None:
    assert session.page >= 0
    assert len(session.shown) <= min(10, session.total)
    assert session.n_draws <= number + 1
    assert bool(session.asin) == (session.kind in ("item", "sub", "done"))
    assert len(dict(session.options)) == len(session.options)
    for text in (engine.text(session), engine.text_rich(session), engine.html(session)):
        assert text
    for clickable in engine.clickables(session):
        if "[" not in clickable:
            assert engine.step(session, f"click[{clickable}]").is_valid


# --- recorded episodes -----------------------------------------------------------------------

RECORDED = [
    f"{kind}_{goals}{attributes}"
    for kind in ("text", "sloppy", "multi", "history")
    for goals in ("human", "synth")
    for attributes in (("", "_attrs") if kind == "multi" else ("",))
]


@pytest.mark.data
@pytest.mark.parametrize("stem", RECORDED)
def test_recorded_episodes(replay: Callable[[str], Iterator[Any]], stem: str) -> None:
    n_steps = 0
    reward_info = None
    for episode, record, engine, session, outcome, crash in replay(stem):
        if crash is not None:
            assert crash.error_type == record["error"]
            assert crash.error_message == record["error_msg"]
            continue
        assert record["available_actions"] == {
            "has_search_bar": engine.has_search_bar(session),
            "clickables": engine.clickables(session),
        }
        if outcome is None:
            assert engine.shop.goals[session.goal_index].asin == episode["goal"]["asin"]
            continue
        assert "error" not in record
        assert (outcome.reward, outcome.done) == (record["reward"], record["done"])
        assert engine.url(session) == record["url"]
        reward_info = outcome.reward_info if outcome.done else reward_info
        if record is episode["steps"][-1] and outcome.done:
            assert reward_info == episode["verbose_info"]
        n_steps += 1
    assert n_steps >= 35
