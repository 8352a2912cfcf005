"""A report as data: sections of paragraphs, tables and figures.

`eto_agents.report.sections`, `curves` and `published` make the sections; `html`, `markdown` and
`latex` write the document. Its strings are plain text, which each writer escapes: agents choose
their own names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: the content.
        detail: a second part in smaller type, such as an interval.
        is_best: whether it is significantly better than the rest of its column; shown in bold.
    """

    text: str
    detail: str = ""
    is_best: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        headings: one for each column.
        rows: rows of as many cells as there are headings.
        n_text_columns: number of columns at the left that hold words; the others hold numbers.
        label: a short name, for references in LaTeX.
        caption: one sentence.
        n_text_at_end: number of columns at the right that hold words as well.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    n_text_columns: int
    label: str
    caption: str
    n_text_at_end: int = 0

    @property
    def is_text(self) -> list[bool]:
        """For each column whether it holds words."""
        n_numbers = len(self.headings) - self.n_text_columns - self.n_text_at_end
        return [True] * self.n_text_columns + [False] * n_numbers + [True] * self.n_text_at_end


class Image(NamedTuple):
    """A figure.

    Attributes:
        name: the files' name without its suffix.
        caption: what it shows; also the alternative text.
        svg: the content of the SVG file.
        png: the content of the PNG file.
    """

    name: str
    caption: str
    svg: bytes
    png: bytes


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what follows it, in this order.

    Attributes:
        title: the heading.
        paragraphs: what a reader has to know before the tables.
        tables: the tables.
        images: the figures.
        notes: explanations of the tables and figures.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    images: tuple[Image, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A report."""

    title: str
    sections: tuple[Section, ...]

    @property
    def images(self) -> list[Image]:
        """All figures, in order."""
        return [image for section in self.sections for image in section.images]
