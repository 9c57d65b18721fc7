"""A rule for one value of a config: what the value must be, and what the message says if it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from experiments.values import Config, is_number, is_whole


def always(config: Config) -> bool:
    """Hold for every config."""
    return True


@dataclass(frozen=True)
class Rule:
    """What the value at a key must be: `good` tests it, `kind` says it in words, `do` proposes a value that works."""

    key: str
    kind: str
    good: Callable[[Any], bool]
    do: str
    when: Callable[[Config], bool] = always
    repeats: str | None = None
    """Our key that this key of veRL's copies unless it is set by itself: one wrong value is then reported once."""

    def fits(self, value: Any) -> bool:
        """Return whether a value is good; a value that can't even be compared is not."""
        try:
            return self.good(value)
        except (TypeError, OverflowError):
            return False


def whole(key: str, least: int, do: str, **more: Any) -> Rule:
    """Return the rule that a value must be a whole number of at least `least`."""
    return Rule(key, f"a whole number of at least {least}", lambda value: is_whole(value, least), do, **more)


def whole_or_null(key: str, do: str) -> Rule:
    """Return the rule that a value must be null or a whole number of at least 1."""
    return Rule(key, "null or a whole number of at least 1", lambda value: value is None or is_whole(value, 1), do)


def above_zero(key: str, do: str, **more: Any) -> Rule:
    """Return the rule that a value must be a number above 0."""
    return Rule(key, "a number above 0", lambda value: is_number(value) and value > 0, do, **more)


def not_negative(key: str, do: str, **more: Any) -> Rule:
    """Return the rule that a value must be a number of at least 0."""
    return Rule(key, "a number of at least 0", lambda value: is_number(value) and value >= 0, do, **more)


def flag(key: str, do: str = "false", **more: Any) -> Rule:
    """Return the rule that a value must be true or false."""
    return Rule(key, "true or false", lambda value: isinstance(value, bool), f"try {do}", **more)


def one_of(key: str, choices: tuple[Any, ...], do: str, **more: Any) -> Rule:
    """Return the rule that a value must be one of the texts in `choices`."""
    names = f"{', '.join(map(str, choices[:-1]))} or {choices[-1]}"
    return Rule(key, names, lambda value: isinstance(value, str) and value in choices, do, **more)


def text(key: str, do: str, kind: str = "a text") -> Rule:
    """Return the rule that a value must be a text that is not empty."""
    return Rule(key, kind, lambda value: isinstance(value, str) and bool(value.strip()), do)
