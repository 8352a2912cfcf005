"""Names and texts of agents, worlds and files, made safe to show in a terminal or a document.

Anyone can choose such a name, so it may hold escape sequences that repaint a terminal, marks that
reverse the direction of text, or half of a surrogate pair, which no encoding can write. They are
shown as U+FFFD, the replacement character.
"""

from __future__ import annotations

import re
from typing import Final

REPLACEMENT: Final = "\ufffd"

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, except for tab and newline
    "\u202a-\u202e\u2066-\u2069"  # directional marks
    "\ud800-\udfff\ufffe\uffff]"  # surrogates and noncharacters, which XML does not allow
)
_SURROGATES = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with U+FFFD in place of what is not to be shown; keeps tabs and newlines."""
    return _UNPRINTABLE.sub(REPLACEMENT, text.replace("\r\n", "\n"))


def without_surrogates(text: str) -> str:
    """The text with U+FFFD in place of halves of surrogate pairs, which UTF-8 cannot hold."""
    return _SURROGATES.sub(REPLACEMENT, text)


def one_line(text: str) -> str:
    """The text on one line, with single spaces, and `printable`."""
    return printable(" ".join(text.split()))
