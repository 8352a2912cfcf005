"""`Renaming`: gives the things of a chat other names, so that only reading it tells them.

Every chat that is pretrained on gets item codes drawn anew, and often other words and numbers. What
is on a page cannot be known then from having seen the shop before; it can only be copied.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from eto_agents.trajectory import Message

CODE_CHARACTERS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"

CODE: Final = re.compile(r"\bB0[0-9A-Z]{8}\b")
"""Matches an item code of the generated shops."""

_NUMBERED: Final = re.compile(r"\b([a-z]{2,}) ([0-9]{1,2})\b")
_WORD: Final = re.compile(r"[A-Za-z]{3,}")
_ONSETS: Final = [
    "b", "bl", "br", "c", "ch", "cl", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "l", "m",
    "n", "p", "pl", "qu", "r", "s", "sh", "st", "t", "tr", "v", "w", "z",
]  # fmt: skip
_RIMES: Final = [
    "a", "e", "i", "o", "u", "ai", "ea", "oo", "an", "en", "in", "on", "un", "ar", "er", "or",
    "al", "el", "ick", "ock", "ust", "end",
]  # fmt: skip


@dataclass(frozen=True)
class Names:
    """The words that a world's renaming draws from.

    Attributes:
        template: words that most of the world's chats contain, which keep their names.
        others: all other words, by which things are renamed.
    """

    template: frozenset[str]
    others: tuple[str, ...]

    @classmethod
    def of(cls, chats: Sequence[Sequence[Message]], *, max_share: float = 0.1) -> Names:
        """Count the words of a world's chats.

        Args:
            chats: the chats.
            max_share: a word in more than this share of the chats belongs to the template.
        """
        counts = Counter(word for chat in chats for word in _words(chat))
        limit = max_share * len(chats)
        return cls(
            frozenset(word for word, n in counts.items() if n > limit),
            tuple(sorted(word for word, n in counts.items() if n <= limit)),
        )


def _words(chat: Iterable[Message]) -> set[str]:
    return {word.lower() for message in chat for word in _WORD.findall(message["content"])}


def draw_code(rng: np.random.Generator) -> str:
    """A random item code."""
    return "B0" + "".join(CODE_CHARACTERS[i] for i in rng.integers(36, size=8))


def draw_word(rng: np.random.Generator, names: Names) -> str:
    """An invented word or another word of the world."""
    if rng.random() < 0.5 and names.others:
        return names.others[int(rng.integers(len(names.others)))]
    n = int(rng.integers(2, 4))
    onsets, rimes = rng.integers(len(_ONSETS), size=n), rng.integers(len(_RIMES), size=n)
    return "".join(_ONSETS[i] + _RIMES[j] for i, j in zip(onsets, rimes, strict=True))


class Renaming:
    """The names of the things of one chat.

    Args:
        rng: random generator of the names.
        names: the world's words.
        words: probability that a word gets another name, consistently in the chat.
        numbers: whether the numbered things of the chat get other numbers.
    """

    def __init__(
        self, rng: np.random.Generator, names: Names, *, words: float, numbers: bool
    ) -> None:
        """Start without names."""
        self._rng = rng
        self._names = names
        self._share = words
        self._renumbers = numbers
        self._codes: dict[str, str] = {}
        self._words: dict[str, str] = {}
        self._numbers: dict[str, str] = {}
        self._free: dict[str, list[int]] = {}

    def apply(self, chat: Sequence[Message]) -> list[Message]:
        """The chat with other names; the first message, which is the instruction, stays."""
        return [
            message if place < 2 else {**message, "content": self._text(message["content"])}
            for place, message in enumerate(chat)
        ]

    def _text(self, text: str) -> str:
        text = CODE.sub(lambda match: self._code(match[0]), text)
        if self._renumbers:
            text = _NUMBERED.sub(self._numbered, text)
        if self._share:
            text = _WORD.sub(lambda match: self._word(match[0]), text)
        return text

    def _code(self, code: str) -> str:
        if code not in self._codes:
            self._codes[code] = draw_code(self._rng)
        return self._codes[code]

    def _numbered(self, match: re.Match[str]) -> str:
        kind, thing = match[1], match[0]
        if thing not in self._numbers:
            free = self._free.setdefault(kind, list(range(1, 31)))
            number = free.pop(int(self._rng.integers(len(free)))) if free else int(match[2])
            self._numbers[thing] = f"{kind} {number}"
        return self._numbers[thing]

    def _word(self, word: str) -> str:
        key = word.lower()
        if key in self._names.template:
            return word
        if key not in self._words:
            is_renamed = self._rng.random() < self._share
            self._words[key] = draw_word(self._rng, self._names) if is_renamed else key
        new = self._words[key]
        if new == key:
            return word
        return new.upper() if word.isupper() else new.capitalize() if word[0].isupper() else new
