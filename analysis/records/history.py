"""One history out of the attempts of a run.

When a run resumes from a checkpoint of step S, veRL validates again at S, logs these validation metrics alone, and
trains on from S+1. So the restore throws away what earlier attempts trained after S. At S itself, the earlier attempt
has the training metrics and the later one has validation metrics, and they are merged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from analysis.records.rows import Rows

LARGEST = 1e100  # beyond it, squares overflow: a value as large counts as infinite
Row = tuple[int, Mapping[str, float]]
Curve = Sequence[tuple[int, float]]

# Only the row of a trained step has this metric, or one of these before veRL 0.2. Other rows hold a validation alone.
TRAINED = "training/global_step"
TRAINED_EARLIER = ("actor/pg_loss", "critic/score/mean")


def is_trained(row: Mapping[str, float]) -> bool:
    """Return whether the row is of a step that trained."""
    return TRAINED in row or any(metric in row for metric in TRAINED_EARLIER)


@dataclass(frozen=True)
class History:
    """The metrics of a run by step: those of the training that led to its final weights."""

    rows: Rows
    """{step: {metric: value}}, steps ascending."""
    redone: int = 0
    """How many trained steps of earlier attempts a restore threw away."""

    @classmethod
    def of(cls, rows: Mapping[int, Mapping[str, float]], redone: int = 0) -> History:
        """Return the history of these rows."""
        return cls(Rows(rows), redone)

    @cached_property
    def _trained(self) -> list[int]:
        return sorted({step for metric in (TRAINED, *TRAINED_EARLIER) for step in self.rows.steps_with(metric)})

    @cached_property
    def _curves(self) -> dict[str, Curve]:
        return {}

    def trained_steps(self) -> list[int]:
        """Return the steps that trained, ascending."""
        return self._trained

    def last_step(self) -> int:
        """Return the last trained step, 0 if no step was trained."""
        return self._trained[-1] if self._trained else 0

    def reached(self) -> int:
        """Return the step that training came to, 0 if no step was trained.

        That is the last trained step, or the step behind it if the last row holds a validation alone: TinyZero's
        trainer counts on, logs only the validation of step N, and ends, so that its last trained step is N - 1.
        """
        last = self.last_step()
        return last + 1 if last and last + 1 in self.rows else last

    def gaps(self, end: int | None = None) -> list[tuple[int, int]]:
        """Return the ranges (first, last) of steps that no attempt recorded, from step 1 to the last trained step.

        `end`: a later step that training is known to have come to. A trainer that logs every tenth step leaves no gap.
        """
        trained, end = self._trained, max(self.last_step(), end or 0)
        apart = Counter(after - before for before, after in pairwise(trained))
        usual = min(apart, key=lambda distance: (-apart[distance], distance), default=1)
        gaps, expected = [], usual
        for step in trained:
            if step > expected:
                gaps.append((expected, step - 1))
            expected = step + usual
        if end >= expected and end > self.reached():
            gaps.append((self.reached() + 1, end))
        return gaps

    def metrics(self) -> set[str]:
        """Return the names of all metrics that occur."""
        return self.rows.metrics()

    def curve(self, metric: str) -> Curve:
        """Return [(step, value)] of `metric`, steps ascending; steps where it is missing or not finite are left out."""
        if metric not in self._curves:
            self._curves[metric] = self.rows.points(metric, LARGEST)
        return self._curves[metric]


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
    return History.of(joined, redone)
