"""Arms at equal cost instead of equal steps: an arm whose steps cost more is compared after fewer of them.

All runs of an ablation are cut at the cost that the cheapest of them came to, and read at equal shares of it: a step is
then such a share. Between two recorded values a metric is interpolated linearly. So tables and claims are computed as
they are at equal steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from analysis.design.ablations import Ablation
from analysis.records.axes import Axis, hours_name
from analysis.records.history import TRAINED, Curve, History
from analysis.records.record import RunRecord, is_validation
from experiments.errors import UserError
from experiments.store.events import State


@dataclass(frozen=True)
class EqualCost:
    """What a step stands for, where arms are compared at equal cost."""

    label: str
    """Of the axis, e.g. "tokens"."""
    a_step: float
    """How much of it one step stands for."""

    def text(self, first: int, last: int) -> str:
        """Return a range of steps as text, e.g. "1.2e+06 to 1.5e+06 tokens"."""
        low, high = (f"{step * self.a_step:.3g}" for step in (first, last))
        return f"{low} to {high} {self.label}" if low != high else f"{high} {self.label}"


def at_equal_cost(ablation: Ablation, axis: Axis) -> tuple[Ablation, EqualCost | None, str]:
    """Return (the ablation with its complete runs read at equal cost, what a step is then, a note).

    Without a complete run whose cost is known there is nothing to read: the ablation has no runs then. UserError for an
    axis that is no cost.
    """
    if axis.cost is None:
        raise UserError("--equal must be a cost: samples, tokens, hours or gpu_hours, but is step; leave it out")
    places = {run.name: axis.places(run) for run in ablation.runs if run.complete}
    ends = {run.name: places[run.name].get(run.end, 0.0) for run in ablation.runs if places.get(run.name)}
    unknown = [run.name for run in ablation.runs if run.complete and not ends.get(run.name)]
    known = [run for run in ablation.runs if ends.get(run.name)]
    steps = min((run.end for run in known), default=0)
    total = min((ends[run.name] for run in known), default=0.0)
    every = max((_validation_distance(run) for run in known), default=1)
    read = {run.name: _at_shares(run, places[run.name], total, steps, every) for run in known}
    arms = tuple(
        replace(arm, runs=tuple(read[run.name] for run in arm.runs if run.name in read)) for arm in ablation.arms
    )
    label = hours_name(known) if axis.name == "gpu_hours" else axis.label
    notes = []
    if known:
        notes.append(f"Numbers and claims are at equal {label}: up to {total:.3g}, interpolated between steps.")
    if unknown:
        notes.append(f"Not counted, since their {label} were not recorded: {', '.join(unknown[:3])}.")
    cost = EqualCost(label, total / steps) if known else None
    return replace(ablation, arms=arms), cost, " ".join(notes)


def _validation_distance(run: RunRecord) -> int:
    """Return the largest distance between two steps at which a run was validated; 1 if it was not."""
    steps = sorted(
        {step for name in run.history.metrics() if is_validation(name) for step, _ in run.history.curve(name)}
    )
    return max((after - before for before, after in pairwise(steps)), default=1)


def _at_shares(run: RunRecord, places: Mapping[int, float], total: float, steps: int, every: int) -> RunRecord:
    """Return the run as if each step had cost total / steps: validation at every so many, all else at each step."""
    rows: dict[int, dict[str, float]] = {step: {TRAINED: float(step)} for step in range(1, steps + 1)}
    for metric in run.history.metrics() - {TRAINED}:
        curve = run.history.curve(metric)
        wanted = [step for step in range(steps + 1) if not is_validation(metric) or step % every == 0 or step == steps]
        for step, value in _interpolated(curve, places, [(step, step * total / steps) for step in wanted]):
            rows.setdefault(step, {})[metric] = value
    config = {**run.config, "trainer.test_freq": every, "trainer.total_training_steps": steps}
    return replace(
        run,
        config=config,
        history=History.of(dict(sorted(rows.items()))),
        state=State.FINISHED,
        planned_steps=steps,
        finished_step=steps,
        complete_from=None,
        folder=None,
    )


def _interpolated(
    curve: Curve, places: Mapping[int, float], wanted: Sequence[tuple[int, float]]
) -> list[tuple[int, float]]:
    """Return [(step, the curve's value at its cost)] for the wanted (step, cost) that lie within the curve."""
    known = [(places[step], value) for step, value in curve if step in places]
    if not known:
        return []
    xs, ys = (np.array(column) for column in zip(*known, strict=True))
    reach = 1e-9 * max(1.0, abs(float(xs[-1])))
    return [(step, float(np.interp(cost, xs, ys))) for step, cost in wanted if xs[0] - reach <= cost <= xs[-1] + reach]
