"""How sure a mean over seeds, and a difference of two means, is: Student's t-interval at 95%.

A sweep has two to ten seeds. The t-interval allows for so few by its degrees of freedom: of normal values it holds the
true mean 95 times in 100 at any number of seeds from two on. A percentile bootstrap of five seeds holds it about 84
times in 100, since five values have few distinct resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A value and the interval that holds the true one with 95% confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3g} [{self.low:+.3g}, {self.high:+.3g}]"


def t_quantile(degrees: float, level: float = LEVEL) -> float:
    """Return how many standard errors the t-interval of `level` reaches to each side, with `degrees` of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def variance(values: Sequence[float]) -> float:
    """Return the unbiased sample variance of two values or more."""
    middle = mean(values)
    return math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Return the t-interval of the mean; None for fewer than two values, which say nothing about the spread."""
    if len(values) < 2:
        return None
    return t_interval(mean(values), [variance(values)], [len(values)], level)


def difference_interval(ones: Sequence[float], others: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Return Welch's interval of mean(ones) - mean(others); None if either has fewer than two values."""
    if min(len(ones), len(others)) < 2:
        return None
    samples = (ones, others)
    return t_interval(mean(ones) - mean(others), list(map(variance, samples)), list(map(len, samples)), level)


def paired_interval(ones: Sequence[float], others: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Return Student's interval of the mean of the differences of pairs; None for fewer than two pairs."""
    return mean_interval([one - other for one, other in zip(ones, others, strict=True)], level)


def t_interval(effect: float, variances: Sequence[float], sizes: Sequence[int], level: float = LEVEL) -> Interval:
    """Return the interval of a mean (one variance and size) or of a difference of two means, by Student's t.

    The two may differ in spread and number of seeds. The degrees of freedom are those of Welch and Satterthwaite.
    """
    parts = [spread / size for spread, size in zip(variances, sizes, strict=True)]
    squared = sum(parts)
    if squared == 0:
        return Interval(effect, effect, effect)
    degrees = 1 / sum((part / squared) ** 2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
    reach = t_quantile(degrees, level) * math.sqrt(squared)
    return Interval(effect, effect - reach, effect + reach)


def band(seeds: Sequence[Sequence[float]]) -> tuple[list[float], list[float]] | None:
    """Return (lower, upper) bounds of the mean at each point of several seeds' curves; None for one seed.

    Each point has its own t-interval: the band says how sure the mean is there, not that the whole curve lies within.
    """
    if len(seeds) < 2 or not seeds[0]:
        return None
    reach_of = t_quantile(len(seeds) - 1) / math.sqrt(len(seeds))
    lows, highs = [], []
    for column in zip(*seeds, strict=True):
        middle, reach = mean(column), reach_of * math.sqrt(variance(column))
        lows.append(middle - reach)
        highs.append(middle + reach)
    return lows, highs
