"""What the commands print: one console, and texts that cannot steer a terminal."""

from __future__ import annotations

import sys

from rich.console import Console

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def printable(text: str) -> str:
    """Return a text from a folder, without what a terminal would obey; lines stay lines."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


def size(count: int) -> str:
    """Return a number of bytes as text."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
