"""What a run left behind, whatever source it was read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """planned, queued, running, finished, failed, interrupted, cancelled, killed or diverged (see `ending`)."""
    attempts: int
    planned_steps: int | None
    """The step it was last asked to reach; None where the number of epochs decides."""
    tags: tuple[str, ...] = ()
    group: str = ""
    folder: Path | None = None
    """The run's folder, in which the sampled texts are; None if the run was read from W&B or from `.wandb` files."""

    finished_step: int = 0
    """The step at which it finished, as its events say; its rows may end before. 0: not known, or not finished."""
    diverged_from: int | None = None
    """The step from which on its losses were no numbers; None if they were to the end."""
    complete_from: int | None = None
    """The step from which on a run counts as complete however it ended, as the user says; None: the plan decides."""
    launches: tuple[Launch, ...] = ()
    """The commands that asked for the run, oldest first, as far as they were recorded."""

    @property
    def seed(self) -> Any:
        return self.config.get("seed", self.config.get("data.seed"))

    @property
    def end(self) -> int:
        """The step that training came to, though rows may be missing; 0 if no step was trained."""
        return max(self.history.reached(), self.finished_step if self.state == State.FINISHED else 0)

    @property
    def complete(self) -> bool:
        """Whether the run finished and reached the step that it was asked to reach, or the one that the user says."""
        if self.complete_from is not None and self.diverged_from is None:
            return self.end >= self.complete_from
        return self.state == State.FINISHED and self.end >= (self.planned_steps or 0)

    def missing(self) -> list[tuple[int, int]]:
        """Return the ranges (first, last) of steps that were trained, but of which no row was found."""
        return self.history.gaps(self.end)

    def progress(self) -> str:
        """Return how far the run got, e.g. "killed at step 31 of 60" or "planned, no step yet"."""
        step = self.diverged_from or self.end
        if not step:
            alive = self.state in WAITING
            return f"{self.state}, no step yet" if alive else f"{self.state} before its first step"
        of = f" of {self.planned_steps}" if self.planned_steps else ""
        lost = f"; no rows of {ranges_text(gaps)} were found" if (gaps := self.missing()) else ""
        return f"{self.state} at step {step}{of}{lost}"


VALIDATION = ("val-", "val/")  # how the names of validation metrics begin, in later and earlier veRL


def is_validation(metric: str) -> bool:
    """Return whether a metric is of validation, which has few points far apart."""
    return metric.startswith(VALIDATION)


def ranges_text(ranges: Sequence[tuple[int, int]]) -> str:
    """Return e.g. "step 7", or "steps 7, 16-20"; of many ranges the first four and how many more there are."""
    parts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    more = f" and {len(parts) - 4} more" if len(parts) > 4 else ""
    single = len(ranges) == 1 and ranges[0][0] == ranges[0][1]
    return f"step{'' if single else 's'} {', '.join(parts[:4])}{more}"


def printable(text: str) -> str:
    """Return a text with "?" for what no figure and no file can show: control characters and halves of characters."""
    return "".join(character if character.isprintable() else "?" for character in text)
