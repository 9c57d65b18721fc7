"""What a run left behind, whatever source it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.records.history import History
from experiments.store.events import State
from experiments.store.launch_log import Launch

WAITING = (State.PLANNED, State.QUEUED, State.RUNNING)  # a run in one of these states may still make its first step


@dataclass(frozen=True)
class RunRecord:
    """A run: its settings, the joined history of its attempts, and how far it got."""

    name: str
    config: Mapping[str, Any]
    """The resolved config, flat: {"rollout.temperature": 1.0, ...}."""
    history: History
    state: str
    """planned, queued, running, finished, failed, interrupted, cancelled or killed."""
    attempts: int
    planned_steps: int | None
    """The step it was last asked to reach; None where the number of epochs decides."""
    tags: tuple[str, ...] = ()
    group: str = ""
    folder: Path | None = None
    """The run's folder, in which the sampled texts are; None if the run was read from W&B or from `.wandb` files."""

    launches: tuple[Launch, ...] = ()
    """The commands that asked for the run, oldest first, as far as they were recorded."""

    @property
    def seed(self) -> Any:
        return self.config.get("seed", self.config.get("data.seed"))

    @property
    def complete(self) -> bool:
        """Whether the run finished and reached the step that it was asked to reach."""
        return self.state == State.FINISHED and self.history.last_step() >= (self.planned_steps or 0)

    def progress(self) -> str:
        """Return how far the run got, e.g. "killed at step 31 of 60" or "planned, no step yet"."""
        step = self.history.last_step()
        if not step:
            alive = self.state in WAITING
            return f"{self.state}, no step yet" if alive else f"{self.state} before its first step"
        of = f" of {self.planned_steps}" if self.planned_steps else ""
        return f"{self.state} at step {step}{of}"
