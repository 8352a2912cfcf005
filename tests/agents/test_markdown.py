"""Markdown tables: their lines, and that no cell can break out of its column."""

from __future__ import annotations

import pytest

from eto_agents.markdown import Markdown, escape_markdown, markdown_table


def test_a_table() -> None:
    text = markdown_table(("", "reward"), [("a", "0.5"), ("b", "–")], right=(1,))
    assert text == "|  | reward |\n| --- | ---: |\n| a | 0.5 |\n| b | – |"
    assert markdown_table(("a", "b"), []) == "| a | b |\n| --- | --- |"


def test_a_cell_stays_in_its_column() -> None:
    text = markdown_table(("a | b",), [("c|d\n  e",), (r"f \| g",), (Markdown(r"h \| i"),)])
    assert text.splitlines() == [
        r"| a \| b |",
        "| --- |",
        r"| c\|d e |",
        r"| f \\\| g |",
        r"| h \| i |",  # escaped already
    ]


def test_rows_are_as_long_as_the_headings() -> None:
    with pytest.raises(ValueError, match="3 cells under 2 headings"):
        markdown_table(("a", "b"), [("1", "2", "3")])


def test_escaped_text_is_one_line_without_markup() -> None:
    assert escape_markdown("*a* |_b_\n<c> `#") == r"\*a\* \|\_b\_ \<c\> \`\#"
