"""What is drawn of an arm in one panel: every seed's line, the mean of the lines, and the interval of the mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from analysis.design.arms import Arm
from analysis.figures.smoothing import Smoothing
from analysis.records import record
from analysis.records.axes import STEP, Axis
from analysis.records.curves import VALIDATION_CURVES, Curves
from analysis.records.history import Curve
from analysis.records.record import RunRecord
from analysis.statistics.intervals import mean, mean_interval

MOST_POINTS = 100  # of a training curve; more can't be told apart in a panel


def is_validation(curve: str) -> bool:
    """Return whether a curve or metric is of validation, which has few points far apart."""
    return curve in VALIDATION_CURVES or record.is_validation(curve)


@dataclass(frozen=True)
class View:
    """Against which axis curves are drawn, and how they are smoothed. Validation, with its few points, never is."""

    axis: Axis = STEP
    smoothing: Smoothing = field(default_factory=Smoothing)

    def smooths(self, curve: str) -> bool:
        return bool(self.smoothing) and not is_validation(curve)


@dataclass(frozen=True)
class Line:
    """Points along the axis; `steps` are the training steps of the points."""

    steps: list[int]
    xs: list[float]
    ys: list[float]

    def __bool__(self) -> bool:
        return bool(self.xs)


@dataclass(frozen=True)
class Series:
    """The lines of one arm in one panel."""

    seeds: list[tuple[RunRecord, Line, Line]]
    """(run, its line as recorded, its line as shown) of each run with data."""
    mean: Line
    """The mean over the runs of `Arm.averaged` that there are at a step; empty for a single run."""
    low: list[float]
    high: list[float]
    """The interval of the mean; NaN where it is of one run."""
    count: list[int]
    """Of how many runs the mean is."""


def arm_series(arm: Arm, curve: str, curves: Mapping[str, Curves], view: View) -> Series:
    """Return what to draw of a curve of an arm.

    A run that ended does not end the mean: it goes on with the runs there are. A step counts if all runs whose lines
    pass it have it.
    """
    seeds = []
    for run in arm.runs:
        raw = place(curves[run.name][curve], view.axis.places(run))
        if raw:
            ys = view.smoothing.apply(raw.xs, raw.ys) if view.smooths(curve) else raw.ys
            seeds.append((run, raw, Line(raw.steps, raw.xs, ys)))
    shown = [line for run, _, line in seeds if run in arm.averaged]
    if len(shown) < 2:
        return Series(seeds, Line([], [], []), [], [], [])
    points: dict[int, list[tuple[float, float]]] = {}
    for line in shown:
        for step, x, y in zip(line.steps, line.xs, line.ys, strict=True):
            points.setdefault(step, []).append((x, y))
    steps, xs, ys, lows, highs, count = [], [], [], [], [], []
    for step in sorted(points):
        here = points[step]
        if len(here) < sum(line.steps[0] <= step <= line.steps[-1] for line in shown):
            continue
        interval = mean_interval([y for _, y in here])
        steps.append(step)
        xs.append(mean([x for x, _ in here]))
        ys.append(mean([y for _, y in here]))
        lows.append(interval.low if interval else math.nan)
        highs.append(interval.high if interval else math.nan)
        count.append(len(here))
    return Series(seeds, Line(steps, xs, ys), lows, highs, count)


def binned(line: Line, low: Sequence[float] = (), high: Sequence[float] = ()) -> tuple[Line, list[float], list[float]]:
    """Return (a line, its lower and its upper bounds) as the means of at most MOST_POINTS bins of equal size."""
    size = math.ceil(len(line.xs) / MOST_POINTS)
    if size < 2:
        return line, list(low), list(high)

    def means(values: Sequence[float]) -> list[float]:
        return [mean(values[start : start + size]) for start in range(0, len(values), size)]

    middle = [line.steps[min(start + size // 2, len(line.steps) - 1)] for start in range(0, len(line.steps), size)]
    return Line(middle, means(line.xs), means(line.ys)), means(low), means(high)


def place(curve: Curve, places: Mapping[int, float]) -> Line:
    """Return a curve's points along an axis; points whose place on it is not known are left out."""
    known = [(step, value) for step, value in curve if step in places]
    return Line([step for step, _ in known], [places[step] for step, _ in known], [value for _, value in known])
