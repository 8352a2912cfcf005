"""A report as data, and its text in Markdown and LaTeX.

Sections hold paragraphs, tables and names of figures. What is in them is `sections`' part; the
HTML page is `page`'s. Agents choose their own names, so every text is escaped here.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def markdown(document: Document) -> str:
    """The report as a Markdown page; figures are links to ``figures/NAME.svg``."""
    lines = [f"# {_in_markdown(document.title)}", ""]
    for section in document.sections:
        lines += [f"## {_in_markdown(section.title)}", ""]
        for paragraph in section.paragraphs:
            lines += [_in_markdown(paragraph), ""]
        for table in section.tables:
            lines += [f"**{_in_markdown(table.caption)}**", "", *_markdown_rows(table), ""]
        for image in section.images:
            lines += [f"![{_in_markdown(image.caption)}](figures/{image.name}.svg)", ""]
        for note in section.notes:
            lines += [_in_markdown(note), ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_rows(table: Table) -> list[str]:
    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(texts) + " |"

    rules = ["---" if is_text else "---:" for is_text in table.is_text]
    rows = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    return [line([_in_markdown(h) for h in table.headings]), line(rules), *map(line, rows)]


def _markdown_cell(cell: Cell) -> str:
    text = _in_markdown(cell.text)
    text = f"**{text}**" if cell.is_best else text
    return f"{text} {_in_markdown(cell.detail)}".rstrip()


def _in_markdown(text: str) -> str:
    text = " ".join(text.split())
    for character in "\\|`*_<>#":
        text = text.replace(character, f"\\{character}")
    return text


def latex(document: Document) -> str:
    """The report's tables in LaTeX, to be input into a paper; needs booktabs and graphicx."""
    lines = [
        f"% {' '.join(document.title.split())}",
        "% \\usepackage{booktabs,graphicx} and \\input this file.",
    ]
    for section in document.sections:
        for table in section.tables:
            lines += ["", *_latex_table(table)]
    return "\n".join(lines) + "\n"


def _latex_table(table: Table) -> list[str]:
    def line(texts: Sequence[str]) -> str:
        return "    " + " & ".join(texts) + r" \\"

    alignment = "".join("l" if is_text else "r" for is_text in table.is_text)
    return [
        r"\begin{table}[t]",
        r"  \centering",
        rf"  \caption{{{_in_latex(table.caption)}}}",
        rf"  \label{{tab:{table.label}}}",
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{{alignment}}}",
        r"    \toprule",
        line([_in_latex(heading) for heading in table.headings]),
        r"    \midrule",
        *(line([_latex_cell(cell) for cell in row]) for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}}",
        r"\end{table}",
    ]


def _latex_cell(cell: Cell) -> str:
    text = _in_latex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.is_best else text
    # A cell that begins with "[" after a row's end would be read as an argument of "\\".
    text = f"{{}}{text}" if text.startswith("[") else text
    return rf"{text} {{\scriptsize {_in_latex(cell.detail)}}}" if cell.detail else text


LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≠": r"$\neq$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    **{character: f"\\{character}" for character in "&%$#_"},
}


def _in_latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))
