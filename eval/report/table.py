"""A table, built once and rendered twice: as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.report.page import clean


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number as printed, its interval beneath, and whether it is the best of its column; or words, which may break."""

    text: str
    below: str = ""
    best: bool = False
    words: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """heads: one per column. rows: cells, the first one the name. kinds: a CSS class per row."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    kinds: Sequence[str] = ()

    def html(self) -> str:
        head = "".join(f"<th>{_breakable(h)}</th>" for h in self.heads)
        body = []
        for i, row in enumerate(self.rows):
            css = f' class="{self.kinds[i]}"' if self.kinds and self.kinds[i] else ""
            body.append(f"<tr{css}>{''.join(self._td(cell, k) for k, cell in enumerate(row))}</tr>")
        return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'

    def markdown(self) -> str:
        lines = [[markdown_text(h) for h in self.heads], ["---", *["---:"] * (len(self.heads) - 1)]]
        for row in self.rows:
            cells = []
            for k, cell in enumerate(row):
                text = markdown_text(cell.text)
                text = f"**{text}**" if cell.best else text
                cells.append(f"{text} {markdown_text(cell.below)}" if cell.below and k else text)
            lines.append(cells)
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    def _td(self, cell: Cell, column: int) -> str:
        text = clean(cell.text) if column else _breakable(cell.text)
        text = f'<span class="best">{text}</span>' if cell.best else text
        css = ' class="words"' if cell.words else ""
        return f"<td{css}>{text}{f'<small>{clean(cell.below)}</small>' if cell.below else ''}</td>"


def markdown_text(text: object) -> str:
    """Text that cannot break out of a Markdown table cell or become markup."""
    safe = clean(text).replace("\n", " ").replace("\\", "\\\\")
    for mark in "|`*_[]<>":
        safe = safe.replace(mark, f"\\{mark}")
    return safe


def _breakable(name: str) -> str:
    """A name that a browser may break after its underscores and slashes, and must break at a newline."""
    return clean(name).replace("_", "_<wbr>").replace("/", "/<wbr>").replace("\n", "<br>")
