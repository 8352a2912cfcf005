"""What names may do to documents: nothing."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from eto_agents.markdown import Markdown, escape_markdown, markdown_table
from eto_agents.plain_text import one_line, printable

TRICKS = (
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "![x](http://a.example/b.png)",
    "[x]: javascript:alert(1)",
    "<javascript:alert(1)>",
    "&#106;avascript &lt; &amp;",
    "a | b \\| c \\",
    "# no\n\n- no",
    "- no",
    "+ no",
    "1. no",
    "2) no",
    "`code` *b* _i_ ~~s~~ $x$ __b__",
    "=HYPERLINK(1)",
    "a\x00b\x1b[31m\ud800",
)


class Text(HTMLParser):
    """The text of a page and the tags in it."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.tags.append(tag)


def rendered(source: str) -> Text:
    page = Text()
    page.feed(
        MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(source)
    )
    return page


def check(text: str) -> None:
    page = rendered(escape_markdown(text))
    assert page.text.strip() == one_line(text).strip()
    assert page.tags in (["p"], [])
    table = rendered(markdown_table((text, "b"), [("a", text)]))
    assert table.tags == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert table.text.count(one_line(text).strip()) >= 2


def test_tricks_are_shown_as_they_are() -> None:
    for trick in TRICKS:
        check(trick)
        check(f"{trick} {trick}")


@given(st.text(alphabet="ab1 \n\t\\|`*_<>#~$[](){}!&;:/=+-.)\x00\x1b\ud800é", max_size=30))
def test_any_text_is_shown_as_it_is(text: str) -> None:
    check(text)


def test_markdown_cells_are_not_escaped() -> None:
    assert markdown_table(("a",), [(Markdown("**b**"),), ("*c*",)]).splitlines()[2:] == [
        "| **b** |",
        r"| \*c\* |",
    ]


def test_numbers_and_words_are_not_disfigured() -> None:
    for text in ("63.1 [60.0, 66.2]", "+1.0", "−2.5", "agent_error", "ETO-WebShop-v0 (mini)", "–"):
        assert escape_markdown(text) == text


def test_printable_keeps_lines() -> None:
    assert printable("a\r\nb\tc\nd") == "a\nb\tc\nd"
    assert printable("\x1b]0;x\x07") == "\ufffd]0;x\ufffd"
    assert one_line(" a\r\n\x0bb ") == "a b"
