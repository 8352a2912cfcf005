"""Tables in Markdown: the one place that writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_BARE_PIPE = re.compile(r"(?<!\\)((?:\\\\)*)\|")


def markdown_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()
) -> str:
    """A table in Markdown.

    Args:
        headings: one for each column.
        rows: cells that are Markdown already; as many in each row as there are headings.
        right: positions of the columns that are aligned right.

    Returns:
        The table's lines, without a newline at the end.

    Raises:
        ValueError: a row has more or fewer cells than there are headings.
    """
    rules = ["---:" if column in right else "---" for column in range(len(headings))]
    lines = [_line(headings), _line(rules)]
    for row in rows:
        if len(row) != len(headings):
            raise ValueError(f"a row of {len(row)} cells under {len(headings)} headings: {row!r}")
        lines.append(_line(row))
    return "\n".join(lines)


def escape_markdown(text: str) -> str:
    """Text as one line of Markdown that shows it as it is; for names that agents chose."""
    text = " ".join(text.split())
    for character in "\\|`*_<>#":
        text = text.replace(character, f"\\{character}")
    return text


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(map(_in_cell, cells)) + " |"


def _in_cell(text: str) -> str:
    """The text without what would end its cell: line breaks, and pipes that are not escaped."""
    return _BARE_PIPE.sub(r"\1\\|", re.sub(r"\s*\n\s*", " ", text))
