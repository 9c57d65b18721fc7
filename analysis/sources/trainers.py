"""Rows of any trainer, in veRL's words: a small table says how others name their steps and metrics."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from analysis.records.history import TRAINED, Row, is_trained
from experiments.errors import UserError

TABLE = Path(__file__).with_name("trainers.yaml")
PARTS = {"{source}": r"(?P<source>.+?)", "{n}": r"(?P<n>\d+)"}


@dataclass(frozen=True)
class Trainers:
    """The table."""

    steps: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    metrics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """{veRL's name: what others call it}."""
    seeds: tuple[str, ...] = ()
    total_steps: tuple[str, ...] = ()

    def rows(self, logged: Sequence[Row]) -> list[list[Row]]:
        """Return the rows, each at the step that trained it, cut into attempts: a step that does not rise begins one.

        The step that a row itself tells counts more than the number that W&B gave the row: two attempts that were sent
        under one id are numbered on. A row that tells no step is a validation; it belongs to the trained row behind it,
        or to the one before it where none follows.
        """
        rows = [(number, self.translated(row)) for number, row in logged]
        told = [self.step(row) for _, row in rows]
        shifts: list[int | None] = [
            None if step is None or not is_trained(row) else number - step
            for (number, row), step in zip(rows, told, strict=True)
        ]
        ahead: int | None = None
        following = []
        for shift in reversed(shifts):
            ahead = shift if shift is not None else ahead
            following.append(ahead)
        legs: list[list[Row]] = [[]]
        before = last = 0
        for (number, row), step, shift, behind in zip(rows, told, shifts, reversed(following), strict=True):
            before = shift if shift is not None else before
            place = step if step is not None else number - (behind if behind is not None else before)
            if legs[-1] and (place < last or (place == last and is_trained(row) and is_trained(legs[-1][-1][1]))):
                legs.append([])
            legs[-1].append((max(0, place), row))
            last = place
        return legs

    def step(self, row: Mapping[str, float]) -> int | None:
        """Return the step that a row tells, None if it tells none."""
        values = (row[name] for name in self.steps if name in row)
        return next((int(value) for value in values if abs(value) < 1e15), None)

    def translated(self, row: Mapping[str, float]) -> Mapping[str, float]:
        """Return a row with veRL's names beside the others'; a row of veRL's as it is."""
        if TRAINED in row or not row.keys() - {TRAINED}:
            return row
        more: dict[str, float] = {}
        for name, value in row.items():
            for ours in self.ours(name):
                more.setdefault(ours, value)
        step = self.step(row)
        if step is not None and not is_trained(row) and any(name in row for name in self.trained):
            more[TRAINED] = step
        return {**more, **row} if more else row

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], str]]:
        found = []
        for ours, theirs in self.metrics.items():
            for name in theirs:
                pattern = re.escape(name)
                for part, group in PARTS.items():
                    pattern = pattern.replace(re.escape(part), group)
                found.append((re.compile(pattern), ours))
        return found

    @cached_property
    def _known(self) -> dict[str, list[str]]:
        return {}

    def ours(self, name: str) -> list[str]:
        """Return veRL's names of a metric of another trainer."""
        if name not in self._known:
            matches = [(pattern.fullmatch(name), ours) for pattern, ours in self._patterns]
            self._known[name] = [ours.format(**match.groupdict()) for match, ours in matches if match]
        return self._known[name]

    def first(self, config: Mapping[str, Any], keys: Sequence[str]) -> Any:
        """Return the value of the first of the keys that a config has, None if it has none."""
        return next((config[key] for key in keys if config.get(key) is not None), None)


@cache
def read_trainers(more: Path | None = None) -> Trainers:
    """Return the table, with the names of a file of the user's before it; UserError if the file has another form."""
    tables = [_read(path) for path in (more, TABLE) if path]
    metrics: dict[str, tuple[str, ...]] = {}
    for table in tables:
        for name, theirs in table.metrics.items():
            metrics[name] = (*metrics.get(name, ()), *theirs)
    joined = {
        part: tuple(dict.fromkeys(name for table in tables for name in getattr(table, part)))
        for part in ("steps", "trained", "seeds", "total_steps")
    }
    return Trainers(metrics=metrics, **joined)


def _read(path: Path) -> Trainers:
    form = f"--trainers must be a YAML file in the form of {TABLE.name}"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{form}, but {path} can't be read: {' '.join(str(error).split())}; mend it") from None
    known = Trainers.__dataclass_fields__
    if not isinstance(content, dict) or set(content) - set(known):
        extra = ", ".join(map(str, set(content) - set(known))) if isinstance(content, dict) else "no mapping"
        raise UserError(f"{form}, with the keys {', '.join(known)}, but {path} has {extra}; drop it")
    metrics = content.pop("metrics", None) or {}
    named = metrics if isinstance(metrics, dict) else {"": None}
    lists = {**content, **{f"metrics.{name}": value for name, value in named.items()}}
    wrong = [name for name, value in lists.items() if not _are_texts(value)]
    if wrong:
        raise UserError(f"{form}, with lists of names, but {path} has none under {', '.join(wrong)}; mend it")
    parts = {part: tuple(names) for part, names in content.items()}
    return Trainers(metrics={name: tuple(theirs or ()) for name, theirs in named.items()}, **parts)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
