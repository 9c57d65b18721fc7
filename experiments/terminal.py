"""How the commands print: one console, texts that cannot control the terminal, and numbers as text."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

# Texts are printed as they are: in a name or an error, [...] and :word: are no instructions to rich.
console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 120)


def printable(text: str) -> str:
    """Return a text with "?" for every character that could control a terminal; lines stay lines."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], expendable: Sequence[str] = ()
) -> None:
    """Print a table in which no word is broken, as long as the window has room for the longest one of each column.

    The first column has names: where the window is narrow, they are broken behind their commas. Where that is not
    enough, `expendable` columns are left out, the first of them first, and a line says which.
    """
    from rich.table import Table

    def widest(place: int, words: bool) -> int:
        cells = [columns[place], *(row[place] for row in rows)]
        return max(len(piece) for cell in cells for piece in (cell.split() if words else cell.split("\n")) or [""])

    shown = list(range(len(columns)))
    if sum(widest(place, words=False) + 3 for place in shown) + 1 > console.width:
        rows = [[row[0].replace(",", ", "), *row[1:]] for row in rows]
    for name in expendable:
        if sum(widest(place, words=True) + 3 for place in shown) + 1 > console.width:
            shown.remove(columns.index(name))
    table, room = Table(title=title, title_justify="left"), console.width - 1
    room -= sum(widest(place, words=True) + 3 for place in shown)
    for place in shown:
        more = max(0, min(room, widest(place, words=False) - widest(place, words=True)))
        room -= more
        table.add_column(columns[place], overflow="fold", width=widest(place, words=True) + more)
    for row in rows:
        table.add_row(*(row[place] for place in shown))
    console.print(table)
    if len(shown) < len(columns):
        hidden = ", ".join(name for place, name in enumerate(columns) if place not in shown)
        console.print(f"no room for {hidden}: a wider window shows all")


def size(count: int) -> str:
    """Return a number of bytes as text, in units of 1024: "3.6 GiB", "12 MiB", "512 B"."""
    for unit, bytes_ in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= bytes_:
            return f"{count / bytes_:.1f} {unit}" if unit in ("TiB", "GiB") else f"{count / bytes_:.0f} {unit}"
    return f"{count} B"


def counted(number: int, noun: str) -> str:
    """Return e.g. "1 run" or "3 runs"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def hours_text(hours: float) -> str:
    """Return a number of hours with two significant digits: "0.021", "4.5", "44", "1,300"."""
    return f"{hours:.2g}" if hours < 99.5 else f"{float(f'{hours:.2g}'):,.0f}"
