"""The smoothing that W&B's charts use unless told otherwise: a time-weighted exponential moving average (TWEMA).

The formula is that of W&B's documentation: https://docs.wandb.ai/models/app/features/panels/line-plot/smoothing
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.errors import UserError

# W&B publishes TWEMA's formula but not its VIEWPORT_SCALE; re-implementations use this.
VIEWPORT_SCALE = 1000.0


@dataclass(frozen=True)
class Smoothing:
    """How strongly curves are smoothed."""

    weight: float = 0.0
    """The slider of W&B's charts, from 0 (not at all) to 1."""

    def apply(self, xs: Sequence[float], ys: Sequence[float]) -> list[float]:
        """Return the smoothed `ys`, as many as there are; `xs` are ascending."""
        return twema(xs, ys, self.weight) if self else list(ys)

    def __bool__(self) -> bool:
        return self.weight > 0

    def __str__(self) -> str:
        return f"twema {self.weight:g}" if self else "none"


def parse_smoothing(text: str) -> Smoothing:
    """Return the smoothing that "none" or e.g. "twema:0.9" names; UserError for any other text."""
    if text == "none":
        return Smoothing()
    kind, _, weight = text.partition(":")
    try:
        smoothing = Smoothing(float(weight))
    except ValueError:
        smoothing = Smoothing()
    if kind != "twema" or not 0 < smoothing.weight < 1:
        raise UserError(f"--smooth must be none, or twema:W with W between 0 and 1, but is {text!r}; e.g. twema:0.9")
    return smoothing


def twema(xs: Sequence[float], ys: Sequence[float], weight: float) -> list[float]:
    """Return the time-weighted exponential moving average of `ys`; `weight` is above 0 and below 1.

    A point's weight decays with its distance in x, so that sparse points are smoothed less than dense ones. Distances
    are measured against the range of x. W&B takes the range of the whole chart, we take that of the curve.
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
