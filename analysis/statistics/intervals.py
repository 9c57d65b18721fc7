"""How sure a mean over seeds, and a difference of two, is.

Below five seeds Student's t-interval, which is wide and says so; a bootstrap of two to four values has hardly any
distinct resamples and is too narrow. From five seeds on rliable's stratified bootstrap (Agarwal et al., Deep
Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021).
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

LEVEL = 0.95
BOOTSTRAP_FROM = 5
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A value and the interval that holds the true one with 95% confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3g} [{self.low:+.3g}, {self.high:+.3g}]"


def t_quantile(degrees: float, level: float = LEVEL) -> float:
    """Return how many standard errors a two-sided t-interval of `level` reaches, with `degrees` of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def variance(values: Sequence[float]) -> float:
    """Return the unbiased sample variance of two values or more."""
    middle = mean(values)
    return math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Return the t-interval of the mean; None below two values, which say nothing of the spread."""
    if len(values) < 2:
        return None
    return t_interval(mean(values), [variance(values)], [len(values)], level)


def difference_interval(ones: Sequence[float], others: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Return Welch's interval of mean(ones) - mean(others); None if either has fewer than two values."""
    if min(len(ones), len(others)) < 2:
        return None
    samples = (ones, others)
    return t_interval(mean(ones) - mean(others), list(map(variance, samples)), list(map(len, samples)), level)


def t_interval(effect: float, variances: Sequence[float], sizes: Sequence[int], level: float = LEVEL) -> Interval:
    """Return the interval of a mean (one variance and size) or of a difference of two, by Student's t.

    Spreads and numbers of seeds may differ; degrees of freedom by Welch and Satterthwaite.
    """
    parts = [spread / size for spread, size in zip(variances, sizes, strict=True)]
    squared = sum(parts)
    if squared == 0:
        return Interval(effect, effect, effect)
    degrees = 1 / sum((part / squared) ** 2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
    reach = t_quantile(degrees, level) * math.sqrt(squared)
    return Interval(effect, effect - reach, effect + reach)


def band(seeds: Sequence[Sequence[float]]) -> tuple[list[float], list[float]] | None:
    """Return (lower, upper) bounds of the mean at each point of several seeds' curves; None for one seed."""
    if len(seeds) < 2 or not seeds[0]:
        return None
    if len(seeds) < BOOTSTRAP_FROM:
        reach_of = t_quantile(len(seeds) - 1) / math.sqrt(len(seeds))
        lows, highs = [], []
        for column in zip(*seeds, strict=True):
            middle, reach = mean(column), reach_of * math.sqrt(variance(column))
            lows.append(middle - reach)
            highs.append(middle + reach)
        return lows, highs
    return _bootstrap_band(tuple(map(tuple, seeds)))


def import_bootstrap() -> Any:
    """Return rliable's library; importing it takes a second, for it brings pandas and statsmodels along."""
    from rliable import library

    return library


@functools.lru_cache(maxsize=256)
def _bootstrap_band(seeds: tuple[tuple[float, ...], ...]) -> tuple[list[float], list[float]]:
    """Return what `band` does, from five seeds on: the same arm is asked for by a figure, its table and others."""
    import numpy as np

    library = import_bootstrap()
    curves = np.asarray(seeds)
    # What is drawn are the numbers of the seeds, so that a seed comes with its whole curve: rliable would draw each
    # point by itself, and the band's edges would be ragged.
    numbers = np.arange(len(seeds))[:, None]
    with _drawing_the_same():
        _, intervals = library.get_interval_estimates(
            {"arm": numbers},
            lambda drawn: curves[drawn[:, 0]].mean(axis=0),
            reps=RESAMPLES,
            confidence_interval_size=LEVEL,
        )
    low, high = intervals["arm"]
    return low.tolist(), high.tolist()


@contextlib.contextmanager
def _drawing_the_same() -> Iterator[None]:
    """Have numpy's global generator, from which rliable draws whatever it is given, draw the same numbers each time."""
    import numpy as np

    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)
