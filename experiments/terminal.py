"""How the commands print: one console, texts that cannot control the terminal, and numbers as text."""

from __future__ import annotations

import sys

from rich.console import Console

# Texts are printed as they are: in a name or an error, [...] and :word: are no instructions to rich.
console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 120)


def printable(text: str) -> str:
    """Return a text with "?" for every character that could control a terminal; lines stay lines."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


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
