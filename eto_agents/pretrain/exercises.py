"""Exercises in copying and in looking things up, as chats whose replies are trained on.

The world's own texts teach these skills late: most of their tokens need no copying. An exercise
needs nothing else. There are four kinds: repeat a string; name the product that some words
describe; number a thing that is in sight; say where a thing is.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from eto_agents.pretrain.renaming import CODE_CHARACTERS, Names, draw_code, draw_word
from eto_agents.trajectory import Message


def draw_exercise(rng: np.random.Generator, names: Names, difficulty: float = 1.0) -> list[Message]:
    """Draw an exercise.

    Args:
        rng: the random generator.
        names: the words to use.
        difficulty: in [0, 1]; lists and strings get longer with it.
    """
    draw = KINDS[int(rng.integers(len(KINDS)))]
    question, answer = draw(rng, names, difficulty)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _upto(rng: np.random.Generator, least: int, most: int, difficulty: float) -> int:
    return int(rng.integers(least, max(least, round(least + (most - least) * difficulty)) + 1))


def _some_words(rng: np.random.Generator, names: Names, n: int) -> list[str]:
    return [draw_word(rng, names) for _ in range(n)]


def _repeat(rng: np.random.Generator, names: Names, difficulty: float) -> tuple[str, str]:
    n = _upto(rng, 2, 12, difficulty)
    if rng.random() < 0.5:
        text = "".join(CODE_CHARACTERS[i] for i in rng.integers(36, size=2 * n))
    else:
        text = " ".join(_some_words(rng, names, n))
    return text, text


def _product(rng: np.random.Generator, names: Names, difficulty: float) -> tuple[str, str]:
    """Products share words, so that all the words that are asked for have to be compared."""
    common = _some_words(rng, names, 8)
    products = []
    for _ in range(_upto(rng, 2, 10, difficulty)):
        own = _some_words(rng, names, 3)
        shared = [common[i] for i in rng.choice(8, size=4, replace=False)]
        title = [word.capitalize() for word in rng.permutation(own + shared)]
        products.append((draw_code(rng), title, f"${rng.integers(100, 9999) / 100:.2f}"))
    page = " [SEP] ".join(part for c, t, p in products for part in (c, " ".join(t), p))
    code, title, _ = products[int(rng.integers(len(products)))]
    wanted = [title[i].lower() for i in sorted(rng.choice(7, size=4, replace=False))]
    return f"{' '.join(wanted)} [SEP] {page} [SEP] {' '.join(wanted)}", f"Action: click[{code}]"


def _things(rng: np.random.Generator, names: Names, n: int) -> list[str]:
    kinds = dict.fromkeys(_some_words(rng, names, 2 * n))
    return [f"{kind} {rng.integers(1, 31)}" for kind in list(kinds)[:n]]


def _listed(things: list[str]) -> str:
    return ", ".join(f"a {thing}" for thing in things)


def _number(rng: np.random.Generator, names: Names, difficulty: float) -> tuple[str, str]:
    things = _things(rng, names, _upto(rng, 2, 12, difficulty))
    wanted = things[int(rng.integers(len(things)))]
    kind = wanted.rsplit(" ", 1)[0]
    return f"you see {_listed(things)}.\n{kind}", f"Action: take {wanted}"


def _place(rng: np.random.Generator, names: Names, difficulty: float) -> tuple[str, str]:
    n_places = _upto(rng, 2, 5, difficulty)
    places = _things(rng, names, n_places)
    things = _things(rng, names, 3 * n_places)
    shares = [things[i::n_places] for i in range(n_places)]
    rows = zip(places, shares, strict=False)
    text = "\n".join(f"On the {place}, you see {_listed(own)}." for place, own in rows)
    at = int(rng.integers(min(len(places), len(shares))))
    wanted = shares[at][int(rng.integers(len(shares[at])))]
    return f"{text}\n{wanted}", f"Action: take {wanted} from {places[at]}"


KINDS: Final = (_repeat, _product, _number, _place)
"""The kinds of exercises, each a function that draws a question and its answer."""
