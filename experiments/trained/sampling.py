"""How the answers of an evaluation are drawn. Light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiments.values import at

VALIDATION = "actor_rollout_ref.rollout.val_kwargs"


@dataclass(frozen=True)
class Sampling:
    """The settings of a sample; a response depends on these and on its place alone."""

    temperature: float
    """0: greedy."""
    top_k: int
    """-1: all tokens."""
    top_p: float
    length: int
    """The most tokens of a response."""
    seed: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Sampling:
        """Return how a run's validation samples."""
        return cls(
            temperature=float(at(config, f"{VALIDATION}.temperature")),
            top_k=int(at(config, f"{VALIDATION}.top_k", -1)),
            top_p=float(at(config, f"{VALIDATION}.top_p", 1.0)),
            length=int(at(config, "data.max_response_length")),
        )

    def greedy(self) -> Sampling:
        """Return the same, with the likeliest token always."""
        return replace(self, temperature=0.0, top_k=-1, top_p=1.0)
