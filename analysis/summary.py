"""What a paper's table says of each arm: final, best and mean accuracy, cost, and effect against the baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from analysis.ablations import Ablation
from analysis.arms import Arm
from analysis.axes import AXES
from analysis.curves import Curves
from analysis.history import Curve
from analysis.intervals import Interval, difference_interval, mean, mean_interval
from analysis.records import RunRecord

LAST = 3  # validations whose mean is the final accuracy
ROUND = 0.05


@dataclass(frozen=True)
class Summary:
    """One arm. Each list holds a number a seed; a seed that lacks it is not in it."""

    arm: Arm
    final: list[float]
    best: list[float]
    area: list[float]
    """The mean height of the curve, by trapezoids over its steps."""
    steps_to: list[float]
    gpu_hours_to: list[float]
    """Steps and GPU-hours to the threshold, of the seeds that reached it."""
    effect: Interval | None
    """Of the final accuracy against the baseline's, None for the baseline and below two seeds."""


def summarise(ablation: Ablation, curves: Mapping[str, Curves]) -> tuple[list[Summary], str, float]:
    """Return (a summary of each arm, the validation curve it is of, the threshold).

    The threshold is the highest multiple of 0.05 that the best validation of every seed reaches.
    """
    recorded = [name for name in ("sampled", "greedy") if any(curves[run.name][name] for run in ablation.runs)]
    name = recorded[0] if recorded else "sampled"
    seeds = {run.name: curves[run.name][name] for run in ablation.runs}
    best = [max(value for _, value in curve) for curve in seeds.values() if curve]
    threshold = math.floor(min(best, default=0.0) / ROUND + 1e-9) * ROUND
    base = next((arm for arm in ablation.arms if arm.is_baseline), None)
    base_final = [final(seeds[run.name]) for run in base.runs if seeds[run.name]] if base else []
    summaries = []
    for arm in ablation.arms:
        known = [(run, seeds[run.name]) for run in arm.runs if seeds[run.name]]
        finals = [final(curve) for _, curve in known]
        reached = [(run, step) for run, curve in known if (step := first_at(curve, threshold)) is not None]
        hours = [gpu_hours(run, step) for run, step in reached]
        effect = None if arm is base else difference_interval(finals, base_final)
        summaries.append(
            Summary(
                arm,
                finals,
                [max(value for _, value in curve) for _, curve in known],
                [area(curve) for _, curve in known],
                [float(step) for _, step in reached],
                [hour for hour in hours if hour is not None],
                effect,
            )
        )
    return summaries, name, threshold


def final(curve: Curve) -> float:
    """Return the mean of the last validations."""
    return mean([value for _, value in curve[-LAST:]])


def area(curve: Curve) -> float:
    """Return the area under a curve over the steps it spans, by trapezoids; a single point's value."""
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


def summary_rows(summaries: Sequence[Summary], threshold: float) -> list[list[str]]:
    """Return the table: headers, then an arm a line; of several seeds mean and 95% interval."""
    head = ["arm", "seeds", f"final (last {LAST})", "best", "mean over training"]
    devices = {run.config.get("hardware.name") for summary in summaries for run in summary.arm.runs}
    hours = "CPU-hours" if devices == {"cpu"} else "GPU-hours"
    head += [f"steps to {threshold:.2f}", f"{hours} to {threshold:.2f}", "final against baseline"]
    rows = [head]
    for summary in summaries:
        cells = [summary.arm.title or summary.arm.label, str(len(summary.arm.runs))]
        cells += [spread(values, "{:.3f}".format) for values in (summary.final, summary.best, summary.area)]
        cells += [spread(summary.steps_to, "{:.0f}".format), spread(summary.gpu_hours_to, "{:.3g}".format)]
        if summary.arm.is_baseline:
            cells.append("baseline")
        else:
            cells.append(str(summary.effect) if summary.effect else "-")
        rows.append(cells)
    return rows


def spread(values: Sequence[float], text: Callable[[float], str]) -> str:
    """Return the mean, with half the width of its interval if there are several values."""
    if not values:
        return "-"
    interval = mean_interval(values)
    return f"{text(mean(values))} ± {text(interval.high - interval.value)}" if interval else text(values[0])


def latex(rows: Sequence[Sequence[str]], caption: str) -> str:
    """Return a booktabs table; the document needs \\usepackage{booktabs}."""
    lines = [" & ".join(map(escape, row)) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escape(text: str) -> str:
    """Return text as LaTeX prints it."""
    for special in "&%$#_{}":
        text = text.replace(special, f"\\{special}")
    return text.replace("±", r"$\pm$")
