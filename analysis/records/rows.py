"""The rows of a history, kept in little memory: a dict a row takes ten times as much as its numbers."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload


@dataclass(frozen=True)
class Block:
    """The rows that have the same metrics, by metric."""

    steps: array[int]
    values: Mapping[str, array[float]]


class Points(Sequence[tuple[int, float]]):
    """[(step, value)] of a metric."""

    def __init__(self, steps: array[int], values: array[float]) -> None:
        self.steps, self.values = steps, values

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[tuple[int, float]]:
        return zip(self.steps, self.values, strict=True)

    @overload
    def __getitem__(self, place: int) -> tuple[int, float]: ...

    @overload
    def __getitem__(self, place: slice) -> Points: ...

    def __getitem__(self, place: int | slice) -> tuple[int, float] | Points:
        if isinstance(place, slice):
            return Points(self.steps[place], self.values[place])
        return self.steps[place], self.values[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return repr(list(self))


class Rows(Mapping[int, Mapping[str, float]]):
    """{step: {metric: value}}, steps ascending, as the mapping from which it is made."""

    def __init__(self, rows: Mapping[int, Mapping[str, float]]) -> None:
        alike: dict[tuple[str, ...], list[int]] = {}
        for step in sorted(rows):
            alike.setdefault(tuple(rows[step]), []).append(step)
        self._steps = array("q", sorted(rows))
        self._blocks = []
        for metrics, steps in alike.items():
            columns = zip(*(rows[step].values() for step in steps), strict=True)
            values = {metric: array("d", column) for metric, column in zip(metrics, columns, strict=True)}
            self._blocks.append(Block(array("q", steps), values))

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[int]:
        return iter(self._steps)

    def __getitem__(self, step: int) -> Mapping[str, float]:
        for block in self._blocks:
            place = bisect_left(block.steps, step)
            if place < len(block.steps) and block.steps[place] == step:
                return {metric: values[place] for metric, values in block.values.items()}
        raise KeyError(step)

    def metrics(self) -> set[str]:
        """Return the names of all metrics that occur."""
        return {metric for block in self._blocks for metric in block.values}

    def points(self, metric: str, below: float) -> Points:
        """Return [(step, value)] of a metric, steps ascending; without values that are no number or `below` no more."""
        parts = [(block.steps, block.values[metric]) for block in self._blocks if metric in block.values]
        if len(parts) == 1 and all(-below < value < below for value in parts[0][1]):
            return Points(*parts[0])
        points = sorted((s, y) for part in parts for s, y in zip(*part, strict=True) if -below < y < below)
        return Points(array("q", [step for step, _ in points]), array("d", [value for _, value in points]))

    def steps_with(self, metric: str) -> list[int]:
        """Return the steps whose row has a metric, ascending."""
        return sorted(step for block in self._blocks if metric in block.values for step in block.steps)
