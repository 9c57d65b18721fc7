"""A table for the terminal, and as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import html
import io
import re
import textwrap
from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

MISSING = "-"

# A cell may have several lines. The terminal shows them below each other, Markdown one after the other.
Rows = list[list[str]]


GAP = 2  # columns between two cells
MOST = 24
TOGETHER = "\u00a0"  # a blank at which no line is broken


def terminal_table(title: str, columns: Sequence[str], rows: Rows, width: int) -> list[Table]:
    """Return a table as a terminal of that width shows it: lines are broken between words.

    If the words alone are wider than the terminal, the table goes on in further tables, which repeat the first column.
    """
    grid = [[spaced(cell) for cell in row] for row in [list(columns), *rows]]
    words = [longest(re.split("[ \n]", row[place]) for row in grid) for place in range(len(columns))]
    words[0] = max(
        words[0], min(MOST, longest(row[0].split("\n") for row in grid))
    )  # what names a row stays in one piece
    tables: list[list[int]] = [[0]]
    for place in range(1, len(columns)):
        if len(tables[-1]) > 1 and sum(words[known] + GAP for known in (*tables[-1], place)) - GAP > width:
            tables.append([0])
        tables[-1].append(place)
    made = []
    for number, places in enumerate(tables):
        full = {place: longest(row[place].split("\n") for row in grid) for place in places}
        while sum(full.values()) + GAP * (len(places) - 1) > width:
            widest = max(places, key=lambda place: (full[place] - words[place], full[place]))
            if full[widest] <= words[widest]:
                break
            full[widest] -= 1
        heading = Text(title, style="bold") if number == 0 else None
        table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.padding = (0, 1, 0, 0)
        for place in places:
            table.add_column(Text(wrapped(grid[0][place], full[place])), no_wrap=True, overflow="fold")
        for row in grid[1:]:
            table.add_row(*(Text(wrapped(row[place], full[place])) for place in places))
        made.append(table)
    return made


def longest(texts: Iterable[Sequence[str]]) -> int:
    """Return the length of the longest of the texts in these lists."""
    return max((len(text) for some in texts for text in some), default=0)


def wrapped(cell: str, width: int) -> str:
    """Return a cell with its lines broken between words, at most `width` long where no word is longer."""
    whole = {"break_long_words": False, "break_on_hyphens": False}
    lines = [textwrap.wrap(line, max(1, width), **whole) for line in cell.split("\n")]  # type: ignore[arg-type]
    return "\n".join(part for some in lines for part in some or [""]).replace(TOGETHER, " ")


def spaced(cell: str) -> str:
    """Return a cell in which words longer than MOST, as names of runs are, may be broken behind their commas.

    No line begins with the sign of an interval.
    """
    words = [word.replace(",", ", ") if len(word) > MOST else word for word in cell.split(" ")]
    return " ".join(words).replace(" ±", f"{TOGETHER}±").replace("± ?", f"±{TOGETHER}?")


def markdown_text(text: str) -> str:
    """Return a text that Markdown shows as it is: no HTML."""
    return html.escape(text, quote=False)


def markdown_table(columns: Sequence[str], rows: Rows) -> str:
    """Return a Markdown table; line breaks in cells become ", " and pipes are escaped."""

    def line(cells: Sequence[str]) -> str:
        flat = [cell.replace("\n→", "→").replace("\n", ", ") for cell in cells]
        return "| " + " | ".join(markdown_text(cell).replace("|", "\\|") for cell in flat) + " |"

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
