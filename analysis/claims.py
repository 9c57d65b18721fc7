"""A verdict on each claim of a sweep: supported, contradicted or undecided, never from one seed.

A claim is tested on the runs that reached their last step, a seed being one observation. Comparisons of arms are by
Welch's interval, changes within runs by Student's, at 95%. A claim made of several comparisons is supported if each
holds, which needs no correction, and contradicted if one is reversed at a level corrected for their number (by
Bonferroni).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from analysis.ablations import Ablation
from analysis.arms import Arm
from analysis.curves import VALIDATION, read_curves
from analysis.history import Curve
from analysis.intervals import LEVEL, Interval, difference_interval, mean, mean_interval, seeds_to_decide, variance
from analysis.records import RunRecord
from analysis.sweeps import same_level
from experiments.sweep import Claim, Sweep

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
BINS = 10
MARGIN = 0.05
"""That nothing rises at all can't be shown: less than this share of the beginning counts as no rise."""


@dataclass(frozen=True)
class Comparison:
    """One quantity that the claim says is above zero."""

    text: str
    ones: tuple[float, ...]
    """A value a seed."""
    others: tuple[float, ...] | None = None
    """What `ones` are compared with; None if they are differences within runs already."""

    def interval(self, level: float = LEVEL) -> Interval | None:
        """Return the effect with its interval; None below two seeds."""
        if self.others is None:
            return mean_interval(self.ones, level)
        return difference_interval(self.ones, self.others, level)

    def effect(self) -> float | None:
        """Return the effect, None without data."""
        if not self.ones or self.others == ():
            return None
        return mean(self.ones) - (mean(self.others) if self.others else 0.0)

    def seeds_needed(self) -> int | None:
        """Return how many seeds an arm would decide it if effect and spread stayed as they are; None if unknown."""
        samples = [self.ones] if self.others is None else [self.ones, self.others]
        effect = self.effect()
        if effect is None or any(len(sample) < 2 for sample in samples):
            return None
        spread = math.sqrt(mean([variance(sample) for sample in samples]))
        return seeds_to_decide(effect, spread, paired=self.others is None)


@dataclass(frozen=True)
class Verdict:
    """What the runs say of a claim."""

    claim: Claim
    verdict: str
    comparisons: tuple[Comparison, ...]
    reason: str
    """The effects and their intervals, the number of seeds, or why there is no verdict."""


def judge(ablation: Ablation, sweep: Sweep) -> list[Verdict]:
    """Return a verdict on each of the sweep's claims."""
    return [judge_claim(claim, ablation, sweep) for claim in sweep.claims]


def judge_claim(claim: Claim, ablation: Ablation, sweep: Sweep) -> Verdict:
    """Return the verdict on one claim."""
    levels = [level.value for level in sweep.levels] if claim.kind == "close" else list(claim.levels)
    arms = {str(value): find_arm(ablation, value) for value in levels}
    missing = [str(value) for value in claim.levels if arms[str(value)] is None]
    if missing:
        return Verdict(claim, UNDECIDED, (), f"no run with {sweep.factor} = {', '.join(missing)}")
    complete = {value: [run for run in arm.runs if run.complete] for value, arm in arms.items() if arm is not None}
    runs = [run for value in claim.levels for run in complete[str(value)]]
    unfinished = [str(value) for value in claim.levels if not complete[str(value)]]
    if unfinished:
        return Verdict(claim, UNDECIDED, (), f"no finished run with {sweep.factor} = {', '.join(unfinished)}")
    last = min(run.history.last_step() for run in runs)
    values = {v: [curve_of(run, claim.metric) for run in complete.get(v, [])] for v in arms}
    if any(not curve for value in claim.levels for curve in values[str(value)]):
        return Verdict(claim, UNDECIDED, (), f"{claim.metric} was not recorded in every run")
    if claim.kind == "close":
        return judge_close(claim, [str(level.value) for level in sweep.levels], values, last)
    comparisons = COMPARISONS[claim.kind](claim, values, last)
    return decide(claim, comparisons)


def decide(claim: Claim, comparisons: Sequence[Comparison]) -> Verdict:
    """Return supported if all comparisons are above zero, contradicted if one is below, else undecided."""
    if any(math.isnan(value) for c in comparisons for value in (*c.ones, *(c.others or ()))):
        return Verdict(claim, UNDECIDED, (), f"{claim.metric} has no value in that part of some run")
    intervals = [comparison.interval() for comparison in comparisons]
    corrected = 1 - (1 - LEVEL) / max(1, len(comparisons))
    strict = [comparison.interval(corrected) for comparison in comparisons]
    if any(interval is not None and interval.high < 0 for interval in strict):
        verdict = CONTRADICTED
    elif intervals and all(interval is not None and interval.low > 0 for interval in intervals):
        verdict = SUPPORTED
    else:
        verdict = UNDECIDED
    return Verdict(claim, verdict, tuple(comparisons), explain(comparisons, verdict))


def explain(comparisons: Sequence[Comparison], verdict: str) -> str:
    """Return e.g. "8 - 5: +0.03 [+0.01, +0.05], 3 and 3 seeds", and what would decide it."""
    parts, needed = [], []
    for comparison in comparisons:
        interval, effect = comparison.interval(), comparison.effect()
        sizes = [len(comparison.ones)] + ([len(comparison.others)] if comparison.others is not None else [])
        seeds = " and ".join(map(str, sizes)) + (" seed" if sizes == [1] else " seeds")
        shown = str(interval) if interval else ("no data" if effect is None else f"{effect:+.3g}")
        parts.append(f"{comparison.text}: {shown}, {seeds}")
        if not (interval and interval.low > 0):
            needed.append(comparison.seeds_needed())
    text = "; ".join(parts)
    if verdict != UNDECIDED:
        return text
    if any(len(comparison.ones) < 2 or len(comparison.others or (0, 0)) < 2 for comparison in comparisons):
        return f"{text}; one seed decides nothing: run at least 2 an arm"
    if None in needed:
        return f"{text}; more than 100 seeds an arm would be needed if effect and spread stayed so"
    return (
        f"{text}; about {max(filter(None, needed), default=2)} seeds an arm would decide if effect and spread stayed so"
    )


def compare_order(claim: Claim, values: dict[str, list[Curve]], last: int) -> list[Comparison]:
    """Return the differences of each level from the next."""
    means = {value: tuple(window_mean(curve, claim.at, last) for curve in curves) for value, curves in values.items()}
    names = list(map(str, claim.levels))
    return [Comparison(f"{a} - {b}", means[a], means[b]) for a, b in pairwise(names)]


def compare_change(claim: Claim, values: dict[str, list[Curve]], last: int) -> list[Comparison]:
    """Return how much each level's runs end above (below, for falls) where they began."""
    sign = 1 if claim.kind == "rises" else -1
    start = (0.0, claim.at[1] - claim.at[0])
    word = "rise" if sign > 0 else "fall"
    return [
        Comparison(
            f"{word} at {value}",
            tuple(sign * (window_mean(c, claim.at, last) - window_mean(c, start, last)) for c in values[str(value)]),
        )
        for value in claim.levels
    ]


def compare_no_rise(claim: Claim, values: dict[str, list[Curve]], last: int) -> list[Comparison]:
    """Return by how much less than MARGIN each level's runs rise: a test of non-inferiority."""
    start = (0.0, claim.at[1] - claim.at[0])
    comparisons = []
    for value in claim.levels:
        ends = [(window_mean(c, start, last), window_mean(c, claim.at, last)) for c in values[str(value)]]
        room = tuple(MARGIN * abs(before) - (after - before) for before, after in ends)
        comparisons.append(Comparison(f"{MARGIN:.0%} - rise at {value}", room))
    return comparisons


def compare_dip(claim: Claim, values: dict[str, list[Curve]], last: int) -> list[Comparison]:
    """Return how far each level's runs fall before, and rise after, the lowest tenth of the training.

    Where that is, is read off the other seeds: a run's own lowest tenth is low by chance, too.
    """
    comparisons = []
    for value in claim.levels:
        tenths = [
            [window_mean(curve, (b / BINS, (b + 1) / BINS), last) for b in range(BINS)] for curve in values[str(value)]
        ]
        tenths = [[tenth for tenth in run if math.isfinite(tenth)] for run in tenths]
        count = min(map(len, tenths))
        falls, rises = [], []
        for place, run in enumerate(tenths):
            others = [other for number, other in enumerate(tenths) if number != place] or [run]
            lowest = min(range(count), key=lambda b: mean([other[b] for other in others]))
            falls.append(run[0] - run[lowest])
            rises.append(run[count - 1] - run[lowest])
        comparisons.append(Comparison(f"fall at {value}", tuple(falls)))
        comparisons.append(Comparison(f"rise at {value}", tuple(rises)))
    return comparisons


def judge_close(claim: Claim, order: Sequence[str], values: dict[str, list[Curve]], last: int) -> Verdict:
    """Return whether two levels differ less than the sweep's other neighbours do.

    Supported if the most they may differ is less than the least that others do, by intervals corrected for both.
    """
    means = {v: tuple(window_mean(curve, claim.at, last) for curve in curves) for v, curves in values.items()}
    pair = {str(value) for value in claim.levels}
    a, b = (str(value) for value in claim.levels)
    ours = Comparison(f"{a} - {b}", means[a], means[b])
    others = [
        Comparison(f"{x} - {y}", means[x], means[y])
        for x, y in pairwise(order)
        if {x, y} != pair and means[x] and means[y]
    ]
    if not others:
        return Verdict(claim, UNDECIDED, (ours,), "no other neighbours to compare the difference with")
    level = 1 - (1 - LEVEL) / (1 + len(others))
    near, far = ours.interval(level), [comparison.interval(level) for comparison in others]
    verdict = UNDECIDED
    if near is not None and all(interval is not None for interval in far):
        known = [interval for interval in far if interval is not None]
        if max(abs(near.low), abs(near.high)) < min(map(least, known)):
            verdict = SUPPORTED
        elif least(near) > max(max(abs(interval.low), abs(interval.high)) for interval in known):
            verdict = CONTRADICTED
    if any(math.isnan(value) for values_ in means.values() for value in values_):
        return Verdict(claim, UNDECIDED, (), f"{claim.metric} has no value in that part of some run")
    text = explain([ours, *others], SUPPORTED)
    few = any(min(len(c.ones), len(c.others or ())) < 2 for c in (ours, *others))
    return Verdict(claim, verdict, (ours, *others), f"{text}{'; one seed decides nothing' if few else ''}")


def least(interval: Interval) -> float:
    """Return the smallest size of an effect within its interval."""
    return 0.0 if interval.low <= 0 <= interval.high else min(abs(interval.low), abs(interval.high))


def window_mean(curve: Curve, at: tuple[float, float], last: int) -> float:
    """Return the mean of the points after the first share of the steps up to the second; NaN without any."""
    start, end = at[0] * last, at[1] * last
    return mean([y for step, y in curve if start < step <= end or (start == 0 == step)] or [math.nan])


def curve_of(run: RunRecord, metric: str) -> Curve:
    """Return a claim's metric; a validation accuracy by whatever name the run logs it."""
    curve = run.history.curve(metric)
    match = VALIDATION.fullmatch(metric)
    if curve or match is None or match["score"] != "acc":
        return curve
    curves = read_curves(run)
    name = "greedy" if re.search(r"[_/-]greedy$", match["source"]) else "sampled"
    return curves[name] if curves.scores_accuracy else []


def find_arm(ablation: Ablation, value: Any) -> Arm | None:
    """Return the arm at a level as the sweep file writes it."""
    return next((arm for arm in ablation.arms if len(arm.levels) == 1 and same_level(value, arm.levels[0])), None)


COMPARISONS = {
    "order": compare_order,
    "rises": compare_change,
    "falls": compare_change,
    "never_rises": compare_no_rise,
    "minimum_inside": compare_dip,
}
