"""Where accuracy would end: a saturating curve of accuracy against compute, fitted to an arm's mean over seeds.

    R - R0 = (A - R0) / (1 + (C_mid / C)^B)

R is the accuracy after compute C, R0 that of the base model, A the asymptote, C_mid the compute at which half of the
gain is made, B how steep the rise is (Khatri et al. 2025, The Art of Scaling Reinforcement Learning Compute for LLMs,
arXiv 2510.13786, equation 1). A and C_mid answer different questions: how good, and how efficient.

For given C_mid and B the best A follows in closed form. So only these two are searched, on a grid that is narrowed.
The intervals come from resampling seeds: the fit is repeated without each of them (jackknife; Efron 1982, chapter 3),
and Student's t allows for how few there are. Percentiles of a bootstrap would be too narrow: few seeds have few
resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.statistics.intervals import Interval, t_quantile

SEEDS = 3  # two seeds have an interval of nothing: its t quantile is 12.7
POINTS = 5  # trained steps; the curve has three parameters
STEEPNESS = (0.3, 8.0)
ROUNDS, CELLS = 12, 13  # how often the grid is narrowed, and how many values it has of each parameter
WIDEST = 0.15  # an asymptote that is known to no more than this to each side is not known
LIMIT = 1.0  # no accuracy is higher


@dataclass(frozen=True)
class Fit:
    """A fitted curve, with 95% intervals over seeds."""

    start: float
    """R0, the mean accuracy of the base model."""
    asymptote: Interval
    half: Interval
    """C_mid, in the axis's units."""
    steepness: Interval
    span: tuple[float, float]
    """The least and the most compute of the points."""
    seeds: int

    def at(self, compute: float) -> float:
        """Return the fitted accuracy."""
        return float(
            curve(np.array([compute]), self.start, self.asymptote.value, self.half.value, self.steepness.value)[0]
        )


@dataclass(frozen=True)
class NoFit:
    """Why there is no fit."""

    reason: str


def curve(compute: np.ndarray, start: float, asymptote: float, half: float, steepness: float) -> np.ndarray:
    """Return the accuracies at some compute, 0 of which is the base model's."""
    with np.errstate(divide="ignore", over="ignore"):
        return start + (asymptote - start) / (1 + (half / compute) ** steepness)


def least_squares(compute: np.ndarray, gains: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (A - R0, ln C_mid, ln B) of the best curve for each row of `gains`, which are R - R0 at `compute`.

    `most`: the largest A - R0 that may be.
    """
    logs = np.log(compute)
    rows = len(gains)
    lows = np.tile([logs[0] - 2.0, math.log(STEEPNESS[0])], (rows, 1))
    highs = np.tile([logs[-1] + 2.0, math.log(STEEPNESS[1])], (rows, 1))
    bounds = lows.copy(), highs.copy()
    steps = np.linspace(0, 1, CELLS)
    for _ in range(ROUNDS):
        width = highs - lows
        half = lows[:, :1] + width[:, :1] * steps  # (rows, cells)
        steep = lows[:, 1:] + width[:, 1:] * steps
        shape = 1 / (1 + np.exp(np.exp(steep)[:, None, :, None] * (half[:, :, None, None] - logs)))
        along = np.einsum("rijp,rp->rij", shape, gains)
        size = np.einsum("rijp,rijp->rij", shape, shape)
        gain = np.clip(along / np.maximum(size, 1e-300), 0.0, most)
        error = gain**2 * size - 2 * gain * along  # without the sum of squares of the gains, the same for all
        best = error.reshape(rows, -1).argmin(axis=1)
        first, second = np.unravel_index(best, (CELLS, CELLS))
        every = np.arange(rows)
        centre = np.stack([half[every, first], steep[every, second]], axis=1)
        lows = np.maximum(bounds[0], centre - width / 4)
        highs = np.minimum(bounds[1], centre + width / 4)
    return gain[every, first, second], centre[:, 0], centre[:, 1]


def fit(compute: Sequence[float], start: float | None, seeds: Sequence[Sequence[float]]) -> Fit | NoFit:
    """Return the fit of the mean of several seeds' accuracies, or why there is none.

    Args:
        compute: of each point, ascending and above 0.
        start: R0, the mean accuracy of the base model; None if it was not recorded.
        seeds: each seed's accuracies at these points.
    """
    if start is None:
        return NoFit("the base model was not validated (trainer.val_before_train)")
    if len(seeds) < SEEDS:
        return NoFit(f"{len(seeds)} seed{'s' * (len(seeds) != 1)}, where {SEEDS} are needed to tell how sure it is")
    if len(compute) < POINTS:
        return NoFit(f"{len(compute)} validated steps, where {POINTS} are needed")
    at, table = np.array(compute, dtype=float), np.array(seeds, dtype=float) - start
    count = len(table)
    without = (table.sum(axis=0) - table) / (count - 1)
    gains, halves, steeps = least_squares(at, np.vstack([table.mean(axis=0), without]), LIMIT - start)
    asymptote, half, steepness = (jackknife(values, count) for values in (start + gains, halves, steeps))
    last = table[:, -1]
    if last.mean() - t_quantile(count - 1) * last.std(ddof=1) / math.sqrt(count) <= 0:
        return NoFit("accuracy did not rise for sure")
    if asymptote.value >= LIMIT - 1e-6:
        return NoFit("the curve has not bent: no end below 1 is in sight")
    if halves[0] > math.log(at[-1]) or asymptote.high - asymptote.value > WIDEST or asymptote.low <= start:
        reach = f"{asymptote.value:.2f} ± {asymptote.high - asymptote.value:.2f}"
        return NoFit(f"the curve has not bent far enough to tell where it ends (asymptote {reach})")
    return Fit(start, asymptote, exponential(half), exponential(steepness), (float(at[0]), float(at[-1])), count)


def jackknife(values: np.ndarray, seeds: int) -> Interval:
    """Return a fit's value, `values[0]`, with its interval from the fits without each seed, the rest of `values`."""
    rest = values[1:]
    error = math.sqrt((seeds - 1) / seeds * float(((rest - rest.mean()) ** 2).sum()))
    reach = t_quantile(seeds - 1) * error
    return Interval(float(values[0]), float(values[0]) - reach, float(values[0]) + reach)


def exponential(interval: Interval) -> Interval:
    """Return the interval of exp(x) from that of x."""
    return Interval(*(math.exp(min(value, 700.0)) for value in (interval.value, interval.low, interval.high)))


def common_points(
    curves: Sequence[Mapping[int, float]], places: Sequence[Mapping[int, float]]
) -> tuple[list[int], list[float]]:
    """Return (the trained steps that all curves have, the mean compute at each), compute ascending and above 0."""
    steps = sorted(set.intersection(*(set(known) for known in (*curves, *places)))) if curves else []
    means = [(step, sum(place[step] for place in places) / len(places)) for step in steps if step > 0]
    kept = [(step, place) for step, place in means if place > 0]
    return [step for step, _ in kept], [place for _, place in kept]
