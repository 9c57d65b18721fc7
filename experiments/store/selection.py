"""How a user says which runs are meant: by the beginning of a name or an id, and by conditions KEY=VALUE, KEY!=VALUE.

`python -m experiments.runs` and the analysis read both in the same way.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from experiments.store.rundir import id_of

START_ONE = "start one with: python -m experiments.run"


@dataclass(frozen=True)
class Condition:
    """KEY=VALUE, or KEY!=VALUE for all runs that KEY=VALUE leaves out."""

    key: str
    text: str
    """The value as the user typed it."""
    equal: bool = True

    def accepts(self, values: Iterable[Any]) -> bool:
        """Return whether a run that has these values under the key meets the condition; several are a run's tags."""
        return any(means(self.text, value) for value in values) is self.equal

    def __str__(self) -> str:
        return f"{self.key}{'=' if self.equal else '!='}{self.text}"


def parse_condition(text: str) -> Condition | None:
    """Return the condition that a text spells, None if it spells none."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip("! "):
        return None
    return Condition(key.removesuffix("!").strip(), value.strip(), not key.endswith("!"))


def means(text: str, value: Any) -> bool:
    """Return whether a text typed by a user means a config's value.

    1 means 1.0, null means None, true means True. In the text for a string or a list, * stands for any characters
    and ? for one.
    """
    if value is None or isinstance(value, bool):
        return text.lower() in {None: ("null", "none"), True: ("true",), False: ("false",)}[value]
    if text == str(value):
        return True
    if not isinstance(value, int | float):
        return fnmatch.fnmatchcase(str(value), text)
    try:
        return float(text) == value
    except ValueError:
        return False


def matching(wanted: str, names: Collection[str]) -> list[str]:
    """Return the names of the runs that `wanted` can mean: one if that is clear.

    A whole name comes before a whole id, and a whole id before the beginning of a name or an id.
    """
    return (
        [name for name in names if name == wanted]
        or [name for name in names if id_of(name) == wanted]
        or [name for name in names if name.startswith(wanted) or id_of(name).startswith(wanted)]
    )


def nearest(wanted: str, known: Iterable[str], alike: float = 0.0) -> list[str]:
    """Return at most three known words, the most alike first; each at least as much `alike` as said, from 0 to 1."""
    return difflib.get_close_matches(wanted, list(known), n=3, cutoff=alike)
