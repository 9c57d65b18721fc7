"""What each kind of claim compares: quantities that are above zero if the claim is true, one value for each seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from analysis.records.history import Curve
from analysis.statistics.intervals import LEVEL, Interval, mean, t_interval, variance
from experiments.config.sweep_files import Claim

EDGES = (0.0, 0.025, 0.05, *(tenth / 10 for tenth in range(1, 11)))
"""The parts of a training in which a dip is looked for, as shares of its steps.

They are finer at the beginning, where the response length may fall within a few steps.
"""
MARGIN = 0.05
"""No test can show that two things are equal. So a difference below this share of their size counts as none."""
Values = Mapping[str, Sequence[Curve]]
"""{level: the curves of the seeds at this level}."""


@dataclass(frozen=True)
class Comparison:
    """One quantity that is above zero if the claim is true."""

    text: str
    ones: tuple[float, ...]
    """One value for each seed."""
    others: tuple[float, ...] | None = None
    """The values that `ones` are compared with; None if `ones` are differences within runs already."""
    floor: float = 0.0
    """The claim is contradicted if the quantity is shown to be below this value."""

    @property
    def samples(self) -> list[tuple[float, ...]]:
        return [self.ones] if self.others is None else [self.ones, self.others]

    @property
    def one_seed(self) -> bool:
        """Whether a sample has fewer than two seeds, which say nothing about the spread."""
        return any(len(sample) < 2 for sample in self.samples)

    def effect(self) -> float | None:
        """Return the effect: the mean, or the difference of the two means. None if a sample is empty."""
        if not all(self.samples):
            return None
        return mean(self.ones) - (mean(self.others) if self.others else 0.0)

    def interval(self, level: float = LEVEL, seeds: int | None = None) -> Interval | None:
        """Return the effect with its interval; None below two seeds.

        `seeds`: return the interval for this number of seeds in each arm, if effect and spread stayed as they are.
        """
        effect = self.effect()
        if effect is None or self.one_seed:
            return None
        sizes = [seeds or len(sample) for sample in self.samples]
        return t_interval(effect, [variance(sample) for sample in self.samples], sizes, level)


def compare_order(claim: Claim, values: Values, last: int) -> list[Comparison]:
    """Return the difference of each level from the next; where the claim says "at least", MARGIN is added to it."""
    means = {value: tuple(window_mean(curve, claim.at, last) for curve in curves) for value, curves in values.items()}
    comparisons = []
    for place, (a, b) in enumerate(pairwise(map(str, claim.levels))):
        ones, text = means[a], f"{a} - {b}"
        if claim.or_equal[place : place + 1] == (True,):
            room = MARGIN * abs(mean(means[b]))
            ones, text = tuple(value + room for value in ones), f"{text} + {MARGIN:.0%}"
        comparisons.append(Comparison(text, ones, means[b]))
    return comparisons


def compare_slope(claim: Claim, values: Values, last: int) -> list[Comparison]:
    """Return by how much more each level rises within the claim's part of the training than the next level."""
    rises = {value: tuple(rise_over(curve, claim.at, last) for curve in curves) for value, curves in values.items()}
    return [Comparison(f"rise at {a} - rise at {b}", rises[a], rises[b]) for a, b in pairwise(map(str, claim.levels))]


def compare_change(claim: Claim, values: Values, last: int) -> list[Comparison]:
    """Return how far each level's runs end above where they began; below, for a claim that they fall."""
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


def compare_no_rise(claim: Claim, values: Values, last: int) -> list[Comparison]:
    """Return MARGIN minus the rise of each level's runs: a test of non-inferiority."""
    start = (0.0, claim.at[1] - claim.at[0])
    comparisons = []
    for value in claim.levels:
        ends = [(window_mean(c, start, last), window_mean(c, claim.at, last)) for c in values[str(value)]]
        room = tuple(MARGIN * abs(before) - (after - before) for before, after in ends)
        comparisons.append(Comparison(f"{MARGIN:.0%} - rise at {value}", room))
    return comparisons


def compare_slowing(claim: Claim, values: Values, last: int) -> list[Comparison]:
    """Return by how much more each level's runs rise at the beginning than in the claim's part, which is as long."""
    start = (0.0, claim.at[1] - claim.at[0])
    return [
        Comparison(
            f"first rise - later rise at {value}",
            tuple(rise_over(c, start, last) - rise_over(c, claim.at, last) for c in values[str(value)]),
        )
        for value in claim.levels
    ]


def compare_settling(claim: Claim, values: Values, last: int) -> list[Comparison]:
    """Return MARGIN minus the rise, and MARGIN minus the fall, of each level's runs: a test of equivalence."""
    comparisons = []
    for value in claim.levels:
        changes = [(rise_over(c, claim.at, last), window_mean(c, claim.at, last)) for c in values[str(value)]]
        for sign, word in ((1, "rise"), (-1, "fall")):
            room = tuple(MARGIN * abs(level) - sign * change for change, level in changes)
            comparisons.append(Comparison(f"{MARGIN:.0%} - {word} at {value}", room))
    return comparisons


def compare_dip(claim: Claim, values: Values, last: int) -> list[Comparison]:
    """Return how far each level's runs fall until the lowest part of the training, and how far they rise after it.

    A run's own lowest part is low partly by chance. So the mean of the other seeds decides which part is the lowest.
    A fall or a rise of less than MARGIN counts as none. If one run has no value in a part, all runs leave it out.
    """
    comparisons = []
    for value in claim.levels:
        binned = [[window_mean(curve, part, last) for part in pairwise(EDGES)] for curve in values[str(value)]]
        known = [b for b in range(len(EDGES) - 1) if all(math.isfinite(run[b]) for run in binned)]
        parts = [[run[b] for b in known] or [math.nan] for run in binned]
        falls, rises = [], []
        for place, run in enumerate(parts):
            others = [other for number, other in enumerate(parts) if number != place] or [run]
            lowest = min(range(len(run)), key=lambda b: mean([other[b] for other in others]))
            falls.append(run[0] - run[lowest])
            rises.append(run[-1] - run[lowest])
        floor = MARGIN * abs(mean([run[0] for run in parts]))
        comparisons.append(Comparison(f"fall at {value}", tuple(falls), floor=floor))
        comparisons.append(Comparison(f"rise at {value}", tuple(rises), floor=floor))
    return comparisons


def compare_neighbours(claim: Claim, order: Sequence[str], values: Values, last: int) -> list[Comparison]:
    """Return the difference that the claim calls small, then the differences of the sweep's other neighbours."""
    means = {v: tuple(window_mean(curve, claim.at, last) for curve in curves) for v, curves in values.items()}
    a, b = (str(value) for value in claim.levels)
    others = [(x, y) for x, y in pairwise(order) if {x, y} != {a, b} and means[x] and means[y]]
    return [Comparison(f"{x} - {y}", means[x], means[y]) for x, y in ((a, b), *others)]


def window(curve: Curve, at: tuple[float, float], last: int) -> Curve:
    """Return the points between two shares of the steps, without the lower end; step 0 belongs to the beginning."""
    start, end = at[0] * last, at[1] * last
    return [(step, y) for step, y in curve if start < step <= end or (start == 0 == step)]


def window_mean(curve: Curve, at: tuple[float, float], last: int) -> float:
    """Return the mean of a part of a curve; NaN if it has no point there."""
    return mean([y for _, y in window(curve, at, last)] or [math.nan])


def rise_over(curve: Curve, at: tuple[float, float], last: int) -> float:
    """Return how much a part of a curve rises: its least-squares slope times its steps; NaN below two points."""
    points = window(curve, at, last)
    if len(points) < 2:
        return math.nan
    middle, height = mean([step for step, _ in points]), mean([y for _, y in points])
    spread = math.fsum((step - middle) ** 2 for step, _ in points)
    slope = math.fsum((step - middle) * (y - height) for step, y in points) / spread
    return slope * (at[1] - at[0]) * last


COMPARISONS = {
    "order": compare_order,
    "slope": compare_slope,
    "rises": compare_change,
    "falls": compare_change,
    "never_rises": compare_no_rise,
    "slows": compare_slowing,
    "settles": compare_settling,
    "minimum_inside": compare_dip,
}
