"""What a paper's table says of each arm: final, best and mean accuracy, cost, and difference from the baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from analysis.design.ablations import Ablation
from analysis.design.arms import Arm
from analysis.records.axes import AXES
from analysis.records.curves import Curves
from analysis.records.history import Curve
from analysis.records.record import RunRecord
from analysis.statistics.intervals import Interval, difference_interval, mean, mean_interval

LAST = 3  # the final accuracy is the mean of so many last validations, unless --last says otherwise
ROUND = 0.05


@dataclass(frozen=True)
class ArmSummary:
    """The numbers of one arm. Each list has a number for each complete run; a run without the number is left out."""

    arm: Arm
    final: list[float]
    best: list[float]
    area: list[float]
    """The mean height of the curve, by trapezoids over its steps."""
    steps_to: list[float]
    gpu_hours_to: list[float]
    """Steps and GPU-hours to the threshold, of the runs that reached it."""
    effect: Interval | None
    """The final accuracy minus the baseline's; None for the baseline, and if either has fewer than two seeds."""


@dataclass(frozen=True)
class Summary:
    """The arms of an ablation in numbers. Only complete runs count: the last value of a killed run is no result."""

    arms: list[ArmSummary]
    curve: str
    """The validation curve that the numbers are of: sampled or greedy."""
    threshold: float
    last: int
    """Of how many last validations the final value is the mean."""

    def rows(self) -> list[list[str]]:
        """Return the table: headers, then a row for each arm; with several seeds, the mean and its 95% interval."""
        devices = {run.config.get("hardware.name") for summary in self.arms for run in summary.arm.runs}
        hours = "CPU-hours" if devices == {"cpu"} else "GPU-hours"
        to = f"to {self.threshold:.3g}"
        head = ["arm", "complete runs", f"final (last {self.last})", "best", "mean over training (AUC)"]
        rows = [[*head, f"steps {to}", f"{hours} {to}", "final against baseline"]]
        for summary in self.arms:
            arm, seeds = summary.arm, len(summary.final)
            cells = [arm.title or arm.label, f"{len(arm.complete)} of {len(arm.runs)}"]
            cells += [spread(values, "{:.3f}".format) for values in (summary.final, summary.best, summary.area)]
            cells.append(reached(summary.steps_to, seeds, "{:.0f}".format))
            timed = summary.gpu_hours_to or not summary.steps_to
            cells.append(reached(summary.gpu_hours_to, seeds, "{:.3g}".format) if timed else "-")
            cells.append("baseline" if arm.is_baseline else str(summary.effect or "-"))
            rows.append(cells)
        return rows

    def note(self) -> str:
        """Return one or two sentences that say what the table's numbers are."""
        left = sum(len(summary.arm.runs) - len(summary.arm.complete) for summary in self.arms)
        number, verb = ("1 run", "is") if left == 1 else (f"{left} runs", "are")
        runs = f"{number} that did not reach the last step {verb} left out. " if left else ""
        return f"Validation, {self.curve}. With several seeds: mean and 95% interval (Student's t). {runs}".strip()


def summarise(
    ablation: Ablation, curves: Mapping[str, Curves], last: int = LAST, threshold: float | None = None
) -> Summary:
    """Return the numbers of each arm.

    Without a `threshold`, the highest multiple of 0.05 is taken that the best validation of every complete run reaches.
    """
    recorded = [name for name in ("sampled", "greedy") if any(curves[run.name][name] for run in ablation.runs)]
    name = recorded[0] if recorded else "sampled"
    seeds = {arm.label: [(run, c) for run in arm.complete if (c := curves[run.name][name])] for arm in ablation.arms}
    if threshold is None:
        best = [highest(curve) for known in seeds.values() for _, curve in known]
        threshold = math.floor(min(best, default=0.0) / ROUND + 1e-9) * ROUND
    base = next((arm for arm in ablation.arms if arm.is_baseline), None)
    base_final = [final(curve, last) for _, curve in seeds[base.label]] if base else []
    arms = []
    for arm in ablation.arms:
        known = seeds[arm.label]
        finals = [final(curve, last) for _, curve in known]
        there = [(run, step) for run, curve in known if (step := first_at(curve, threshold)) is not None]
        hours = [gpu_hours(run, step) for run, step in there]
        arms.append(
            ArmSummary(
                arm,
                finals,
                [highest(curve) for _, curve in known],
                [area(curve) for _, curve in known],
                [float(step) for _, step in there],
                [hour for hour in hours if hour is not None],
                None if arm is base else difference_interval(finals, base_final),
            )
        )
    return Summary(arms, name, threshold, last)


def highest(curve: Curve) -> float:
    return max(value for _, value in curve)


def final(curve: Curve, last: int = LAST) -> float:
    """Return the mean of the last validations."""
    return mean([value for _, value in curve[-last:]])


def area(curve: Curve) -> float:
    """Return the area under a curve, by trapezoids, divided by the steps it spans; of a single point, its value."""
    if len(curve) < 2:
        return curve[0][1]
    parts = [(x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in pairwise(curve)]
    return sum(parts) / (curve[-1][0] - curve[0][0])


def first_at(curve: Curve, threshold: float) -> int | None:
    """Return the first step at which a curve reaches the threshold, None if it never does."""
    return next((step for step, value in curve if value >= threshold - 1e-12), None)


def gpu_hours(run: RunRecord, step: int) -> float | None:
    """Return the GPU-hours of training up to a step, None if the steps' times were not recorded."""
    return AXES["gpu_hours"].places(run).get(step)


def reached(values: Sequence[float], seeds: int, text: Callable[[float], str]) -> str:
    """Return the mean and interval of `values`, which are of the runs that reached the threshold.

    If only some of the `seeds` runs reached it, the text says how many.
    """
    if not values or len(values) == seeds:
        return spread(values, text) if values or not seeds else "not reached"
    return f"{spread(values, text)} ({len(values)} of {seeds})"


def spread(values: Sequence[float], text: Callable[[float], str]) -> str:
    """Return the mean as text; of several values with ± half the width of its interval."""
    if not values:
        return "-"
    interval = mean_interval(values)
    return f"{text(mean(values))} ± {text(interval.high - interval.value)}" if interval else text(values[0])
