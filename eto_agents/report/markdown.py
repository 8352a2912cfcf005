"""A report in Markdown."""

from __future__ import annotations

from eto_agents.markdown import Markdown, escape_markdown, markdown_table
from eto_agents.report.document import Cell, Document, Table


def markdown(document: Document) -> str:
    """The report as a Markdown page; figures are links to ``figures/NAME.svg``."""
    lines = [f"# {escape_markdown(document.title)}", ""]
    for section in document.sections:
        lines += [f"## {escape_markdown(section.title)}", ""]
        for paragraph in section.paragraphs:
            lines += [escape_markdown(paragraph), ""]
        for table in section.tables:
            lines += [f"**{escape_markdown(table.caption)}**", "", _table(table), ""]
        for image in section.images:
            lines += [f"![{escape_markdown(image.caption)}](figures/{image.name}.svg)", ""]
        for note in section.notes:
            lines += [escape_markdown(note), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(table: Table) -> str:
    return markdown_table(
        table.headings,
        [[_cell(cell) for cell in row] for row in table.rows],
        right=[column for column, is_text in enumerate(table.is_text) if not is_text],
    )


def _cell(cell: Cell) -> Markdown:
    text = escape_markdown(cell.text)
    shown = f"**{text}**" if cell.is_best else text
    return Markdown(f"{shown} {escape_markdown(cell.detail)}".rstrip())
