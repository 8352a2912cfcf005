"""`Narrator`: writes the thoughts of one episode.

A thought says what the agent intends and why. It is made from the observations so far (including
the instruction) and the chosen action only, so that an agent without the expert's knowledge could
have had the same thought.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import Final, Literal, get_args

Style = Literal["full", "brief", "none"]
"""``full``: one or two sentences in varied wording; ``brief``: a few words in fixed wording, for
tiny models; ``none``: the action only."""

STYLES: Final[tuple[str, ...]] = get_args(Style)


class Narrator:
    """Writes the thoughts of one episode; each world has a subclass.

    Args:
        style: ``"full"`` or ``"brief"``.
        rng: random generator of the wording.
    """

    def __init__(self, style: Style, rng: random.Random) -> None:
        """Start an episode without observations."""
        self.style = style
        self._rng = rng
        self._last = ""

    def think(self, observation: str, action: str) -> str:
        """The thought before an action, as one line.

        Args:
            observation: the latest observation.
            action: the action that the agent is about to take.
        """
        self.see(observation, self._last)
        self._last = action
        thought = self.brief(action) if self.style == "brief" else self.full(action)
        return re.sub(r"\s+", " ", thought).strip()

    def see(self, observation: str, action: str) -> None:
        """Process an observation, which follows `action` (empty for the initial one)."""
        raise NotImplementedError

    def full(self, action: str) -> str:
        """A thought of one or two sentences."""
        raise NotImplementedError

    def brief(self, action: str) -> str:
        """A thought of a few words, always the same in the same situation."""
        raise NotImplementedError

    def pick(self, *wordings: str) -> str:
        """Draw one of several wordings."""
        return wordings[int(self._rng.random() * len(wordings))]


def capitalised(text: str) -> str:
    """Capitalise the first letter only."""
    return text[:1].upper() + text[1:]


def joined(names: Iterable[str]) -> str:
    """Join names as in ``a``, ``a and b``, ``a, b and c``; empty without names."""
    *rest, last = [*names] or [""]
    return f"{', '.join(rest)} and {last}" if rest else last


def with_article(noun: str) -> str:
    """Add the indefinite article, as in ``a mug``, ``an apple``."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
