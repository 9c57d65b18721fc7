"""An arm: the runs that differ in nothing but the seed."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from analysis.records.record import RunRecord

SHORT = 0.5  # of the furthest run's steps: a shorter run is left out of the mean, which would end where it ends


@dataclass(frozen=True)
class Arm:
    """One point of the design: the runs that differ in nothing but the seed."""

    label: str
    """Its name in files for programs and in notes; no other arm of the ablation has the same."""
    runs: tuple[RunRecord, ...]
    levels: tuple[Hashable, ...] = ()
    """The values of the factors that the ablation varies."""
    title: str = ""
    """Its name in a sweep file; "" where none gives it one."""
    is_baseline: bool = False
    """Whether it is the baseline, with which the other arms of the ablation are compared."""

    @property
    def name(self) -> str:
        """Its name in figures and tables."""
        return self.title or self.label

    @property
    def averaged(self) -> tuple[RunRecord, ...]:
        """The runs whose mean is drawn: those that got at least half as far as the furthest run.

        The mean ends where its shortest run ends.
        """
        furthest = max((run.history.last_step() for run in self.runs), default=0)
        return tuple(run for run in self.runs if run.history.last_step() >= SHORT * furthest)

    @property
    def complete(self) -> tuple[RunRecord, ...]:
        """The runs that reached their last step: the table and the claims count these alone."""
        return tuple(run for run in self.runs if run.complete)

    def run_label(self, run: RunRecord) -> str:
        """Return how to name one of the runs in a sentence, e.g. "temperature=1.2 seed 0"."""
        return run.name if self.label == run.name or run.seed is None else f"{self.label} seed {run.seed}"


def seeds_text(arm: Arm) -> str:
    """Return e.g. "1 seed" or "3 seeds"; "2 of 3 seeds" if the mean leaves out one of them."""
    few = f"{len(arm.averaged)} of " if len(arm.averaged) < len(arm.runs) else ""
    return f"{few}{len(arm.runs)} seed{'s' if len(arm.runs) > 1 else ''}"
