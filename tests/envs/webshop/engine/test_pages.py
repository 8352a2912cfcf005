from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eto_envs.webshop.engine.engine import Session, WebShopEngine
from eto_envs.webshop.engine.pages import with_history


def after(engine: WebShopEngine, *actions: str, goal_index: int = 0) -> Session:
    session = engine.start(goal_index)
    for action in actions:
        outcome = engine.step(session, action)
        assert outcome.is_valid, action
        session = outcome.session
    return session


SOFA = ("search[sofa]", "click[s000000001]")


def test_search_page(engine: WebShopEngine) -> None:
    session = engine.start(0)
    assert engine.text(session) == ("WebShop [SEP] Instruction: [SEP] find me a lamp [SEP] Search")
    assert engine.text_rich(session) == (
        "WebShop\nInstruction: \nfind me a lamp\n[button] Search [button_]\n"
    )
    assert engine.url(session) == "http://127.0.0.1:3000/0"
    assert engine.instruction_text(session) == "Instruction: find me a lamp"


def test_results_page_lists_ten_products(engine: WebShopEngine) -> None:
    text = engine.text(after(engine, "search[lamp]"))
    assert text.startswith(
        "Instruction: [SEP] find me a lamp [SEP] Back to Search"
        " [SEP] Page 1 (Total results: 23) [SEP] Next > [SEP] B000000000"
        " [SEP] Lamp number 0 of oak [SEP] $12.5 [SEP] B000000001"
    )
    assert text.count("$12.5") == 10


def test_item_page_shows_every_option_and_not_which_is_chosen(engine: WebShopEngine) -> None:
    session = after(engine, "search[lamp]", "click[b000000003]")
    text = engine.text(session)
    assert " [SEP] color [SEP] black [SEP] white | red [SEP] size [SEP] small [SEP]" in text
    assert text.endswith("Description [SEP] Features [SEP] Reviews [SEP] Buy Now")
    chosen = engine.step(session, "click[black]").session
    assert engine.text(chosen) == text


def test_blank_bullets_are_empty_segments(engine: WebShopEngine) -> None:
    text = engine.text(after(engine, "search[lamp]", "click[b000000003]", "click[features]"))
    assert text.endswith("< Prev [SEP] Bright [SEP]  [SEP] Made of steel")


@pytest.mark.parametrize("sub_page", ["description", "features", "reviews"])
def test_empty_sub_pages_end_after_the_buttons(engine: WebShopEngine, sub_page: str) -> None:
    if sub_page == "description":
        session = after(engine, *SOFA, "click[< prev]", "click[s000000001]")
        session = session._replace(kind="sub", sub_page="Description")
    else:
        session = after(engine, *SOFA, f"click[{sub_page}]")
    assert engine.text(session).endswith("Back to Search [SEP] < Prev")


def test_attributes_page(shop: Any) -> None:
    engine = WebShopEngine(shop, show_attrs=True)
    session = after(engine, "search[lamp]", "click[b000000003]")
    assert engine.text(session).endswith("Reviews [SEP] Attributes [SEP] Buy Now")
    session = engine.step(session, "click[attributes]").session
    assert engine.text(session).endswith(
        "< Prev [SEP] easy clean [SEP] living room [SEP] garden [SEP] desk lamps"
        " [SEP] Home › Lighting › Lamps"
    )


def test_rich_text_marks_what_was_clicked_last_first(engine: WebShopEngine) -> None:
    session = after(engine, "search[lamp]", "click[b000000003]", "click[black]", "click[small]")
    rich = engine.text_rich(session)
    assert rich.startswith("You have clicked small.\nYou have clicked black.\nInstruction:\n")
    assert "  [clicked button] black [clicked button_]\n" in rich
    assert "  [button] white | red [button_]\n" in rich
    back = engine.text_rich(engine.step(session, "click[< prev]").session)
    assert "\n[clicked button] B000000003 [clicked button_]\n" in back
    assert "\n[button] B000000002 [button_]\n" in back


def test_rich_text_misses_letters_that_the_url_escapes(engine: WebShopEngine) -> None:
    assert "clicked" not in engine.text_rich(after(engine, *SOFA, "click[café]"))


def test_rich_text_takes_a_quoted_keyword_for_a_choice(engine: WebShopEngine) -> None:
    session = after(engine, 'search["black" lamp]', "click[b000000003]")
    assert "You have clicked black." in engine.text_rich(session)


def test_done_page(engine: WebShopEngine) -> None:
    session = after(engine, *SOFA, "click[same]", "click[buy now]")
    text = engine.text(session)
    assert text.startswith("Thank you for shopping with us! [SEP] Your code: [SEP] None")
    assert ' [SEP] asin [SEP] S000000001 [SEP] options [SEP] {"search": "same"} [SEP]' in text
    assert text.endswith("0.0 [SEP] Reward Details [SEP] None")
    assert engine.url(session).endswith("/done/0/S000000001/{'search': 'same'}")


def test_history_is_interleaved_oldest_first() -> None:
    def shown(n_observations: int, n_actions: int) -> str:
        return with_history(
            "o2", ["o0", "o1"], ["a1", "a2"], n_observations=n_observations, n_actions=n_actions
        )

    assert shown(0, 0) == "o2"
    assert shown(1, 1) == "o1 [SEP] a2 [SEP] o2"
    assert shown(5, 1) == "o0 [SEP] o1 [SEP] a2 [SEP] o2"
    assert shown(0, 2) == "a1 [SEP] a2 [SEP] o2"


@pytest.mark.data
@pytest.mark.parametrize("stem", ["text_human", "text_synth", "sloppy_human", "sloppy_synth"])
def test_recorded_texts(replay: Callable[[str], Iterator[Any]], stem: str) -> None:
    n_pages = 0
    for moment in replay(stem):
        if moment.crash is None:
            assert moment.engine.text(moment.session) == moment.record["observation"]
            n_pages += 1
    assert n_pages > 300


@pytest.mark.data
@pytest.mark.parametrize(
    "stem", ["multi_human", "multi_synth", "multi_human_attrs", "multi_synth_attrs"]
)
@pytest.mark.parametrize("mode", ["text", "text_rich", "url", "instruction_text"])
def test_recorded_modes(replay: Callable[[str], Iterator[Any]], stem: str, mode: str) -> None:
    n_pages = 0
    for moment in replay(stem):
        assert getattr(moment.engine, mode)(moment.session) == moment.record[mode]
        n_pages += 1
    assert n_pages > 40


@pytest.mark.data
@pytest.mark.parametrize("stem", ["history_human", "history_synth"])
def test_recorded_histories(replay: Callable[[str], Iterator[Any]], stem: str) -> None:
    observations: list[str] = []
    actions: list[str] = []
    n_pages = 0
    for episode, record, engine, session, outcome, _ in replay(stem):
        if outcome is None:
            observations, actions = [], []
        else:
            actions.append(record["action"])
        page = engine.text(session)
        shown = with_history(
            page,
            observations,
            actions,
            n_observations=episode["num_prev_obs"],
            n_actions=episode["num_prev_actions"],
        )
        assert shown == record["observation"]
        observations.append(page)
        n_pages += 1
    assert n_pages == 44
