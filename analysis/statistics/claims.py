"""A verdict on each claim of a sweep: supported, contradicted or undecided, never from one seed.

A claim is tested on the runs and steps that count (see `estimand`), and each seed is one observation. Arms whose seeds
make pairs are compared by Student's test of the differences, other arms by Welch's test, and changes within runs by
Student's test, all at 5%, two-sided. A claim that makes several comparisons is supported if each of them holds, which
needs no correction. It is contradicted if one of them is reversed, at a level that is corrected for the number of
comparisons (Bonferroni).

That is the verdict on the claim by itself. Of many claims one will look decided by chance. So each verdict is also
given after Holm's correction over all claims that were tested together (Holm 1979, Scand. J. Statist. 6).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.design.ablations import Ablation
from analysis.design.arms import Arm
from analysis.design.levels import frozen
from analysis.design.sweeps import level_place
from analysis.records.curves import GREEDY, VALIDATION, data_sources, is_score, read_curves
from analysis.records.history import Curve
from analysis.records.record import RunRecord, is_validation, ranges_text
from analysis.statistics.comparisons import COMPARISONS, Comparison
from analysis.statistics.estimand import Common, Estimand, find_estimand
from analysis.statistics.intervals import LEVEL
from analysis.statistics.pairing import paired
from experiments.config.sweep_files import Claim, Sweep

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
SAME_CADENCE = "train the arms with one trainer.test_freq"
ALPHA = 1 - LEVEL
MOST_SEEDS, POWER = 100, 0.8


@dataclass(frozen=True)
class Verdict:
    """What the runs say of a claim."""

    claim: Claim
    verdict: str
    comparisons: tuple[Comparison, ...]
    reason: str
    """The effects with their intervals and the number of seeds, or why there is no verdict."""
    p: float | None = None
    """The two-sided p-value of the verdict, or of the direction that is nearer to one; None if nothing was tested."""
    direction: str = UNDECIDED
    """Supported or contradicted: what the p-value is of."""
    corrected: str = UNDECIDED
    """The verdict after Holm's correction over all claims that were tested together."""


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
    arms = {frozen(value): find_arm(ablation, sweep, value) for value in claim.levels}
    factor = sweep.factor or "arm"
    missing = [str(value) for value in claim.levels if arms[frozen(value)] is None]
    if missing:
        return Verdict(claim, UNDECIDED, (), f"no run with {factor} = {', '.join(missing)}")
    complete = {level: estimand.counted[arm.label] if arm else () for level, arm in arms.items()}
    unfinished = [str(value) for value in claim.levels if not complete[frozen(value)]]
    if unfinished:
        return Verdict(claim, UNDECIDED, (), f"no finished run with {factor} = {', '.join(unfinished)}")
    runs = [run for value in claim.levels for run in complete[frozen(value)]]
    curves = claim_curves(estimand.runs(), claim.metric)
    if any(not curves[run.name] for run in runs):
        return Verdict(claim, UNDECIDED, (), f"{claim.metric} was not recorded in every run")
    common = estimand.values(curves, is_validation(claim.metric))
    if problem := what_is_lost(claim, arms, complete, common, estimand):
        return Verdict(claim, UNDECIDED, (), problem)
    if not [step for step in common.steps if step > 0]:
        problem = f"no step at which every run has a value of {claim.metric}; {SAME_CADENCE}"
        return Verdict(claim, UNDECIDED, (), problem)
    steps, last = common.describe(claim.at), common.until
    windowed = replace(claim, at=common.window(claim.at))
    values = {level: [common.curves.get(run.name, []) for run in runs] for level, runs in complete.items()}

    def pairs(one: Any, other: Any) -> bool:
        return paired(complete[frozen(one)], complete[frozen(other)])

    return decide(claim, COMPARISONS[claim.kind](windowed, values, last, pairs), steps)


def what_is_lost(
    claim: Claim,
    arms: Mapping[Hashable, Arm | None],
    complete: Mapping[Hashable, Sequence[RunRecord]],
    common: Common,
    estimand: Estimand,
) -> str:
    """Return which of the values that the claim is about are missing although they were recorded once, "" if none."""
    names = [run.name for runs in complete.values() for run in runs]
    at = claim.at if claim.kind in ("order", "rises_faster", "close", "settles") else (0.0, 1.0)
    lost = common.lost_in(names, at)
    texts = [f"{name} at {ranges_text([(step, step) for step in steps])}" for name, steps in lost.items()]
    damaged = [text for arm in arms.values() if arm and (text := estimand.damaged(arm))]
    missing = "; ".join([*texts, *damaged])
    return f"rows are missing, so nobody can tell how sure it is: {missing}" if missing else ""


def decide(claim: Claim, comparisons: Sequence[Comparison], steps: str = "") -> Verdict:
    """Return the verdict on what was compared, with its reason; `steps` are those that the comparisons are of."""
    if any(math.isnan(value) for comparison in comparisons for sample in comparison.samples for value in sample):
        return Verdict(claim, UNDECIDED, (), f"some run has no value of {claim.metric} in that part")
    told = describe_close(claim, comparisons) if claim.kind == "close" else "; ".join(map(describe, comparisons))
    text = f"{told}, {steps}" if steps else told
    estimates = [comparison.estimate() for comparison in comparisons]
    known = [(one, comparison.floor) for one, comparison in zip(estimates, comparisons, strict=True) if one]
    if not known or len(known) < len(comparisons):
        return Verdict(claim, UNDECIDED, tuple(comparisons), f"{text}; one seed decides nothing: run at least 2 an arm")
    holds = min(1.0, 2 * max(one.p_above(floor) for one, floor in known))
    reversed_ = min(1.0, 2 * len(known) * min(one.p_below(floor) for one, floor in known))
    p, direction = min((holds, SUPPORTED), (reversed_, CONTRADICTED))
    verdict = direction if p < ALPHA else UNDECIDED
    more = f"; {planned_seeds(comparisons)}" if verdict == UNDECIDED else ""
    return Verdict(claim, verdict, tuple(comparisons), f"{text}{more}", p, direction, verdict)


def corrected(families: Sequence[Sequence[Verdict]]) -> list[list[Verdict]]:
    """Return the verdicts with Holm's correction over all of them: they are read together, so they are one family."""
    tested = sorted(
        (verdict.p, place, number)
        for place, verdicts in enumerate(families)
        for number, verdict in enumerate(verdicts)
        if verdict.p is not None
    )
    out = [[replace(verdict, corrected=UNDECIDED) for verdict in verdicts] for verdicts in families]
    largest = 0.0
    for rank, (p, place, number) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        if largest < ALPHA:
            out[place][number] = replace(out[place][number], corrected=out[place][number].direction)
    return out


def describe(comparison: Comparison) -> str:
    """Return e.g. "8 - 5: +0.03 [+0.01, +0.05], 3 and 3 seeds"."""
    interval, effect = comparison.interval(), comparison.effect()
    shown = str(interval) if interval else ("no data" if effect is None else f"{effect:+.3g}")
    floor = f" (below {comparison.floor:.3g} it counts as none)" if comparison.floor else ""
    return f"{comparison.text}: {shown}{floor}, {seeds_of(comparison)}"


def describe_close(claim: Claim, comparisons: Sequence[Comparison]) -> str:
    """Return e.g. "8 - 5: +0.003 [-0.01, +0.016], within 0.02 it counts as none, 3 pairs of seeds"."""
    first = comparisons[0]
    a, b = claim.levels[:2]
    difference = replace(first, ones=tuple(value - first.worth for value in first.ones))
    shown = difference.interval() or f"{difference.effect():+.3g}"
    return f"{a} - {b}: {shown}, within {first.worth:.3g} it counts as none, {seeds_of(first)}"


def seeds_of(comparison: Comparison) -> str:
    """Return e.g. "3 and 3 seeds", or "3 pairs of seeds"."""
    sizes = list(map(len, comparison.samples))
    if comparison.pairs:
        return f"{sizes[0]} pairs of seeds"
    return " and ".join(map(str, sizes)) + (" seed" if sizes == [1] else " seeds")


def planned_seeds(comparisons: Sequence[Comparison]) -> str:
    """Return a sentence that says how many seeds a new sweep needs to show the smallest effect that matters.

    The effect seen here does not enter: who adds seeds until the effect that was seen is decided decides too often.
    """

    def shows(comparison: Comparison, seeds: int) -> bool:
        estimate = comparison.estimate(seeds)
        return estimate is not None and estimate.power(comparison.worth) >= POWER

    needed = next((n for n in range(2, MOST_SEEDS + 1) if all(shows(one, n) for one in comparisons)), None)
    worth = max(comparison.worth for comparison in comparisons)
    seeds = f"{needed} seeds" if needed else f"more than {MOST_SEEDS} seeds"
    return (
        f"a sweep planned with {seeds} an arm would show an effect of {worth:.3g} in {POWER:.0%} of cases; "
        "adding seeds until it is decided makes a false verdict likelier"
    )


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


def find_arm(ablation: Ablation, sweep: Sweep, value: Any) -> Arm | None:
    """Return the arm at a level as the sweep file writes it, None if there is no such arm."""

    def is_it(arm: Arm) -> bool:
        place = level_place(sweep, arm.runs)
        return place is not None and frozen(sweep.levels[place].value) == frozen(value)

    return next((arm for arm in ablation.arms if is_it(arm)), None)
