"""The wording of requests for products of the mini dataset: frames, orders and synonyms.

Every request mentions the type of product (by its name, its plural or a synonym), all requested
attributes (literally or paraphrased) and all option values; `data.goals` adds the price cap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eto_envs.webshop.mini.products import Attribute, Draw, Item

FRAMES = (
    "i need {}",
    "i am looking for {}",
    "i'm looking for {}",
    "find me {}",
    "i want {}",
    "i want to buy {}",
    "i would like {}",
    "can you find me {}",
    "could you help me find {}",
    "please get me {}",
    "please find {}",
    "show me {}",
    "help me pick out {}",
    "i'd love to have {}",
    "i am shopping for {}",
    "i am searching for {}",
    "i am trying to find {}",
    "do you have {}",
    "where can i get {}",
    "get me {}",
    "i have to replace mine, so i need {}",
    "my sister asked me for {}",
    "as a present for a friend i want {}",
    "for our new home we need {}",
    "i promised my parents {}",
    "we ran out, so please order {}",
    "buy {}",
    "i could use {}",
    "i'm in the market for {}",
    "let me see {}",
)
COLOR_NAMES = ("color", "ink color")


def request(
    draw: Draw, item: Item, attributes: Sequence[Attribute], options: Mapping[str, str]
) -> str:
    """A request for a product.

    Args:
        draw: the random generator.
        item: the product.
        attributes: the requested attributes.
        options: the requested values, by option name.
    """
    before, after, apart = _spread(draw, attributes)
    what = _what(draw, item, [attribute.text for attribute in before])
    parts = [draw.pick(FRAMES).format(what)]
    if after:
        text = " and ".join(attribute.text for attribute in after)
        parts.append(draw.pick(("it should be {}", "it has to be {}", "{} please")).format(text))
    parts += [
        draw.pick(
            ("i want one that {}", "it matters that it {}", "it should be one that {}")
        ).format(attribute.clause)
        for attribute in apart
    ]
    return draw.pick((", ", ". ", ", and ")).join([*parts, _options(draw, options)]) + "."


def _spread(draw: Draw, attributes: Sequence[Attribute]) -> tuple[list[Attribute], ...]:
    """The attributes to mention before the noun, after it, and in a clause of their own."""
    places: tuple[list[Attribute], ...] = ([], [], [])
    for attribute in attributes:
        place = draw.pick((0, 1, 2, 2))
        places[0 if attribute.clause.startswith("is made of") and place == 1 else place].append(
            attribute
        )
    return places


def _what(draw: Draw, item: Item, before: Sequence[str]) -> str:
    name, plural = item.kind.name.replace("*", ""), item.kind.plural
    described = ", ".join(before)
    way = draw.uniform()
    if way < 0.3:
        alias = item.kind.alias
        return f"{alias}, {described}" if described else alias
    is_plural = name == plural or (name.endswith("s") and not name.endswith("ss"))
    phrase = f"{described} {plural if way < 0.5 else name}".strip()
    if way < 0.5 or is_plural:
        return phrase
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _options(draw: Draw, options: Mapping[str, str]) -> str:
    frames = (
        "the {name} should be {value}",
        "{name} {value}",
        "i'd like the {value} {name}",
        "{value} for the {name}",
        "make the {name} {value}",
    )
    phrases = []
    for name, value in options.items():
        frame = draw.pick(("in {value}", *frames) if name in COLOR_NAMES else frames)
        phrases.append(frame.format(name=name, value=value))
    return " and ".join(draw.shuffled(phrases))
