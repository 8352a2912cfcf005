"""Thoughts in hand-written episodes: they follow from the observations."""

from __future__ import annotations

import random

import pytest

from eto_agents.worlds.alfworld import ALFWorldNarrator
from eto_agents.worlds.narrator import Narrator, Style, joined, with_article
from eto_agents.worlds.scienceworld import ScienceWorldNarrator
from eto_agents.worlds.webshop import WebShopNarrator

ROOM = (
    "You are in the middle of a room. Looking quickly around you, you see a cabinet 1, "
    "a coffeemachine 1, a microwave 1, and a sinkbasin 1.\nYour task is to: {}"
)
HEAT = [
    (ROOM.format("put a hot mug in coffeemachine."), "go to cabinet 1", "mug?"),
    ("The cabinet 1 is closed.", "open cabinet 1", "mug?"),
    (
        "You open the cabinet 1. The cabinet 1 is open. In it, you see a mug 2.",
        "take mug 2 from cabinet 1",
        "mug 2",
    ),
    ("You pick up the mug 2 from the cabinet 1.", "go to microwave 1", "heat mug"),
    ("The microwave 1 is closed.", "heat mug 2 with microwave 1", "heat mug"),
    ("You heat the mug 2 using the microwave 1.", "go to coffeemachine 1", "put mug coffeemachine"),
    (
        "On the coffeemachine 1, you see nothing.",
        "put mug 2 in/on coffeemachine 1",
        "put mug coffeemachine",
    ),
]
TWO = [
    (ROOM.format("put two mug in sinkbasin."), "go to cabinet 1", "mug?"),
    ("On the cabinet 1, you see a mug 2.", "take mug 2 from cabinet 1", "mug 2"),
    ("You pick up the mug 2 from the cabinet 1.", "go to sinkbasin 1", "put mug sinkbasin"),
    ("On the sinkbasin 1, you see nothing.", "put mug 2 in/on sinkbasin 1", "put mug sinkbasin"),
    ("You put the mug 2 in/on the sinkbasin 1.", "go to microwave 1", "mug?"),
]
LOOK = [
    (ROOM.format("examine the mug with the desklamp."), "go to cabinet 1", "mug?"),
    ("On the cabinet 1, you see a desklamp 1.", "go to sinkbasin 1", "mug?"),
    ("On the sinkbasin 1, you see a mug 2.", "take mug 2 from sinkbasin 1", "mug 2"),
    ("You pick up the mug 2 from the sinkbasin 1.", "go to cabinet 1", "use desklamp"),
    ("On the cabinet 1, you see a desklamp 1.", "use desklamp 1", "desklamp 1"),
]
PAGE = (
    "Instruction: [SEP] find me a red wine glass in cherry red, 2 pack, and price lower than "
    "30.00 dollars [SEP] Back to Search [SEP] < Prev [SEP] color [SEP] red [SEP] cherry red [SEP] "
    "size [SEP] 2 pack [SEP] 4 pack [SEP] Glass for Wine [SEP] Price: $12.0 [SEP] Rating: N.A. "
    "[SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
)
SHOP = [
    (
        "WebShop [SEP] Instruction: [SEP] find me a red wine glass in cherry red, 2 pack, and "
        "price lower than 30.00 dollars [SEP] Search",
        "search[wine glass]",
        "search",
    ),
    (
        "Instruction: [SEP] find me a red wine glass in cherry red, 2 pack, and price lower than "
        "30.00 dollars [SEP] Back to Search [SEP] Page 1 (Total results: 50) [SEP] Next > [SEP] "
        "B012345678 [SEP] Glass for Wine [SEP] $12.0",
        "click[b012345678]",
        "open glass wine",
    ),
    (PAGE, "click[cherry red]", "need cherry red, 2 pack"),
    (PAGE, "click[2 pack]", "need 2 pack"),
    (PAGE, "click[buy now]", "have all, buy"),
]
SCIENCE = [
    ("Task Description:\nYour task is to boil water. First, focus.", "go to kitchen", "go kitchen"),
    ("You teleport to the kitchen.", "pick up metal pot", "get metal pot"),
    ("You move the metal pot to the inventory.", "activate stove", "start stove"),
    (
        "The stove appears broken, and can't be activated or deactivated.",
        "use thermometer in inventory on substance in metal pot",
        "measure substance in metal pot",
    ),
    ("the thermometer measures a temperature of -4 degrees celsius", "wait1", "wait"),
    ("Ambiguous request: which?", "0", "choose 0"),
    ("x", "frobnicate", "frobnicate"),
]
EPISODES = [
    (ALFWorldNarrator, HEAT),
    (ALFWorldNarrator, TWO),
    (ALFWorldNarrator, LOOK),
    (WebShopNarrator, SHOP),
    (ScienceWorldNarrator, SCIENCE),
]


def thoughts_of(
    kind: type[Narrator], episode: list[tuple[str, str, str]], style: Style, seed: int = 0
) -> list[str]:
    narrator = kind(style, random.Random(seed))
    return [narrator.think(observation, action) for observation, action, _ in episode]


@pytest.mark.parametrize(("kind", "episode"), EPISODES)
def test_brief_thoughts(kind: type[Narrator], episode: list[tuple[str, str, str]]) -> None:
    assert thoughts_of(kind, episode, "brief") == [brief for _, _, brief in episode]


def every_wording(
    kind: type[Narrator], episode: list[tuple[str, str, str]]
) -> list[tuple[str, ...]]:
    return list(zip(*(thoughts_of(kind, episode, "full", seed) for seed in range(30)), strict=True))


def test_alfworld_thoughts_state_what_is_known() -> None:
    first, door, take, go, heat, bring, put = every_wording(ALFWorldNarrator, HEAT)
    assert all("a mug" in thought for thought in first)
    assert len(set(first)) == 3
    assert all(thought.startswith("Cabinet 1 is closed.") for thought in door)
    assert all("mug 2" in thought.lower() for thought in (*take, *go, *heat, *bring, *put))
    assert all("hot" in t or "heat" in t for t in (*go, *heat, *put))
    assert all("Mug 2 is hot now" in thought for thought in bring)


def test_alfworld_thoughts_count_two_objects() -> None:
    first, _, _, put, again = every_wording(ALFWorldNarrator, TWO)
    assert all("two mugs" in thought for thought in first)
    assert all("the first of the two" in thought for thought in put)
    assert all(thought.startswith("No mug at sinkbasin 1.") is False for thought in again)
    assert all("second mug" in t for t in again)


def test_alfworld_thoughts_mention_that_nothing_happened() -> None:
    episode = [
        (ROOM.format("put a mug in cabinet."), "open cabinet 1", ""),
        ("Nothing happens.", "examine sinkbasin 1", ""),
        ("On the sinkbasin 1, you see a fork 1.", "close cabinet 1", ""),
        ("Nothing happens.", "inventory", ""),
        ("You are not carrying anything.", "slice bread 1 with knife 1", ""),
    ]
    _, second, third, fourth, fifth = every_wording(ALFWorldNarrator, episode)
    assert all(t.startswith(("That did nothing.", "Nothing happened.")) for t in second)
    assert set(third) == {"I close cabinet 1."}
    assert all(t.endswith("I check what I carry.") for t in fourth)
    assert set(fifth) == {"I try: slice bread 1 with knife 1."}


def test_webshop_thoughts_mention_price_and_options() -> None:
    search, product, color, size, buy = every_wording(WebShopNarrator, SHOP)
    assert all("wine glass" in t and "less than 30 dollars" in t for t in search)
    assert all("$12.0, less than 30 dollars" in t and "glass and wine" in t for t in product)
    assert all("cherry red" in t and "2 pack" in t for t in color)
    assert all("2 pack" in t and "red" not in t for t in size)
    assert all("I have chosen cherry red and 2 pack. $12.0 is below 30" in t for t in buy)


def test_webshop_thoughts_do_not_call_a_high_price_low() -> None:
    episode = [(text.replace("$12.0", "$20.0 to $41.5"), action, b) for text, action, b in SHOP]
    _, product, _, _, buy = every_wording(WebShopNarrator, episode)
    assert all("It costs $20.0 to $41.5; the limit is 30 dollars." in t for t in product)
    assert all("$" not in t for t in buy)


def test_webshop_thoughts_say_that_a_value_is_not_in_the_request() -> None:
    episode = [*SHOP[:2], (PAGE, "click[4 pack]", "need 4 pack, cherry red")]
    assert thoughts_of(WebShopNarrator, episode, "brief")[-1] == "need 4 pack, cherry red"
    assert all("does not" in t for t in every_wording(WebShopNarrator, episode)[-1])


def test_scienceworld_thoughts_use_the_observations() -> None:
    first, _, _, broken, cold, choice, unknown = every_wording(ScienceWorldNarrator, SCIENCE)
    assert all("boil water" in thought and "kitchen" in thought for thought in first)
    assert all(thought.startswith("The stove is broken.") for thought in broken)
    assert all("-4 degrees." in thought for thought in cold)
    assert all("several things" in thought and "number 0" in thought for thought in choice)
    assert set(unknown) == {"I try: frobnicate."}


def test_joining_names_and_adding_articles() -> None:
    assert [joined(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert [with_article("mug"), with_article("Apple")] == ["a mug", "an Apple"]
