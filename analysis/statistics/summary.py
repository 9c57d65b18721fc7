"""What a paper's table says of each arm: final, best and mean accuracy, cost, and difference from the baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from analysis.design.ablations import Ablation
from analysis.design.arms import Arm
from analysis.records.axes import AXES, hours_name
from analysis.records.curves import VALIDATION_CURVES, Curves
from analysis.records.history import Curve
from analysis.records.record import RunRecord, ranges_text
from analysis.statistics.estimand import FINAL, NO_STEP, Common, Estimand, find_estimand
from analysis.statistics.intervals import Interval, difference_interval, mean, mean_interval, paired_interval
from analysis.statistics.pairing import paired
from analysis.statistics.problems import over_problems, problem_scores
from analysis.statistics.robust import interquartile_mean, probability_of_improvement

ROUND = 0.05
NO_COMMON_STEP = (
    "The runs were never validated at the same step, so that nothing of their validation can be compared; train the "
    "arms with one trainer.test_freq."
)


@dataclass(frozen=True)
class ArmSummary:
    """The numbers of one arm. Each list has a number for each run that counts; a run without the number is left out."""

    arm: Arm
    counted: int
    """How many of its runs count."""
    runs: tuple[RunRecord, ...]
    """The runs that have a final value, in the order of `final`."""
    final: list[float]
    best: list[float]
    area: list[float]
    """The mean height of the curve, by trapezoids over its steps."""
    steps_to: list[float]
    gpu_hours_to: list[float]
    """Steps and GPU-hours to the threshold, of the runs that reached it in training."""
    from_start: int
    """How many runs were at the threshold before they trained."""
    effect: Interval | None = None
    """The final value minus the baseline's; None for the baseline, and if either has fewer than two seeds."""
    pairs: bool = False
    """Whether the effect is of pairs of seeds."""
    over_problems: Interval | None = None
    """The final value with its interval over seeds and problems, where the runs kept their answers."""
    better: Interval | None = None
    """How likely one of its runs is better than one of the baseline's."""
    lost: str = ""
    """Which rows are missing, so that nobody can tell how sure its numbers are; "" if none are."""


@dataclass(frozen=True)
class Summary:
    """The arms of an ablation in numbers, all of them of the runs and steps that count (see `estimand`)."""

    arms: list[ArmSummary]
    curve: str
    """The validation curve that the numbers are of: sampled or greedy."""
    threshold: float | None
    """None if no multiple of 0.05 lies between the runs' starts and their best values."""
    final_steps: str
    """The steps whose mean is the final value."""
    estimand: Estimand
    robust: bool = False
    """Whether the table has the interquartile mean and the probability of improvement."""
    validated: bool = True
    """Whether a run that counts was validated after a trained step."""

    def rows(self) -> list[list[str]]:
        """Return the table: headers, then a row for each arm; with several seeds, the mean and its 95% interval."""
        hours = hours_name(run for summary in self.arms for run in summary.arm.runs)
        to = "to threshold" if self.threshold is None else f"to {self.threshold:.3g}"
        head = ["arm", "complete runs", f"final ({self.final_steps})", "best", "mean over training (AUC)"]
        problems = any(summary.over_problems for summary in self.arms)
        more = ["final, over seeds and problems"] if problems else []
        more += ["final, interquartile mean", "probability to beat the baseline"] if self.robust else []
        cost = self.estimand.cost
        costs = [f"{cost.label} {to}"] if cost else [f"steps {to}", f"{hours} {to}"]
        rows = [[*head, *costs, "final against baseline", *more]]
        for summary in self.arms:
            arm, seeds, sure = summary.arm, len(summary.final), not summary.lost
            cells = [arm.name, f"{summary.counted} of {len(arm.runs)}"]
            cells += [spread(values, "{:.3f}".format, sure) for values in (summary.final, summary.best, summary.area)]
            if self.threshold is None:
                cells += ["-"] * len(costs)
            elif cost:
                spent_to = [steps * cost.a_step for steps in summary.steps_to]
                cells.append(reached(spent_to, seeds, "{:.3g}".format, sure, summary.from_start))
            else:
                steps = reached(summary.steps_to, seeds, "{:.0f}".format, sure, summary.from_start)
                timed = summary.gpu_hours_to or not summary.steps_to
                spent = reached(summary.gpu_hours_to, seeds, "{:.3g}".format, sure, summary.from_start)
                cells += [steps, spent if timed else "-"]
            cells.append("baseline" if arm.is_baseline else str(summary.effect or "-"))
            if problems:
                known = summary.over_problems
                cells.append(f"{known.value:.3f} ± {known.high - known.value:.3f}" if known else "-")
            if self.robust:
                middle = interquartile_mean(summary.final) if sure else None
                cells.append(f"{middle.value:.3f} ± {middle.high - middle.value:.3f}" if middle else "-")
                better = summary.better
                cells.append(f"{better.value:.2f} [{better.low:.2f}, {better.high:.2f}]" if better else "-")
            rows.append(cells)
        return rows

    def numbers(self) -> list[list[object]]:
        """Return the table for programs: for each arm and quantity its mean, the interval's bounds, and n, as numbers.

        A bound that nobody can tell is empty.
        """
        out: list[list[object]] = [["arm", "quantity", "mean", "low", "high", "n"]]
        for summary in self.arms:
            label = summary.arm.label
            named = {name: getattr(summary, name) for name in ("final", "best", "area")}
            if cost := self.estimand.cost:
                named["cost_to"] = [steps * cost.a_step for steps in summary.steps_to]
            else:
                named |= {name: getattr(summary, name) for name in ("steps_to", "gpu_hours_to")}
            for name, values in named.items():
                interval = mean_interval(values) if not summary.lost else None
                bounds = [repr(interval.low), repr(interval.high)] if interval else ["", ""]
                if values:
                    out.append([label, name, repr(mean(values)), *bounds, len(values)])
            pairs = {"effect": summary.effect, "over_problems": summary.over_problems, "better": summary.better}
            for name, found in pairs.items():
                if found:
                    out.append([label, name, repr(found.value), repr(found.low), repr(found.high), len(summary.final)])
        return out

    def has_no_common_step(self) -> bool:
        """Return whether the runs validated, but never all at the same step."""
        return self.validated and self.final_steps == NO_STEP

    def note(self) -> str:
        """Return a few sentences that say what the table's numbers are."""
        left = sum(len(summary.arm.runs) - summary.counted for summary in self.arms)
        number, verb = ("1 run", "is") if left == 1 else (f"{left} runs", "are")
        runs = f"{number} that did not reach the last step {verb} left out." if left else ""
        lost = [f"No interval, since rows are missing: {summary.lost}." for summary in self.arms if summary.lost]
        spread_ = "With several seeds: mean and 95% interval (Student's t)."
        pairs = "Differences are of pairs of seeds." if any(summary.pairs for summary in self.arms) else ""
        parts = [f"Validation, {self.curve}.", spread_, pairs, self.estimand.note(), *lost, runs]
        return " ".join(filter(None, parts))


def summarise(
    ablation: Ablation,
    curves: Mapping[str, Curves],
    last: int | None = None,
    threshold: float | None = None,
    estimand: Estimand | None = None,
    robust: bool = False,
) -> Summary:
    """Return the numbers of each arm; `estimand`: what counts, if the caller has found it already.

    Without a `threshold`, the highest multiple of 0.05 is taken that every run reaches in training, and that none had
    reached before.
    """
    estimand = estimand or find_estimand(ablation, last=last)
    recorded = [name for name in VALIDATION_CURVES if any(curves[run.name][name] for run in ablation.runs)]
    name = recorded[0] if recorded else "sampled"
    common = estimand.values({run.name: curves[run.name][name] for run in estimand.runs()}, validation=True)
    if threshold is None:
        sound = [curve for run, curve in common.curves.items() if not common.lost[run]]
        best = [highest(curve) for curve in sound if len(curve) > len(start_of(curve))]
        starts = [value for curve in common.curves.values() for _, value in start_of(curve)]
        threshold = math.floor(min(best, default=0.0) / ROUND + 1e-9) * ROUND
        threshold = threshold if threshold > max(starts, default=-math.inf) + 1e-12 and best else None
    finals = {
        run: mean(inside) for run, curve in common.curves.items() if (inside := at_steps(curve, common.inside(FINAL)))
    }
    base = next((arm for arm in ablation.arms if arm.is_baseline), None)
    arms = [summarise_arm(arm, estimand, common, finals, threshold) for arm in ablation.arms]
    arms = [with_problems(summary, common.inside(FINAL), name) for summary in arms]
    base_summary = next((summary for summary in arms if summary.arm is base), None)
    if base_summary and not base_summary.lost:
        arms = [with_effect(summary, base_summary) for summary in arms]
    validated = any(step > 0 for run in estimand.runs() for step, _ in curves[run.name][name])
    return Summary(arms, name, threshold, common.describe(FINAL), estimand, robust, validated)


def summarise_arm(
    arm: Arm, estimand: Estimand, common: Common, finals: Mapping[str, float], threshold: float | None
) -> ArmSummary:
    """Return an arm's numbers, without its effect."""
    runs = [run for run in estimand.counted[arm.label] if common.curves.get(run.name)]
    known = [(run, common.curves[run.name]) for run in runs]
    at_start = [
        run for run, curve in known if threshold is not None and any(y >= threshold for _, y in start_of(curve))
    ]
    there = [
        (run, step)
        for run, curve in known
        if threshold is not None and run not in at_start and (step := first_at(curve, threshold)) is not None
    ]
    hours = [gpu_hours(run, step) for run, step in there]
    lost = common.lost_in([run.name for run in estimand.counted[arm.label]], (0.0, 1.0))
    texts = [f"validation of {name} at {ranges_text([(s, s) for s in steps])}" for name, steps in lost.items()]
    return ArmSummary(
        arm,
        len(estimand.counted[arm.label]),
        tuple(run for run in runs if run.name in finals),
        [finals[run.name] for run in runs if run.name in finals],
        [highest(curve) for _, curve in known if len(curve) > len(start_of(curve))],
        [area(curve) for _, curve in known],
        [float(step) for _, step in there],
        [hour for hour in hours if hour is not None],
        len(at_start),
        lost=", ".join(filter(None, [*texts, estimand.damaged(arm)])),
    )


def with_effect(summary: ArmSummary, base: ArmSummary) -> ArmSummary:
    """Return the numbers with the difference from the baseline's."""
    if summary is base or summary.lost:
        return summary
    better = probability_of_improvement(summary.final, base.final)
    pairs = paired(summary.runs, base.runs)
    effect = (paired_interval if pairs else difference_interval)(summary.final, base.final)
    return replace(summary, effect=effect, pairs=pairs, better=better)


def with_problems(summary: ArmSummary, steps: Sequence[int], way: str) -> ArmSummary:
    """Return the numbers with the interval over seeds and problems, if all runs kept their answers at these steps."""
    found = [problem_scores(run, steps, way) for run in summary.runs]
    if not found or summary.lost or not all(scores for scores, _ in found):
        return summary
    spread_ = max(spread for _, spread in found)
    return replace(summary, over_problems=over_problems(mean(summary.final), [s for s, _ in found], spread_))


def at_steps(curve: Curve, steps: Sequence[int]) -> list[float]:
    """Return a curve's values at these steps, as far as it has them."""
    wanted = set(steps)
    return [value for step, value in curve if step in wanted]


def start_of(curve: Curve) -> Curve:
    """Return the point of the untrained model, [] if it was not validated."""
    return [point for point in curve[:1] if point[0] == 0]


def highest(curve: Curve) -> float:
    """Return the highest value that training came to; that of the untrained model does not count."""
    return max(value for step, value in curve if step > 0)


def area(curve: Curve) -> float:
    """Return the area under a curve, by trapezoids, divided by the steps it spans; of a single point, its value."""
    if len(curve) < 2:
        return curve[0][1]
    parts = [(x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in pairwise(curve)]
    return sum(parts) / (curve[-1][0] - curve[0][0])


def first_at(curve: Curve, threshold: float) -> int | None:
    """Return the first trained step at which a curve reaches the threshold, None if it never does."""
    return next((step for step, value in curve if step > 0 and value >= threshold - 1e-12), None)


def gpu_hours(run: RunRecord, step: int) -> float | None:
    """Return the GPU-hours of training up to a step, None if the steps' times were not recorded."""
    return AXES["gpu_hours"].places(run).get(step)


def reached(
    values: Sequence[float], seeds: int, text: Callable[[float], str], sure: bool = True, from_start: int = 0
) -> str:
    """Return the mean and interval of `values`, which are of the runs that reached the threshold in training.

    If only some of the `seeds` runs reached it, the text says how many; `from_start` runs had reached it before.
    """
    if from_start:
        return "at the start" if from_start == seeds else f"{from_start} of {seeds} at the start"
    if not values or len(values) == seeds or not sure:
        return spread(values, text, sure) if values or not seeds else "not reached"
    return f"{spread(values, text, sure)} ({len(values)} of {seeds})"


def spread(values: Sequence[float], text: Callable[[float], str], sure: bool = True) -> str:
    """Return the mean as text; of several values with ± half the width of its interval, or ± ? if nobody can tell."""
    if not values:
        return "-"
    if not sure:
        return f"{text(mean(values))} ± ?"
    interval = mean_interval(values)
    return f"{text(mean(values))} ± {text(interval.high - interval.value)}" if interval else text(values[0])
