"""A table for the terminal, and as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

MISSING = "-"

# A cell may have several lines. The terminal shows them below each other, Markdown one after the other.
Rows = list[list[str]]


def terminal_table(title: str, columns: Sequence[str], rows: Rows) -> Table:
    """Return a table as the terminal shows it."""
    from rich.table import Table

    table = Table(
        title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    table.padding = (0, 1, 0, 0)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def markdown_table(columns: Sequence[str], rows: Rows) -> str:
    """Return a Markdown table; line breaks in cells become ", " and pipes are escaped."""

    def line(cells: Sequence[str]) -> str:
        flat = [cell.replace("\n→", "→").replace("\n", ", ") for cell in cells]
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in flat) + " |"

    headers = [column.replace("\n", " ") for column in columns]
    return "\n".join([line(headers), "|" + " --- |" * len(columns), *map(line, rows)]) + "\n"


def table_csv(rows: Sequence[Sequence[object]]) -> str:
    """Return rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


LATEX = {special: f"\\{special}" for special in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
}


def escape(text: str) -> str:
    """Return text as LaTeX prints it."""
    return "".join(LATEX.get(character, character) for character in text)


def latex(rows: Sequence[Sequence[str]], caption: str) -> str:
    """Return a booktabs table; the document needs \\usepackage{booktabs}."""
    lines = [" & ".join(map(escape, row)) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
