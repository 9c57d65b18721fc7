"""The smoothings that the W&B UI offers, by the formulas of its documentation.

https://docs.wandb.ai/models/app/features/panels/line-plot/smoothing
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from experiments.errors import UserError

# W&B publishes TWEMA's formula but not its VIEWPORT_SCALE; re-implementations use this.
VIEWPORT_SCALE = 1000.0
REACH = 6.0
Values = Sequence[float]


@dataclass(frozen=True)
class Smoothing:
    """A smoothing and its strength."""

    kind: str = "none"
    strength: float = 0.0

    def apply(self, xs: Values, ys: Values) -> list[float]:
        """Return the smoothed `ys`, as many as there are; `xs` are ascending."""
        return KINDS[self.kind](xs, ys, self.strength) if self else list(ys)

    def __bool__(self) -> bool:
        return self.kind != "none"

    def __str__(self) -> str:
        return f"{self.kind} {self.strength:g}" if self else "none"


def parse_smoothing(text: str) -> Smoothing:
    """Return the smoothing that "none", "twema:0.9", "ema:0.6", "gaussian:2" or "running:5" names; else UserError."""
    kind, _, strength = text.partition(":")
    if text == "none":
        return Smoothing()
    try:
        smoothing = Smoothing(kind, float(strength))
    except ValueError:
        smoothing = Smoothing("")
    share = kind in ("twema", "ema")
    if kind not in KINDS or not (0 < smoothing.strength < 1 if share else 0 < smoothing.strength <= 10_000):
        raise UserError(
            f"--smooth must be none, twema:W or ema:W with W between 0 and 1, gaussian:SIGMA or running:WINDOW, "
            f"but is {text!r}; e.g. twema:0.9"
        )
    return smoothing


def twema(xs: Values, ys: Values, weight: float) -> list[float]:
    """Return W&B's default, the time-weighted exponential moving average; `weight` is the slider, 0 to 1.

    A point's weight decays with its distance in x, so that sparse points are smoothed less. The range of x is that of
    the curve itself, where the UI takes all of the chart's.
    """
    base = min(math.sqrt(weight), 0.999)
    span = (xs[-1] - xs[0]) / VIEWPORT_SCALE if len(xs) > 1 and xs[-1] > xs[0] else 1.0
    out: list[float] = []
    last = bias = 0.0
    before = xs[0] if xs else 0.0
    for x, y in zip(xs, ys, strict=True):
        decay = base ** ((x - before) / span)
        last, bias, before = last * decay + y, bias * decay + 1.0, x
        out.append(last / bias)
    return out


def ema(_: Values, ys: Values, weight: float) -> list[float]:
    """Return the exponential moving average with its bias at the beginning taken out."""
    out: list[float] = []
    last = 0.0
    for number, y in enumerate(ys, 1):
        last = last * weight + (1 - weight) * y
        out.append(last / (1 - weight**number))
    return out


def gaussian(xs: Values, ys: Values, sigma: float) -> list[float]:
    """Return the average weighted with a normal distribution around each point.

    `sigma`, its width, is in x as W&B has it, where points are a step apart; on an axis of tokens or hours it counts
    their usual distance. Points further than REACH widths weigh nothing.
    """
    distances = [after - before for before, after in pairwise(xs) if after > before]
    width = sigma * (statistics.median(distances) if distances else 1.0)
    out = []
    for x in xs:
        near = slice(bisect_left(xs, x - REACH * width), bisect_right(xs, x + REACH * width))
        weights = [math.exp(-(((other - x) / width) ** 2) / 2) for other in xs[near]]
        out.append(sum(weight * y for weight, y in zip(weights, ys[near], strict=True)) / sum(weights))
    return out


def running(_: Values, ys: Values, window: float) -> list[float]:
    """Return the plain mean of the `window` points around each; fewer at the ends, as many on both sides."""
    half = int(window) // 2
    out = []
    for place in range(len(ys)):
        reach = min(half, place, len(ys) - 1 - place)
        near = ys[place - reach : place + reach + 1]
        out.append(sum(near) / len(near))
    return out


KINDS: dict[str, Callable[[Values, Values, float], list[float]]] = {
    "twema": twema,
    "ema": ema,
    "gaussian": gaussian,
    "running": running,
}
