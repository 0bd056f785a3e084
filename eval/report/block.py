"""A part of the report, written once and rendered twice: as a section of the page and as a chapter of the appendix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.report.page import clean
from eval.report.table import Table, markdown_text

NARROW = 5  # columns; a table of no more is not stretched over the page


@dataclass(frozen=True, kw_only=True)
class Named:
    """A table with its caption, "" for none. folded: on the page one has to open it."""

    table: Table
    caption: str = ""
    note: str = ""
    folded: bool = False

    def html(self) -> str:
        note = f"<p class=note>{clean(self.note)}</p>" if self.note else ""
        table = self.table.html()
        table = f'<div class="narrow">{table}</div>' if len(self.table.heads) <= NARROW else table
        if self.folded:
            return f"<details><summary>{clean(self.caption)}</summary>{note}{table}</details>"
        return (f"<h3>{clean(self.caption)}</h3>" if self.caption else "") + note + table

    def markdown(self) -> list[str]:
        head = [f"### {markdown_text(self.caption)}", ""] if self.caption else []
        note = [markdown_text(self.note), ""] if self.note else []
        return [*head, *note, self.table.markdown(), ""]


@dataclass(frozen=True, kw_only=True)
class Block:
    """anchor: its address on the page. link: its name in the list of contents, "" for none. figure: HTML that has no Markdown."""

    anchor: str
    title: str
    link: str = ""
    note: str = ""
    tables: Sequence[Named] = ()
    figure: str = ""

    def html(self) -> str:
        note = f'<p class="note">{clean(self.note)}</p>' if self.note else ""
        tables = "".join(named.html() for named in self.tables)
        return f'<section id="{clean(self.anchor)}"><h2>{clean(self.title)}</h2>{note}{tables}{self.figure}</section>'

    def markdown(self) -> list[str]:
        if not self.tables:
            return []
        note = [markdown_text(self.note), ""] if self.note else []
        lines = [line for named in self.tables for line in named.markdown()]
        return [f"## {markdown_text(self.title)}", "", *note, *lines]
