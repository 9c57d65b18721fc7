"""Which failed runs a launch, or a job, tries again by itself: those that failed by what passes, while they get on.

A lost process, a hang, a port that was taken, the machine's own memory and a passing error of the file system are not
the config's fault. A mistake in the config, the task or the data would only fail again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from experiments.errors import UserError
from experiments.store.events import Event
from experiments.store.failures import OUT_OF_MEMORY, passes
from experiments.store.rundir import RunDir
from experiments.values import is_whole

PAUSE_SECONDS = 5.0  # before a new try; each try but the first comes after progress, so it need not grow


def retries_problem(most: Any) -> str | None:
    """Return a problem unless the number of new tries is one."""
    if is_whole(most, 0):
        return None
    return f"hydra.launcher.retries must be a whole number of at least 0, but is {most!r}; try 2"


def check_retries(most: Any) -> None:
    """Raise UserError unless the number of new tries is one."""
    if problem := retries_problem(most):
        raise UserError(problem)


class Retries:
    """The new tries of the runs of one launch."""

    def __init__(self, most: int) -> None:
        """`most`: how often a run may be tried again."""
        self.most = most
        self.made: dict[str, int] = {}
        self.due: dict[str, float] = {}
        self.reached: dict[str, int] = {}
        self.alone: set[str] = set()
        """The names of runs that the machine had no memory for: no other run may be under way at their next try."""

    def again(self, run: RunDir) -> str | None:
        """Record that a failed run will be tried again, and return why in words; None if it will not be.

        The second and later tries need that the one before got further than the run had got before it.
        """
        failed, name = _last_failure(run.events()), run.path.name
        made, step = self.made.get(name, 0), run.checkpoint_step()
        if failed is None or not passes(failed) or made >= self.most or step <= self.reached.get(name, -1):
            return None
        self.made[name], self.reached[name] = made + 1, step
        self.due[name] = time.monotonic() + PAUSE_SECONDS
        if failed.get("kind") == OUT_OF_MEMORY:
            self.alone.add(name)
        why = f"{failed.get('kind')}: {failed.get('cause')}"
        run.record(Event.RETRIED, number=made + 1, of=self.most, step=step, cause=why)
        alone = ", alone" if name in self.alone else ""
        return f"tried again{alone} ({made + 1} of {self.most}) from step {step}, since {why}"

    def is_due(self, run: RunDir) -> bool:
        """Return whether a run may begin: not before its pause is over."""
        return time.monotonic() >= self.due.get(run.path.name, 0.0)


def _last_failure(events: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the failure that is the last word of a run's events; None if it ended otherwise."""
    last = events[-1] if events else {}
    return last if last.get("event") == Event.FAILED else None


def told(events: Sequence[dict[str, Any]]) -> str | None:
    """Return in words how often a run was tried again in its last launch; None if it was not."""
    launched = max((place for place, event in enumerate(events) if event["event"] == Event.LAUNCHED), default=0)
    causes = [str(event.get("cause")) for event in events[launched:] if event["event"] == Event.RETRIED]
    if not causes:
        return None
    return f"tried again {len(causes)} {'time' if len(causes) == 1 else 'times'}: {'; '.join(causes)}"
