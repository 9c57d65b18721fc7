"""How much memory all processes of an attempt on a CPU take together, looked at every few seconds.

Only from the first trained step on: an attempt that ended before has not shown what it needs.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from experiments.processes import reaping
from experiments.processes.forks import forks_of
from experiments.store.memory_peak import note_peak
from experiments.store.metrics import STEP_TIME
from experiments.store.rundir import Attempt

LOOK_SECONDS = 10.0  # a look takes some hundredths of a second
GROWTH = 1.01  # a larger peak is written down if it is larger by so much


class MemoryPeak:
    """The peak of one attempt so far."""

    def __init__(self, run: Path, attempt: Attempt, head: int = 0, forks: Path | None = None) -> None:
        """Begin with nothing measured.

        Args:
            run: the run's folder, which the environment of its processes names.
            attempt: where the peak is written down.
            head: the process id of the Ray head that the attempt uses; 0 if the attempt starts its own Ray.
            forks: the folder of the fork server that the attempt uses, if it uses one.
        """
        self.run, self.attempt, self.head, self.forks = run, attempt, head, forks
        self.peak, self.trains = 0, False
        self._next = time.monotonic()

    def look(self) -> None:
        """Measure, if it is time for that, and write down a peak that has grown."""
        if time.monotonic() < self._next:
            return
        self.trains = self.trains or _has_trained(self.attempt)
        if not self.trains:
            return
        self._next = time.monotonic() + LOOK_SECONDS
        now = shared_out(self._processes())
        if now > self.peak * GROWTH:
            self.peak = now
            with contextlib.suppress(OSError):  # the disk may be full; the training tells that itself
                note_peak(self.attempt, now)

    def _processes(self) -> set[psutil.Process]:
        found = {psutil.Process(os.getpid()), *reaping.of_run(self.run)}
        if self.forks is not None:
            found |= set(forks_of(self.forks, self.run))
        if self.head:
            with contextlib.suppress(psutil.Error):
                head = psutil.Process(self.head)
                found |= {head, *head.children(recursive=True)}
        return found


def _has_trained(attempt: Attempt) -> bool:
    try:
        return STEP_TIME.encode() in attempt.metrics.read_bytes()
    except OSError:
        return False


def shared_out(processes: Iterable[psutil.Process]) -> int:
    """Return the bytes that processes take together; a page that several have mapped is shared out between them.

    This is the kernel's PSS. Where there is none (macOS), only what each process has for itself is counted.
    """
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.uss)
    return total
