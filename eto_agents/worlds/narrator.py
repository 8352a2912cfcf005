"""`Narrator`: who puts one episode's thoughts into words.

A thought says what the agent intends and why. It may use the observations so far, the instruction
in them and the action that was chosen; nothing else, so that it is true and an agent without the
expert's knowledge could have had it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import Final, Literal, get_args

Style = Literal["full", "brief", "none"]
"""One or two sentences in varied wording; a few words in fixed wording, for tiny models; nothing
but the action."""

STYLES: Final[tuple[str, ...]] = get_args(Style)


class Narrator:
    """The thoughts of one episode; subclasses know a world.

    Args:
        style: ``"full"`` or ``"brief"``.
        rng: draws the wording.
    """

    def __init__(self, style: Style, rng: random.Random) -> None:
        """Begin an episode in which nothing was seen."""
        self.style = style
        self._rng = rng
        self._last = ""

    def think(self, observation: str, action: str) -> str:
        """The thought before an action, in one line.

        Args:
            observation: the last one.
            action: what the agent is about to do.
        """
        self.see(observation, self._last)
        self._last = action
        thought = self.brief(action) if self.style == "brief" else self.full(action)
        return re.sub(r"\s+", " ", thought).strip()

    def see(self, observation: str, action: str) -> None:
        """Take in an observation, the answer to `action` (empty for the first)."""
        raise NotImplementedError

    def full(self, action: str) -> str:
        """One or two sentences."""
        raise NotImplementedError

    def brief(self, action: str) -> str:
        """A few words; the same for the same situation."""
        raise NotImplementedError

    def pick(self, *wordings: str) -> str:
        """One of several ways to say the same."""
        return wordings[int(self._rng.random() * len(wordings))]


def capitalised(text: str) -> str:
    """The text with a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def joined(names: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; empty for none."""
    *rest, last = [*names] or [""]
    return f"{', '.join(rest)} and {last}" if rest else last


def with_article(noun: str) -> str:
    """``a mug``, ``an apple``."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
