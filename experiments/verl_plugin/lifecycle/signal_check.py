"""What makes a training useless, seen as early as possible: numbers that are not finite, rewards that never differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

TRAINED = ("loss", "grad_norm")  # how the names of veRL's losses and gradient norms end


class NotFinite(RuntimeError):
    """A loss or a gradient is NaN or infinite. store/failures.py finds this name in the log."""


def check_finite(metrics: Mapping[str, Any], step: int) -> None:
    """Raise NotFinite if a loss or a gradient norm of a step is NaN or infinite.

    veRL leaves such an update out and goes on, so a run whose policy is broken would look finished.
    """
    for name, value in sorted(metrics.items()):
        if name.startswith(("actor/", "critic/")) and name.endswith(TRAINED) and not math.isfinite(value):
            raise NotFinite(f"{name} must be finite, but is {value} in step {step}")


def without_signal(rewards: Mapping[str, Sequence[float]]) -> str | None:
    """Return a warning if no group of a step has responses with different rewards; None if one has.

    `rewards`: the rewards of each group's responses.
    """
    if not rewards or any(len(set(group)) > 1 for group in rewards.values()):
        return None
    values = {value for group in rewards.values() for value in group}
    told = f"all are {values.pop():g}" if len(values) == 1 else "they differ between groups only"
    return (
        f"in no group do the responses have different rewards ({told}): the advantages are 0, so this step trains "
        "nothing; give credit for a part of an answer, begin with easier problems, or raise rollout.n or "
        "rollout.temperature"
    )


def never_rewarded(rewards: Sequence[float]) -> str | None:
    """Return a warning if all responses of a validation have the same reward; None if they differ."""
    values = set(rewards)
    if len(rewards) < 2 or len(values) > 1:
        return None
    return (
        f"all {len(rewards)} responses of the first validation have the same reward, {values.pop():g}: if that "
        "stays so in training, nothing is learnt; check the task's score, or begin with easier problems"
    )
