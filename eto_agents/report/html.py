"""A report as one HTML file, with its figures inside: it needs no network and has no script.

`report.html` is the frame with the style; this module writes the body. All text is escaped: agents
choose their own names.
"""

from __future__ import annotations

import base64
import html as standard
from importlib.resources import files
from string import Template

from eto_agents.plain_text import printable
from eto_agents.report.document import Cell, Document, Image, Section, Table


def escape(text: str) -> str:
    """Text as HTML that shows it as it is."""
    return standard.escape(printable(text))


def html(document: Document) -> str:
    """The report as a self-contained page."""
    frame = files("eto_agents.report").joinpath("report.html").read_text(encoding="utf-8")
    links = "".join(
        f'<a href="#section-{number}">{escape(section.title)}</a>'
        for number, section in enumerate(document.sections)
    )
    body = "\n".join(_section(section, number) for number, section in enumerate(document.sections))
    return Template(frame).substitute(title=escape(document.title), links=links, body=body)


def _section(section: Section, number: int) -> str:
    parts = [f'<section id="section-{number}"><h2>{escape(section.title)}</h2>']
    parts += [f"<p>{escape(paragraph)}</p>" for paragraph in section.paragraphs]
    parts += [_table(table) for table in section.tables]
    parts += [_figure(image) for image in section.images]
    parts += [f"<p>{escape(note)}</p>" for note in section.notes]
    return "\n".join([*parts, "</section>"])


def _table(table: Table) -> str:
    heads = "".join(
        f'<th scope="col"{_words(i, table)}>{escape(h)}</th>' for i, h in enumerate(table.headings)
    )
    rows = "\n".join(_row(row, table) for row in table.rows)
    # A region that takes the keyboard's focus, because wide tables scroll sideways.
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(table.caption)}">'
        f'<table id="{escape(table.label)}"><caption>{escape(table.caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _row(row: tuple[Cell, ...], table: Table) -> str:
    cells = []
    for position, cell in enumerate(row):
        text = escape(cell.text)
        text = f"<strong>{text}</strong>" if cell.is_best else text
        if cell.detail:
            text += f" <small>{escape(cell.detail)}</small>"
        tag, scope = ("th", ' scope="row"') if position == 0 else ("td", "")
        cells.append(f"<{tag}{scope}{_words(position, table)}>{text}</{tag}>")
    return f"<tr>{''.join(cells)}</tr>"


def _words(position: int, table: Table) -> str:
    return ' class="words"' if table.is_text[position] else ""


def _figure(image: Image) -> str:
    # As an image rather than inline, where the ids of several drawings would clash.
    data = base64.b64encode(image.svg).decode()
    caption = escape(image.caption)
    return (
        f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
