"""Whether an attempt has written nothing for so long that it must hang: it needs no knowledge of the attempt's parts.

An attempt writes a row after each step, and its trainer says what it does between rows (lifecycle/stopping.py): it
validates, or saves. These take as long as they take, so they have the limit of a start.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from experiments.store.failures import RESUMES, STALLED, Failure
from experiments.store.files import write_atomically
from experiments.store.metrics import step_times
from experiments.store.rundir import PHASE, STACKS, VERDICT, Attempt, RunDir
from experiments.terminal import counted

DEFAULTS = {"start_seconds": 1800.0, "stalled_steps": 10.0, "stalled_seconds": 300.0}  # for configs of older versions
TRAINING = "training"
UNSEEN_SECONDS = 30.0  # this process did not run for so long (a stopped process, a laptop asleep): nothing is concluded
LEAST = 3.0  # so many times the longest pause between two rows are always allowed
NOT_PROGRESS = ("log", STACKS, VERDICT)  # a process that hangs may still print
GRACE_SECONDS = 20.0  # for an attempt to end itself
LOOK_SECONDS = 2.0


class Stall:
    """Remembers when an attempt last wrote something; `look` says whether that is too long ago."""

    def __init__(self, run: RunDir, attempt: Attempt, config: Mapping[str, Any], grace: float = 0.0) -> None:
        """`grace`: seconds beyond the limit, for one who looks from outside and leaves the attempt to end itself."""
        self.run, self.attempt, self.grace = run, attempt, grace
        self.keys = {key: float(config.get("watch", {}).get(key, value)) for key, value in DEFAULTS.items()}
        self.written: tuple[tuple[str, int, int], ...] = ()
        self.since = self.looked = time.monotonic()
        self.longest = 0.0

    def look(self) -> str | None:
        """Return in words for how long nothing has been written, if that is beyond the limit; else None."""
        now, written = time.monotonic(), tuple(_files(self.run, self.attempt))
        unseen, self.looked = now - self.looked > UNSEEN_SECONDS, now
        if written != self.written or unseen:
            if self.phase == TRAINING and not unseen:
                self.longest = max(self.longest, now - self.since)
            self.written, self.since = written, now
            return None
        if now - self.since <= min(self.keys["start_seconds"], self.keys["stalled_seconds"]) + self.grace:
            return None  # no limit is lower; to know the limit all rows must be read
        limit, why = self.limit()
        if now - self.since <= limit + self.grace:
            return None
        return f"nothing was written for {now - self.since:.0f} s {self._where()} ({why})"

    @property
    def phase(self) -> str | None:
        """What the trainer does: training, validation or saving; None before its first word."""
        try:
            return (self.attempt.path / PHASE).read_text().strip()
        except OSError:
            return None

    def limit(self) -> tuple[float, str]:
        """Return after how many seconds an attempt counts as stalled at present, and which keys say so."""
        times = step_times(self.run) if self.phase == TRAINING else []
        if not times:
            return self.keys["start_seconds"], f"watch.start_seconds={self.keys['start_seconds']:g}"
        steps, least = self.keys["stalled_steps"] * median(times), self.keys["stalled_seconds"]
        pauses, of = LEAST * self.longest, counted(round(self.keys["stalled_steps"]), "median step")
        why = f"watch.stalled_seconds={least:g}, {of}: {steps:.0f} s, {LEAST:g} times the longest pause: {pauses:.0f} s"
        return max(steps, least, pauses), why

    def too_short(self) -> str | None:
        """Return a warning if the keys allow less than a step takes; None if they allow more, or no step is known."""
        times = step_times(self.run)
        asked = max(self.keys["stalled_steps"] * median(times), self.keys["stalled_seconds"]) if times else 0.0
        if not times or asked >= max(times):
            return None
        return (
            f"watch.stalled_seconds={self.keys['stalled_seconds']:g} and watch.stalled_steps="
            f"{self.keys['stalled_steps']:g} allow {asked:.0f} s without a row, but a step took {max(times):.0f} s; "
            f"raise them ({LEAST:g} times the longest pause between two rows are always allowed)"
        )

    def _where(self) -> str:
        where = {None: "during the start", TRAINING: "in training", "validation": "in a validation"}
        return where.get(self.phase, "while a checkpoint was saved")


class Outside:
    """Watches an attempt from its launcher: an attempt whose own process is stopped can't end itself."""

    def __init__(self, run: RunDir, config: Mapping[str, Any]) -> None:
        self.run, self.config, self.made = run, config, len(run.attempts())
        self.stall: Stall | None = None
        self.looked = time.monotonic()

    def stalled(self) -> bool:
        """Return whether the attempt that began after this object must be killed; its verdict is then written down."""
        now = time.monotonic()
        if now - self.looked < LOOK_SECONDS:
            return False
        self.looked = now
        if self.stall is None:
            attempts = self.run.attempts()
            if len(attempts) > self.made:
                self.stall = Stall(self.run, attempts[-1], self.config, GRACE_SECONDS)
            return False
        found = self.stall.look()
        if found is not None:
            verdict = Failure(STALLED, f"{found}, and it did not end itself", RESUMES)
            write_atomically(self.stall.attempt.path / VERDICT, json.dumps(verdict.__dict__) + "\n")
        return found is not None


def _files(run: RunDir, attempt: Attempt) -> Iterator[tuple[str, int, int]]:
    """Yield (path, time of the last change, size) of what an attempt writes when it gets on."""
    folders = [attempt.path, attempt.rollouts, attempt.validation, run.checkpoints]
    folders += [path for step in run.checkpoints.glob("global_step_*") for path in (step, *step.glob("*/"))]
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name not in NOT_PROGRESS:
                        stat = entry.stat(follow_symlinks=False)
                        yield str(Path(folder, entry.name)), stat.st_mtime_ns, stat.st_size
        except OSError:  # it is not there yet, or veRL is deleting it
            continue
