"""Markdown: the one place that escapes texts and writes tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from eto_agents.plain_text import one_line

_SPECIAL = re.compile(
    r"[\\|`*<>#~$]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis; inside a word it is an underscore
    r"|\](?=[(\[:])"  # the end of a link's text
    r"|&(?=#?\w+;)"  # an entity
    r"|^[-+](?=\s|$)|^-(?=-*$)"  # a list, a rule
)
_NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|$)")


class Markdown(str):
    """Text that is Markdown already: `markdown_table` does not escape it."""

    __slots__ = ()


def markdown_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()
) -> str:
    """A table in Markdown.

    Args:
        headings: one for each column.
        rows: cells, as many in each row as there are headings; they are shown as they are unless
            they are `Markdown`.
        right: positions of the columns that are aligned right.

    Returns:
        The table's lines, without a newline at the end.

    Raises:
        ValueError: a row has more or fewer cells than there are headings.
    """
    rules = ["---:" if column in right else "---" for column in range(len(headings))]
    lines = [_line(headings), _line(map(Markdown, rules))]
    for row in rows:
        if len(row) != len(headings):
            raise ValueError(f"a row of {len(row)} cells under {len(headings)} headings: {row!r}")
        lines.append(_line(row))
    return "\n".join(lines)


def escape_markdown(text: str) -> Markdown:
    """Text as one line of Markdown that shows it as it is; for names that agents chose."""
    text = _SPECIAL.sub(r"\\\g<0>", one_line(text))
    return Markdown(_NUMBERED.sub(r"\1\\\2", text))


def _line(cells: Iterable[str]) -> str:
    shown = (cell if isinstance(cell, Markdown) else escape_markdown(cell) for cell in cells)
    return f"| {' | '.join(shown)} |"
