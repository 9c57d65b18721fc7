"""A verdict on each claim of a sweep: supported, contradicted or undecided, never from one seed.

A claim is tested on the runs that reached their last step, and each seed is one observation. Arms are compared by
Welch's interval, changes within runs are tested by Student's interval, both at 95%. A claim that makes several
comparisons is supported if each of them holds, which needs no correction. It is contradicted if one of them is
reversed, at a level that is corrected for the number of comparisons (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.design.ablations import Ablation
from analysis.design.arms import Arm
from analysis.design.sweeps import same_level
from analysis.records.curves import GREEDY, VALIDATION, data_sources, is_score, read_curves
from analysis.records.history import Curve
from analysis.records.record import RunRecord, is_validation, ranges_text
from analysis.statistics.comparisons import COMPARISONS, Comparison, compare_neighbours
from analysis.statistics.estimand import Common, Estimand, find_estimand
from analysis.statistics.intervals import LEVEL, Interval
from experiments.config.sweep_files import Claim, Sweep

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
SAME_CADENCE = "train the arms with one trainer.test_freq"
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


def judge(ablation: Ablation, sweep: Sweep, estimand: Estimand | None = None) -> list[Verdict]:
    """Return a verdict on each of the sweep's claims; none if they are about another task than the runs'.

    `estimand`: what counts, if the caller has found it already.
    """
    if not is_about(sweep, ablation):
        return []
    estimand = estimand or find_estimand(ablation)
    return [judge_claim(claim, ablation, sweep, estimand) for claim in sweep.claims]


def is_about(sweep: Sweep, ablation: Ablation) -> bool:
    """Return whether a sweep's claims are about the task of the runs; their validation metrics name the task."""
    matches = [VALIDATION.fullmatch(claim.metric) for claim in sweep.claims]
    meant = {GREEDY.sub("", match["source"]) for match in matches if match}
    theirs = {str(run.config["task.name"]) for run in ablation.runs if run.config.get("task.name") is not None}
    theirs = theirs or {source for run in ablation.runs for source in data_sources(run)}
    return not meant or not theirs or bool(meant & theirs)


def judge_claim(claim: Claim, ablation: Ablation, sweep: Sweep, estimand: Estimand) -> Verdict:
    """Return the verdict on one claim."""
    levels = [level.value for level in sweep.levels] if claim.kind == "close" else list(claim.levels)
    arms = {str(value): find_arm(ablation, value) for value in levels}
    missing = [str(value) for value in claim.levels if arms.get(str(value)) is None]
    if missing:
        return Verdict(claim, UNDECIDED, (), f"no run with {sweep.factor} = {', '.join(missing)}")
    complete = {value: estimand.counted[arm.label] if arm else () for value, arm in arms.items()}
    unfinished = [str(value) for value in claim.levels if not complete[str(value)]]
    if unfinished:
        return Verdict(claim, UNDECIDED, (), f"no finished run with {sweep.factor} = {', '.join(unfinished)}")
    runs = [run for value in claim.levels for run in complete[str(value)]]
    curves = claim_curves(estimand.runs(), claim.metric)
    if any(not curves[run.name] for run in runs):
        return Verdict(claim, UNDECIDED, (), f"{claim.metric} was not recorded in every run")
    common = estimand.values(curves, is_validation(claim.metric))
    if problem := what_is_lost(claim, arms, complete, common, estimand):
        return Verdict(claim, UNDECIDED, (), problem)
    if not [step for step in common.steps if step > 0]:
        return Verdict(
            claim, UNDECIDED, (), f"no step at which every run has a value of {claim.metric}; {SAME_CADENCE}"
        )
    steps, last = common.describe(claim.at), common.until
    claim = replace(claim, at=common.window(claim.at))
    values = {value: [common.curves.get(run.name, []) for run in runs] for value, runs in complete.items()}
    if claim.kind != "close":
        return decide(claim, COMPARISONS[claim.kind](claim, values, last), each_holds, steps)
    comparisons = compare_neighbours(claim, [str(level.value) for level in sweep.levels], values, last)
    if len(comparisons) == 1:
        return Verdict(claim, UNDECIDED, tuple(comparisons), "no other neighbours to compare the difference with")
    return decide(claim, comparisons, first_is_least, steps)


def what_is_lost(
    claim: Claim,
    arms: Mapping[str, Arm | None],
    complete: Mapping[str, Sequence[RunRecord]],
    common: Common,
    estimand: Estimand,
) -> str:
    """Return which of the values that the claim is about are missing although they were recorded once, "" if none."""
    names = [run.name for value in claim.levels for run in complete[str(value)]]
    at = claim.at if claim.kind in ("order", "slope", "close", "settles") else (0.0, 1.0)
    lost = common.lost_in(names, at)
    texts = [f"{name} at {ranges_text([(step, step) for step in steps])}" for name, steps in lost.items()]
    damaged = [text for value in claim.levels if (arm := arms[str(value)]) and (text := estimand.damaged(arm))]
    missing = "; ".join([*texts, *damaged])
    return f"rows are missing, so nobody can tell how sure it is: {missing}" if missing else ""


def decide(claim: Claim, comparisons: Sequence[Comparison], rule: Rule, steps: str = "") -> Verdict:
    """Return the verdict of the rule, with its reason; `steps` are those that the comparisons are of."""
    if any(math.isnan(value) for comparison in comparisons for sample in comparison.samples for value in sample):
        return Verdict(claim, UNDECIDED, (), f"some run has no value of {claim.metric} in that part")
    verdict = rule(comparisons, None)
    text = "; ".join(map(describe, comparisons)) + (f", {steps}" if steps else "")
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
