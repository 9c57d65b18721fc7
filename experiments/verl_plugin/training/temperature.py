"""The sampling temperature of each training step, by one of the schedules in conf/temperature/."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any


def at_step(schedule: Mapping[str, Any], step: int) -> float:
    """Return the temperature of a training step (the first is 1): `start` in step 1, `end` from step `steps` on.

    linear: an equal change each step. cosine: half a wave, slow at both ends (eq. 5 of Loshchilov and Hutter, SGDR,
    ICLR 2017, without restarts). piecewise: straight lines from `start` through `points`, [step, temperature] each.
    The temperature depends on the step alone, so a resumed run continues the schedule. ValueError for another kind.
    """
    kind, start = schedule["schedule"], float(schedule["start"])
    if kind == "piecewise":
        return _along([(1, start), *((int(at), float(value)) for at, value in schedule["points"])], step)
    end = float(schedule["end"])
    passed = min(1.0, (step - 1) / (int(schedule["steps"]) - 1))
    if kind == "linear":
        left = 1.0 - passed
    elif kind == "cosine":
        left = (1.0 + math.cos(math.pi * passed)) / 2
    else:
        raise ValueError(f"temperature.schedule must be linear, cosine or piecewise, but is {kind!r}")
    return end + (start - end) * left


def _along(points: Sequence[tuple[int, float]], step: int) -> float:
    for (before, first), (after, second) in itertools.pairwise(points):
        if step < after:
            return first + (second - first) * (step - before) / (after - before)
    return points[-1][1]


def set_temperature(holder: Any, temperature: float) -> None:
    """Set the temperature of training rollouts in an object's veRL config, which the object reads when it samples."""
    holder.config.actor_rollout_ref.rollout.temperature = temperature
