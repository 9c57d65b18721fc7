"""One history out of the attempts of a run.

When a run resumes from a checkpoint of step S, veRL validates again at S, logs these validation metrics alone, and
trains on from S+1. So the restore throws away what earlier attempts trained after S. At S itself, the earlier attempt
has the training metrics and the later one has validation metrics, and they are merged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Row = tuple[int, Mapping[str, float]]
Curve = list[tuple[int, float]]

# Only the row of a trained step has this metric, or one of these before veRL 0.2. Other rows hold a validation alone.
TRAINED = "training/global_step"
TRAINED_EARLIER = ("actor/pg_loss", "critic/score/mean")


def is_trained(row: Mapping[str, float]) -> bool:
    """Return whether the row is of a step that trained."""
    return TRAINED in row or any(metric in row for metric in TRAINED_EARLIER)


@dataclass(frozen=True)
class History:
    """The metrics of a run by step: those of the training that led to its final weights."""

    rows: Mapping[int, Mapping[str, float]]
    """{step: {metric: value}}, steps ascending."""
    redone: int = 0
    """How many trained steps of earlier attempts a restore threw away."""

    def trained_steps(self) -> list[int]:
        """Return the steps that trained, ascending."""
        return [step for step, row in self.rows.items() if is_trained(row)]

    def last_step(self) -> int:
        """Return the last trained step, 0 if no step was trained."""
        return max(self.trained_steps(), default=0)

    def gaps(self) -> list[tuple[int, int]]:
        """Return the ranges (first, last) of steps that no attempt recorded, from step 1 to the last trained step."""
        gaps, expected = [], 1
        for step in self.trained_steps():
            if step > expected:
                gaps.append((expected, step - 1))
            expected = step + 1
        return gaps

    def metrics(self) -> set[str]:
        """Return the names of all metrics that occur."""
        return {metric for row in self.rows.values() for metric in row}

    def curve(self, metric: str) -> Curve:
        """Return [(step, value)] of `metric`, steps ascending; steps where it is missing or not finite are left out."""
        return [(step, row[metric]) for step, row in self.rows.items() if math.isfinite(row.get(metric, math.nan))]


def join(attempts: Iterable[Sequence[Row]]) -> History:
    """Return the one history of `attempts`, each a sequence of (step, metrics), oldest attempt first.

    From the first step that an attempt trained, all rows of earlier attempts are dropped, and the trained steps among
    them are counted as redone. Rows that remain at the same step are merged; if both have a metric, the later value
    counts. An attempt that only validated drops nothing.
    """
    joined: dict[int, Mapping[str, float]] = {}
    redone = 0
    for rows in attempts:
        first_trained = min((step for step, row in rows if is_trained(row)), default=None)
        if first_trained is not None:
            dropped = [step for step in joined if step >= first_trained]
            redone += sum(is_trained(joined[step]) for step in dropped)
            for step in dropped:
                del joined[step]
        for step, row in rows:
            joined[step] = {**joined[step], **row} if step in joined else row
    return History({step: joined[step] for step in sorted(joined)}, redone)
