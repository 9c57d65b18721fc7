"""The values of a config: look one up by its dotted key, walk a tree, tell a number from anything else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

Config = Mapping[str, Any]


def at(config: Any, key: str, missing: Any = None) -> Any:
    """Return the value at a dotted key ("rollout.temperature"); `missing` if the config has no such key."""
    value = config
    for part in key.split("."):
        value = value.get(part, missing) if isinstance(value, Mapping) else missing
    return value


def flatten(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every leaf; lists and empty mappings are leaves."""
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{name}.")
        else:
            yield name, value


def nodes(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every node of a tree, leaves included."""
    for key, value in node.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from nodes(value, f"{prefix}{key}.")


def meets(one: str, other: str) -> bool:
    """Return whether two keys are equal, or one is inside the other."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is an int or float that is finite as a float; True and False are not numbers."""
    number = None if isinstance(value, bool) else as_float(value)
    return number is not None and math.isfinite(number)


def as_float(value: Any) -> float | None:
    """Return a recorded number as a float, None for anything else; true is 1.0, as W&B draws it.

    An int that no float can hold is infinite.
    """
    if not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def is_whole(value: Any, least: int) -> bool:
    """Return whether a value is an int of at least `least`; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def divisors(number: int) -> list[int]:
    """Return the divisors of a positive number, smallest first."""
    small = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    return sorted({*small, *(number // size for size in small)})
