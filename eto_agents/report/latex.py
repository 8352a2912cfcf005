"""A report's tables in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence

from eto_agents.plain_text import one_line
from eto_agents.report.document import Cell, Document, Table


def latex(document: Document) -> str:
    r"""The report's tables in LaTeX, for ``\input``; they need booktabs and graphicx."""
    lines = [
        f"% {one_line(document.title)}",
        "% \\usepackage{booktabs,graphicx} and \\input this file.",
    ]
    for section in document.sections:
        for table in section.tables:
            lines += ["", *_table(table)]
    return "\n".join(lines) + "\n"


def _table(table: Table) -> list[str]:
    def line(texts: Sequence[str]) -> str:
        return "    " + " & ".join(texts) + r" \\"

    alignment = "".join("l" if is_text else "r" for is_text in table.is_text)
    return [
        r"\begin{table}[t]",
        r"  \centering",
        rf"  \caption{{{_escaped(table.caption)}}}",
        rf"  \label{{tab:{_label(table.label)}}}",
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{{alignment}}}",
        r"    \toprule",
        line([_escaped(heading) for heading in table.headings]),
        r"    \midrule",
        *(line([_cell(cell) for cell in row]) for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}}",
        r"\end{table}",
    ]


def _label(text: str) -> str:
    """What has no meaning to LaTeX, in which nothing can be escaped in a label."""
    return re.sub(r"[^A-Za-z0-9.:-]+", "-", text)


def _cell(cell: Cell) -> str:
    text = _escaped(cell.text)
    text = rf"\textbf{{{text}}}" if cell.is_best else text
    # At the beginning of a row, "[" would be read as an optional argument of the "\\" before it.
    text = f"{{}}{text}" if text.startswith("[") else text
    return rf"{text} {{\scriptsize {_escaped(cell.detail)}}}" if cell.detail else text


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


def _escaped(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in one_line(text))
