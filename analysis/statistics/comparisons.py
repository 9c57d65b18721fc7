"""What each kind of claim compares: quantities that are above zero if the claim is true, one value for each seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from analysis.design.levels import frozen
from analysis.records.history import Curve
from analysis.statistics.intervals import LEVEL, Interval, mean, t_quantile, variance
from experiments.config.sweep_files import Claim

EDGES = (0.0, 0.025, 0.05, *(tenth / 10 for tenth in range(1, 11)))
"""The parts of a training in which a dip is looked for, as shares of its steps.

They are finer at the beginning, where the response length may fall within a few steps.
"""
MARGIN = 0.05
"""No test can show that two things are equal. So a difference below this share of their size counts as none, unless the
claim says itself which difference counts as none."""
Values = Mapping[Hashable, Sequence[Curve]]
"""{level: the curves of the seeds at this level}."""
Pairs = Callable[[Any, Any], bool]
"""Returns whether the seeds of two levels, in their order, make pairs."""


@dataclass(frozen=True)
class Estimate:
    """An effect, its standard error, and the degrees of freedom of that."""

    effect: float
    error: float
    degrees: float

    def interval(self, level: float = LEVEL) -> Interval:
        """Return the t-interval."""
        reach = t_quantile(self.degrees, level) * self.error if self.error else 0.0
        return Interval(self.effect, self.effect - reach, self.effect + reach)

    def p_above(self, floor: float) -> float:
        """Return the one-sided p-value of the effect being above `floor`."""
        from scipy.special import stdtr

        if self.error == 0:
            return 0.0 if self.effect > floor else 1.0
        return float(stdtr(self.degrees, (floor - self.effect) / self.error))

    def p_below(self, floor: float) -> float:
        """Return the one-sided p-value of the effect being below `floor`."""
        return Estimate(-self.effect, self.error, self.degrees).p_above(-floor)

    def power(self, effect: float) -> float:
        """Return how often a test at 5% (two-sided) would show an effect of this size, with this error."""
        from scipy.special import nctdtr

        if self.error == 0:
            return 1.0
        return 1 - float(nctdtr(self.degrees, effect / self.error, t_quantile(self.degrees)))


@dataclass(frozen=True)
class Comparison:
    """One quantity that is above its floor if the claim is true."""

    text: str
    ones: tuple[float, ...]
    """One value for each seed."""
    others: tuple[float, ...] | None = None
    """The values that `ones` are compared with; None if `ones` are differences within runs already."""
    pairs: bool = False
    """Whether the values of `ones` and `others` are pairs, of one seed each."""
    floor: float = 0.0
    """The claim holds if the quantity is shown to be above this value; if shown to be below, it is contradicted."""
    worth: float = 0.0
    """The smallest effect that matters: a sweep is planned so that it would show one of this size."""

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

    def estimate(self, seeds: int | None = None) -> Estimate | None:
        """Return the effect with its standard error; None below two seeds.

        Pairs by the spread of their differences, two arms by Welch and Satterthwaite. `seeds`: return it for this
        number of seeds in each arm, if effect and spread stayed as they are.
        """
        effect = self.effect()
        if effect is None or self.one_seed:
            return None
        samples = self.samples
        if self.pairs and self.others is not None:
            samples = [tuple(one - other for one, other in zip(self.ones, self.others, strict=True))]
        parts = [(variance(sample) / (seeds or len(sample)), seeds or len(sample)) for sample in samples]
        squared = sum(part for part, _ in parts)
        if squared == 0:
            return Estimate(effect, 0.0, float(sum(size - 1 for _, size in parts)))
        degrees = 1 / sum((part / squared) ** 2 / (size - 1) for part, size in parts)
        return Estimate(effect, math.sqrt(squared), degrees)

    def interval(self, level: float = LEVEL) -> Interval | None:
        """Return the effect with its interval; None below two seeds."""
        estimate = self.estimate()
        return estimate.interval(level) if estimate else None


def margin_of(claim: Claim, sizes: Sequence[float]) -> float:
    """Return the difference that counts as none: the claim's own, or MARGIN of the mean of `sizes`."""
    return claim.margin if claim.margin is not None else MARGIN * abs(mean(sizes))


def compare_order(claim: Claim, values: Values, last: int, pairs: Pairs) -> list[Comparison]:
    """Return the difference of each level from the next; where the claim says "at least", the margin is added to it."""
    means = means_of(claim, values, last)
    comparisons = []
    for place, (a, b) in enumerate(pairwise(claim.levels)):
        ones, others = means[frozen(a)], means[frozen(b)]
        room = margin_of(claim, others)
        either = claim.or_equal[place : place + 1] == (True,)
        text = f"{a} - {b}" + (f" + {room:.3g}" if either else "")
        ones = tuple(value + room for value in ones) if either else ones
        comparisons.append(Comparison(text, ones, others, pairs(a, b), worth=room))
    return comparisons


def compare_close(claim: Claim, values: Values, last: int, pairs: Pairs) -> list[Comparison]:
    """Return by how much the difference of two levels stays within the margin on either side: two one-sided tests.

    Schuirmann 1987, J. Pharmacokinet. Biopharm. 15(6): the levels are close if both are above zero.
    """
    means = means_of(claim, values, last)
    a, b = claim.levels[:2]
    ones, others = means[frozen(a)], means[frozen(b)]
    room = margin_of(claim, [*ones, *others])
    both = pairs(a, b)
    return [
        Comparison(f"{room:.3g} + {a} - {b}", tuple(value + room for value in ones), others, both, worth=room),
        Comparison(f"{room:.3g} - {a} + {b}", tuple(value + room for value in others), ones, both, worth=room),
    ]


def means_of(claim: Claim, values: Values, last: int) -> dict[Hashable, tuple[float, ...]]:
    """Return {level: each seed's mean in the claim's part of the training}."""
    return {level: tuple(window_mean(curve, claim.at, last) for curve in curves) for level, curves in values.items()}


def compare_speed(claim: Claim, values: Values, last: int, pairs: Pairs) -> list[Comparison]:
    """Return by how much each level is further above its start, within the claim's part, than the next level.

    A slope would not do: of two curves that meet at the end of the part, the one that lags before has the steeper one.
    """
    rises = {value: tuple(mean_gain(curve, claim.at, last) for curve in curves) for value, curves in values.items()}
    return [
        Comparison(
            f"mean gain at {a} - mean gain at {b}",
            rises[frozen(a)],
            rises[frozen(b)],
            pairs(a, b),
            worth=margin_of(claim, [abs(rise) for rise in rises[frozen(b)]]),
        )
        for a, b in pairwise(claim.levels)
    ]


def compare_change(claim: Claim, values: Values, last: int, pairs: Pairs) -> list[Comparison]:
    """Return how far each level's runs end above where they began; below, for a claim that they fall."""
    sign = 1 if claim.kind == "rises" else -1
    start = (0.0, claim.at[1] - claim.at[0])
    word = "rise" if sign > 0 else "fall"
    return [
        Comparison(
            f"{word} at {value}",
            tuple(sign * (window_mean(c, claim.at, last) - window_mean(c, start, last)) for c in values[frozen(value)]),
        )
        for value in claim.levels
    ]


def compare_no_rise(claim: Claim, values: Values, last: int, pairs: Pairs) -> list[Comparison]:
    """Return the margin minus the rise of each level's runs: a test of non-inferiority."""
    start = (0.0, claim.at[1] - claim.at[0])
    comparisons = []
    for value in claim.levels:
        ends = [(window_mean(c, start, last), window_mean(c, claim.at, last)) for c in values[frozen(value)]]
        rooms = [margin_of(claim, [before]) for before, _ in ends]
        values_ = tuple(room - (after - before) for room, (before, after) in zip(rooms, ends, strict=True))
        comparisons.append(Comparison(f"{mean(rooms):.3g} - rise at {value}", values_, worth=mean(rooms)))
    return comparisons


def compare_slowing(claim: Claim, values: Values, last: int, pairs: Pairs) -> list[Comparison]:
    """Return by how much more each level's runs rise at the beginning than in the claim's part, which is as long."""
    start = (0.0, claim.at[1] - claim.at[0])
    return [
        Comparison(
            f"first rise - later rise at {value}",
            tuple(rise_over(c, start, last) - rise_over(c, claim.at, last) for c in values[frozen(value)]),
        )
        for value in claim.levels
    ]


def compare_settling(claim: Claim, values: Values, last: int, pairs: Pairs) -> list[Comparison]:
    """Return the margin minus the rise, and minus the fall, of each level's runs: a test of equivalence."""
    comparisons = []
    for value in claim.levels:
        changes = [(rise_over(c, claim.at, last), window_mean(c, claim.at, last)) for c in values[frozen(value)]]
        rooms = [margin_of(claim, [level]) for _, level in changes]
        for sign, word in ((1, "rise"), (-1, "fall")):
            values_ = tuple(room - sign * change for room, (change, _) in zip(rooms, changes, strict=True))
            comparisons.append(Comparison(f"{mean(rooms):.3g} - {word} at {value}", values_, worth=mean(rooms)))
    return comparisons


def compare_dip(claim: Claim, values: Values, last: int, pairs: Pairs) -> list[Comparison]:
    """Return how far each level's runs fall until the lowest part of the training, and how far they rise after it.

    A run's own lowest part is low partly by chance. So the mean of the other seeds decides which part is the lowest.
    A fall or a rise of less than the margin counts as none: it must be shown to be more. If one run has no value in a
    part, all runs leave it out.
    """
    comparisons = []
    for value in claim.levels:
        binned = [[window_mean(curve, part, last) for part in pairwise(EDGES)] for curve in values[frozen(value)]]
        known = [b for b in range(len(EDGES) - 1) if all(math.isfinite(run[b]) for run in binned)]
        parts = [[run[b] for b in known] or [math.nan] for run in binned]
        falls, rises = [], []
        for place, run in enumerate(parts):
            others = [other for number, other in enumerate(parts) if number != place] or [run]
            lowest = min(range(len(run)), key=lambda b: mean([other[b] for other in others]))
            falls.append(run[0] - run[lowest])
            rises.append(run[-1] - run[lowest])
        floor = margin_of(claim, [run[0] for run in parts])
        comparisons.append(Comparison(f"fall at {value}", tuple(falls), floor=floor, worth=floor))
        comparisons.append(Comparison(f"rise at {value}", tuple(rises), floor=floor, worth=floor))
    return comparisons


def window(curve: Curve, at: tuple[float, float], last: int) -> Curve:
    """Return the points between two shares of the steps, without the lower end; step 0 belongs to the beginning."""
    start, end = at[0] * last, at[1] * last
    return [(step, y) for step, y in curve if start < step <= end or (start == 0 == step)]


def window_mean(curve: Curve, at: tuple[float, float], last: int) -> float:
    """Return the mean of a part of a curve; NaN if it has no point there."""
    return mean([y for _, y in window(curve, at, last)] or [math.nan])


def mean_gain(curve: Curve, at: tuple[float, float], last: int) -> float:
    """Return how far a part of a curve is, on average, above its first point; NaN below two points."""
    points = [y for _, y in window(curve, at, last)]
    return mean(points[1:]) - points[0] if len(points) > 1 else math.nan


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
    "close": compare_close,
    "rises_faster": compare_speed,
    "rises": compare_change,
    "falls": compare_change,
    "never_rises": compare_no_rise,
    "slows": compare_slowing,
    "settles": compare_settling,
    "minimum_inside": compare_dip,
}
