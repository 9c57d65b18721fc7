"""A verdict on each claim of a sweep: supported, contradicted or undecided, never from one seed.

A claim is tested on the runs that reached their last step, and each seed is one observation. Arms are compared by
Welch's interval, changes within runs are tested by Student's interval, both at 95%. A claim that makes several
comparisons is supported if each of them holds, which needs no correction. It is contradicted if one of them is
reversed, at a level that is corrected for the number of comparisons (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.design.ablations import Ablation
from analysis.design.arms import Arm
from analysis.design.sweeps import same_level
from analysis.records.curves import GREEDY, VALIDATION, is_score, read_curves
from analysis.records.history import Curve
from analysis.records.record import RunRecord
from analysis.statistics.comparisons import COMPARISONS, Comparison, compare_neighbours
from analysis.statistics.intervals import LEVEL, Interval
from experiments.config.sweep_files import Claim, Sweep

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
MOST_SEEDS = 100

Rule = Callable[[Sequence[Comparison], int | None], str]
"""Returns the verdict of comparisons; given a number of seeds, the verdict if every arm had so many."""


@dataclass(frozen=True)
class Verdict:
    """What the runs say of a claim."""

    claim: Claim
    verdict: str
    comparisons: tuple[Comparison, ...]
    reason: str
    """The effects with their intervals and the number of seeds, or why there is no verdict."""


def judge(ablation: Ablation, sweep: Sweep) -> list[Verdict]:
    """Return a verdict on each of the sweep's claims."""
    return [judge_claim(claim, ablation, sweep) for claim in sweep.claims]


def judge_claim(claim: Claim, ablation: Ablation, sweep: Sweep) -> Verdict:
    """Return the verdict on one claim."""
    levels = [level.value for level in sweep.levels] if claim.kind == "close" else list(claim.levels)
    arms = {str(value): find_arm(ablation, value) for value in levels}
    missing = [str(value) for value in claim.levels if arms.get(str(value)) is None]
    if missing:
        return Verdict(claim, UNDECIDED, (), f"no run with {sweep.factor} = {', '.join(missing)}")
    complete = {value: arm.complete if arm else () for value, arm in arms.items()}
    unfinished = [str(value) for value in claim.levels if not complete[str(value)]]
    if unfinished:
        return Verdict(claim, UNDECIDED, (), f"no finished run with {sweep.factor} = {', '.join(unfinished)}")
    runs = [run for value in claim.levels for run in complete[str(value)]]
    last = min(run.history.last_step() for run in runs)
    curves = claim_curves([run for runs in complete.values() for run in runs], claim.metric)
    values = {value: [curves[run.name] for run in runs] for value, runs in complete.items()}
    if any(not curve for value in claim.levels for curve in values[str(value)]):
        return Verdict(claim, UNDECIDED, (), f"{claim.metric} was not recorded in every run")
    if claim.kind != "close":
        return decide(claim, COMPARISONS[claim.kind](claim, values, last), each_holds)
    comparisons = compare_neighbours(claim, [str(level.value) for level in sweep.levels], values, last)
    if len(comparisons) == 1:
        return Verdict(claim, UNDECIDED, tuple(comparisons), "no other neighbours to compare the difference with")
    return decide(claim, comparisons, first_is_least)


def decide(claim: Claim, comparisons: Sequence[Comparison], rule: Rule) -> Verdict:
    """Return the verdict of the rule, with its reason."""
    if any(math.isnan(value) for comparison in comparisons for sample in comparison.samples for value in sample):
        return Verdict(claim, UNDECIDED, (), f"some run has no value of {claim.metric} in that part")
    verdict = rule(comparisons, None)
    text = "; ".join(map(describe, comparisons))
    more = f"; {what_would_decide(comparisons, rule)}" if verdict == UNDECIDED else ""
    return Verdict(claim, verdict, tuple(comparisons), f"{text}{more}")


def each_holds(comparisons: Sequence[Comparison], seeds: int | None) -> str:
    """Return supported if all comparisons are shown to be above zero, contradicted if one is below its floor.

    Otherwise undecided.
    """
    intervals = [comparison.interval(LEVEL, seeds) for comparison in comparisons]
    if intervals and all(interval is not None and interval.low > 0 for interval in intervals):
        return SUPPORTED
    corrected = 1 - (1 - LEVEL) / max(1, len(comparisons))
    strict = [(comparison.interval(corrected, seeds), comparison.floor) for comparison in comparisons]
    reversed_ = any(interval is not None and interval.high < floor for interval, floor in strict)
    return CONTRADICTED if reversed_ else UNDECIDED


def first_is_least(comparisons: Sequence[Comparison], seeds: int | None) -> str:
    """Return the verdict on whether the first difference is smaller than all others.

    Supported if the largest size that its interval allows is below the smallest size that the others' intervals allow.
    The intervals are corrected for the number of comparisons.
    """
    level = 1 - (1 - LEVEL) / len(comparisons)
    intervals = [interval for comparison in comparisons if (interval := comparison.interval(level, seeds))]
    if len(intervals) < len(comparisons):
        return UNDECIDED
    near, *far = intervals
    if most(near) < min(map(least, far)):
        return SUPPORTED
    return CONTRADICTED if least(near) > max(map(most, far)) else UNDECIDED


def least(interval: Interval) -> float:
    """Return the smallest size of an effect within its interval."""
    return 0.0 if interval.low <= 0 <= interval.high else min(abs(interval.low), abs(interval.high))


def most(interval: Interval) -> float:
    """Return the largest size of an effect within its interval."""
    return max(abs(interval.low), abs(interval.high))


def describe(comparison: Comparison) -> str:
    """Return e.g. "8 - 5: +0.03 [+0.01, +0.05], 3 and 3 seeds"."""
    interval, effect = comparison.interval(), comparison.effect()
    sizes = list(map(len, comparison.samples))
    seeds = " and ".join(map(str, sizes)) + (" seed" if sizes == [1] else " seeds")
    shown = str(interval) if interval else ("no data" if effect is None else f"{effect:+.3g}")
    floor = f" (below {comparison.floor:.3g} it counts as none)" if comparison.floor else ""
    return f"{comparison.text}: {shown}{floor}, {seeds}"


def what_would_decide(comparisons: Sequence[Comparison], rule: Rule) -> str:
    """Return a sentence on how many more seeds would lead to a verdict; a rough guide."""
    if any(comparison.one_seed for comparison in comparisons):
        return "one seed decides nothing: run at least 2 an arm"
    now = [len(sample) for comparison in comparisons for sample in comparison.samples]
    needed = next((n for n in range(max(now) + 1, MOST_SEEDS + 1) if rule(comparisons, n) != UNDECIDED), None)
    if needed is None:
        return f"more than {MOST_SEEDS} seeds an arm would be needed if effect and spread stayed as they are"
    more = needed - min(now)
    seeds = "seed" if more == 1 else "seeds"
    return f"{more} more {seeds} an arm, {needed} in all, would decide if effect and spread stayed as they are"


def claim_curves(runs: Sequence[RunRecord], metric: str) -> dict[str, Curve]:
    """Return {run name: the curve of a claim's metric}.

    A validation accuracy is found by whatever name the runs log it. A claim on sampled validation is judged by greedy
    validation in all runs if some run has no other.
    """
    curves = {run.name: run.history.curve(metric) for run in runs}
    match = VALIDATION.fullmatch(metric)
    if match is None or match["score"] != "acc" or all(curves[r.name] and not is_score(r, metric) for r in runs):
        return curves
    read = {run.name: read_curves(run) for run in runs}
    ways = ("greedy",) if GREEDY.search(match["source"]) else ("sampled", "greedy")
    way = next((way for way in ways if all(run.scores_accuracy and run[way] for run in read.values())), ways[0])
    return {name: run[way] if run.scores_accuracy else [] for name, run in read.items()}


def find_arm(ablation: Ablation, value: Any) -> Arm | None:
    """Return the arm at a level as the sweep file writes it, None if there is no such arm."""
    return next((arm for arm in ablation.arms if len(arm.levels) == 1 and same_level(value, arm.levels[0])), None)
