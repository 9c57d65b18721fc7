"""What is drawn of an arm in one panel: every seed's line, the mean of the lines, and the interval of the mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from analysis.design.arms import Arm
from analysis.figures.smoothing import Smoothing
from analysis.records import record
from analysis.records.axes import STEP, Axis
from analysis.records.curves import VALIDATION_CURVES, Curves
from analysis.records.history import Curve
from analysis.records.record import RunRecord
from analysis.statistics.intervals import band, mean


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
    """The mean over `Arm.averaged`, at the steps that all of these runs have; empty for a single run."""
    low: list[float]
    high: list[float]


def arm_series(arm: Arm, curve: str, curves: Mapping[str, Curves], view: View) -> Series:
    """Return what to draw of a curve of an arm."""
    seeds = []
    for run in arm.runs:
        raw = place(curves[run.name][curve], view.axis.places(run))
        if raw:
            ys = view.smoothing.apply(raw.xs, raw.ys) if view.smooths(curve) else raw.ys
            seeds.append((run, raw, Line(raw.steps, raw.xs, ys)))
    shown = [line for run, _, line in seeds if run in arm.averaged]
    if len(shown) < 2:
        return Series(seeds, Line([], [], []), [], [])
    common = sorted(set.intersection(*(set(line.steps) for line in shown)))
    values, places = [], []
    for line in shown:
        rows = {step: number for number, step in enumerate(line.steps)}
        values.append([line.ys[rows[step]] for step in common])
        places.append([line.xs[rows[step]] for step in common])
    middle = Line(common, list(map(mean, zip(*places, strict=True))), list(map(mean, zip(*values, strict=True))))
    return Series(seeds, middle, *(band(values) or ([], [])))


def place(curve: Curve, places: Mapping[int, float]) -> Line:
    """Return a curve's points along an axis; points whose place on it is not known are left out."""
    known = [(step, value) for step, value in curve if step in places]
    return Line([step for step, _ in known], [places[step] for step, _ in known], [value for _, value in known])
