"""Which arm the others are compared with: the one that was named, the plan's, or the most central one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from analysis.design.factors import Factor, setting
from analysis.design.levels import level_order
from analysis.records.knobs import find_key
from analysis.records.record import RunRecord
from experiments.errors import UserError
from experiments.store.selection import Condition

ARTICLES_BASELINE = {
    "algorithm": "grpo",
    "rollout.temperature": 1.0,
    "rollout.n": 5,
    "kl.coef": 0.001,
}
Levels = tuple[Hashable, ...]
Cells = dict[Levels, list[RunRecord]]


def find_baseline(
    cells: Mapping[Levels, Sequence[RunRecord]], factors: Sequence[Factor], named: Sequence[Condition]
) -> Levels:
    """Return the arm that the others are compared with.

    It is the arm that `named` describes, if there is one. Else an arm that has begun to train comes before one that has
    not; then the arm from which all others differ by what their plans say was changed; then the arm from which the most
    others differ in one factor alone; then the one most like the article's baseline, the one with the most runs, and
    the one with the lowest levels. The order in which the runs are read decides nothing.
    """
    changes = {levels: changes_of(runs[0]) for levels, runs in cells.items()}

    def rank(levels: Levels) -> tuple[Any, ...]:
        runs, own = cells[levels], changes[levels]
        return (
            bool(named) and meets(runs[0], named),
            any(run.history.rows for run in runs),
            own is not None and all(other is not None and own <= other for other in changes.values()),
            sum(distance(levels, other) == 1 for other in cells),
            sum(setting(runs[0], key) == value for key, value in ARTICLES_BASELINE.items()),
            sum(run.complete for run in runs),
            len(runs),
        )

    lowest_first = sorted(
        cells, key=lambda levels: [level_order(f.key, v) for f, v in zip(factors, levels, strict=True)]
    )
    return max(lowest_first, key=rank)


def changes_of(run: RunRecord) -> frozenset[str] | None:
    """Return what the plan changed against the defaults, as the run's tags tell; None if no plan gave it tags."""
    if f"seed={run.seed}" not in run.tags:
        return None
    return frozenset(run.tags) - {f"seed={run.seed}", "baseline"}


def meets(run: RunRecord, named: Sequence[Condition]) -> bool:
    """Return whether a run meets all conditions on its config."""
    return all(condition.accepts((run.config.get(find_key(condition.key, run.config)),)) for condition in named)


def check_named(records: Sequence[RunRecord], named: Sequence[Condition]) -> None:
    """Raise UserError if no run meets what `--baseline` says."""
    if named and not any(meets(record, named) for record in records):
        asked = " ".join(map(str, named))
        keys = [find_key(condition.key, records[0].config) for condition in named]
        there = "; ".join(f"{key} is {', '.join(sorted({str(r.config.get(key)) for r in records}))}" for key in keys)
        raise UserError(f"--baseline must describe an arm, but no run has {asked}; {there}")


def distance(one: Levels, other: Levels) -> int:
    """Return in how many factors two arms differ."""
    return sum(a != b for a, b in zip(one, other, strict=True))
