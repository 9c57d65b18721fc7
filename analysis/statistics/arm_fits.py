"""The fits of an ablation's arms: of which runs, along which axis, and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from analysis.design.ablations import Ablation
from analysis.records.axes import AXES, STEP, Axis
from analysis.records.curves import Curves
from analysis.statistics.estimand import Estimand
from analysis.statistics.fits import SEEDS, Fit, NoFit, common_points, fit
from analysis.statistics.intervals import Interval, mean

COMPUTE = ("gpu_hours", "samples")  # what is compute where the user chose no axis; the first that all runs recorded


@dataclass(frozen=True)
class ArmFit:
    """An arm's points, and the curve through them."""

    label: str
    name: str
    compute: list[float]
    seeds: list[list[float]]
    """Each seed's accuracies at these points."""
    found: Fit | NoFit


@dataclass(frozen=True)
class Fits:
    """The fits of an ablation's arms, in their order."""

    arms: list[ArmFit]
    axis: Axis
    unit: str
    """The axis's label; hours of a CPU are called so."""

    @property
    def any_found(self) -> bool:
        """Whether an arm has a fit."""
        return any(isinstance(arm.found, Fit) for arm in self.arms)

    @property
    def is_asked(self) -> bool:
        """Whether an arm has as many seeds as a fit needs: then a page says of each arm what it is, or why not."""
        return any(len(arm.seeds) >= SEEDS for arm in self.arms)

    def rows(self) -> list[list[str]]:
        """Return the table: headers, then a row for each arm."""
        rows = [["arm", "asymptote A", f"half of the gain after ({self.unit})", "steepness B", "start R0", "seeds"]]
        for arm in self.arms:
            if isinstance(arm.found, NoFit):
                rows.append([arm.name, f"no fit: {arm.found.reason}", "-", "-", "-", str(len(arm.seeds))])
                continue
            found = [short(arm.found.asymptote), short(arm.found.half), short(arm.found.steepness)]
            rows.append([arm.name, *found, f"{arm.found.start:.3f}", str(arm.found.seeds)])
        return rows

    def lines(self) -> list[str]:
        """Return what the terminal says of the fits; [] where no arm has the seeds for one."""
        if not self.is_asked:
            return []
        lines = []
        for arm in self.arms:
            if isinstance(arm.found, NoFit):
                lines.append(f"no fit of {arm.name}: {arm.found.reason}")
            else:
                half = f"half of the gain after {short(arm.found.half)} {self.unit}"
                lines.append(f"fit of {arm.name}: ends at {short(arm.found.asymptote)}, {half}")
        return lines


def fit_arms(ablation: Ablation, curves: Mapping[str, Curves], name: str, estimand: Estimand, axis: Axis) -> Fits:
    """Return the fits of the runs that count.

    Args:
        name: the validation curve: sampled or greedy.
        axis: the figures'; steps are no compute, so that GPU-hours take their place, or samples.
    """
    runs = estimand.runs()
    known = [AXES[choice] for choice in COMPUTE if all(AXES[choice].places(run) for run in runs)]
    axis = axis if axis.cost else (known or [STEP])[0]
    on_cpu = {run.config.get("hardware.name") for run in runs} == {"cpu"}
    unit = axis.label.replace("GPU-hours", "CPU-hours") if on_cpu else axis.label
    arms = []
    for arm in ablation.arms:
        counted = [run for run in estimand.counted.get(arm.label, ()) if curves[run.name][name]]
        own = [dict(curves[run.name][name]) for run in counted]
        steps, compute = common_points(own, [axis.places(run) for run in counted])
        seeds = [[curve[step] for step in steps] for curve in own]
        starts = [curve[0] for curve in own if 0 in curve]
        start = mean(starts) if starts and len(starts) == len(own) else None
        found: Fit | NoFit
        if not counted:
            found = NoFit("no run counts")
        elif not all(curves[run.name].scores_accuracy for run in counted):
            found = NoFit("no accuracy was recorded")
        else:
            found = fit(compute, start, seeds)
        arms.append(ArmFit(arm.label, arm.name, compute, seeds, found))
    return Fits(arms, axis, unit)


def short(interval: Interval) -> str:
    """Return an interval with three significant digits."""
    return f"{interval.value:.3g} [{interval.low:.3g}, {interval.high:.3g}]"
