"""The values of settings: told apart by value and type, written as figures write them, and put into order."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from analysis.records.knobs import ALGORITHM, ALGORITHMS, SHORT_NAMES
from analysis.records.record import printable
from experiments.values import as_float

TEMPERATURE = SHORT_NAMES["temperature"]


class Typed(NamedTuple):
    """A value that Python would take for another one (True for 1), can't hash (a list) or never finds equal (NaN)."""

    kind: str
    text: str


def frozen(value: Any) -> Hashable:
    """Return a hashable stand-in for a config value. 1 and 1.0 are one value; 1, True, "1" and "true" are four."""
    if isinstance(value, bool):
        return Typed("bool", str(value).lower())
    if isinstance(value, float) and math.isnan(value):
        return Typed("float", "nan")
    if value is None or isinstance(value, int | float | str):
        return value
    return Typed("json", json.dumps(value, sort_keys=True, default=str))


def level_text(key: str, value: Hashable) -> str:
    """Return a level as figures write it: a temperature of 1 as 1.0, ppo as PPO."""
    if isinstance(value, Typed):
        return value.text
    if isinstance(value, str):
        return ALGORITHMS.get(value, printable(value)) if key == ALGORITHM else printable(value)
    if isinstance(value, float) or (key == TEMPERATURE and isinstance(value, int)):
        return repr(float(f"{as_float(value):.10g}"))  # 0.1 + 0.2 is 0.3 to a reader
    return "none" if value is None else str(value)


def exact_text(value: Hashable) -> str:
    """Return a level so that no other level has the same text: texts in quotes, numbers with all their digits."""
    if isinstance(value, Typed):
        return value.text
    return json.dumps(value) if value is None or isinstance(value, str) else repr(value)


def level_texts(key: str, values: Sequence[Hashable]) -> list[str]:
    """Return the levels as figures write them; where two of them would read the same, exactly."""
    texts = [level_text(key, value) for value in values]
    exact: dict[str, set[Hashable]] = {}
    for text, value in zip(texts, values, strict=True):
        exact.setdefault(text, set()).add(value)
    return [exact_text(value) if len(exact[text]) > 1 else text for text, value in zip(texts, values, strict=True)]


def level_order(key: str, value: Hashable) -> tuple[int, float, str]:
    """Return the key that sorts a factor's levels: numbers by size, then texts by the alphabet."""
    number = None if isinstance(value, Typed) else as_float(value)
    return (1, 0.0, level_text(key, value)) if number is None else (0, number, "")


def told_apart(labels: Sequence[str]) -> list[str]:
    """Return the labels, each once: of equal ones all but the first get a number."""
    seen: Counter[str] = Counter()
    out = []
    for label in labels:
        seen[label] += 1
        out.append(f"{label} ({seen[label]})" if seen[label] > 1 else label)
    return out
