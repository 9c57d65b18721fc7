"""Statistics that single outliers move little: the interquartile mean, and the probability of improvement.

Agarwal et al. 2021 (Deep Reinforcement Learning at the Edge of the Statistical Precipice) propose both. Their intervals
are bootstrapped over many tasks; with one task and a few seeds, these intervals hold better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.statistics.intervals import Interval, mean, t_quantile

CUT = 0.25  # of the values at each end


def interquartile_mean(values: Sequence[float]) -> Interval | None:
    """Return the mean of the middle half of the values, with the interval of Tukey and McLaughlin (1963).

    The spread is that of the values whose ends are drawn in (winsorised). None for fewer than two values. Below four
    values nothing is cut off.
    """
    ordered = sorted(values)
    count = len(ordered)
    if count < 2:
        return None
    cut = int(CUT * count)
    inside = ordered[cut : count - cut]
    drawn_in = [inside[0]] * cut + inside + [inside[-1]] * cut
    middle, left = mean(inside), count - 2 * cut
    around = mean(drawn_in)
    spread = math.fsum((value - around) ** 2 for value in drawn_in) / (count - 1)
    reach = t_quantile(left - 1) * math.sqrt(spread * (count - 1) / (left * (left - 1)))
    return Interval(middle, middle - reach, middle + reach)


def probability_of_improvement(ones: Sequence[float], others: Sequence[float]) -> Interval | None:
    """Return how likely a run of `ones` is above one of `others`, ties as half, with Brunner and Munzel's interval.

    Brunner and Munzel 2000, Biometrical Journal 42(1). None if either has fewer than two values. Where all of one are
    above all of the others the estimated variance is zero: then the interval is that of Wilson for as many pairs as the
    smaller sample has values.
    """
    n, m = len(ones), len(others)
    if min(n, m) < 2:
        return None
    wins = [[1.0 if a > b else 0.5 if a == b else 0.0 for b in others] for a in ones]
    share = mean([win for row in wins for win in row])
    by_one, by_other = [mean(row) for row in wins], [mean(column) for column in zip(*wins, strict=True)]
    parts = [
        math.fsum((value - share) ** 2 for value in values) / (len(values) - 1) / len(values)
        for values in (by_one, by_other)
    ]
    if sum(parts) == 0:
        few, z = min(n, m), 1.959963984540054
        middle = (share + z * z / (2 * few)) / (1 + z * z / few)
        reach = z * math.sqrt(share * (1 - share) / few + z * z / (4 * few * few)) / (1 + z * z / few)
        return Interval(share, max(0.0, middle - reach), min(1.0, middle + reach))
    degrees = sum(parts) ** 2 / (parts[0] ** 2 / (n - 1) + parts[1] ** 2 / (m - 1))
    reach = t_quantile(degrees) * math.sqrt(sum(parts))
    return Interval(share, max(0.0, share - reach), min(1.0, share + reach))
