"""A report as data: sections with paragraphs, tables and figures.

`eto_agents.report.sections` and its neighbours fill it; `html`, `markdown` and `latex` write it.
Its texts are plain: each writer escapes them, since agents choose their own names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Cell(NamedTuple):
    """A table's cell.

    Attributes:
        text: what it says.
        detail: a smaller second part, such as an interval.
        is_best: better than the rest of its column beyond noise: shown in bold.
    """

    text: str
    detail: str = ""
    is_best: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        headings: one for each column.
        rows: cells, as many as there are headings.
        n_text_columns: how many columns from the left are words; the rest are figures.
        label: short name, for references in LaTeX.
        caption: one sentence.
        n_text_at_end: how many columns at the right are words again.
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
        n_figures = len(self.headings) - self.n_text_columns - self.n_text_at_end
        return [True] * self.n_text_columns + [False] * n_figures + [True] * self.n_text_at_end


class Image(NamedTuple):
    """A figure's files.

    Attributes:
        name: file name without its ending.
        caption: what it shows, also for those who cannot see it.
        svg: the drawing.
        png: the same as pixels.
    """

    name: str
    caption: str
    svg: bytes
    png: bytes


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what is under it.

    Attributes:
        title: the heading.
        paragraphs: what must be read before the tables.
        tables: the tables.
        images: the figures.
        notes: what explains them, after them.
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
