"""The signals that SLURM sends to a job: the warning before its time limit, and its end."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from types import FrameType


@dataclass
class Signals:
    """Which signals have arrived. Handlers only note them: several arrive at once, and an exception can get lost."""

    warned: float | None = None
    """When the warning arrived, in Unix seconds; None: not yet."""
    terminated: bool = False

    def listen(self) -> None:
        """Note SIGUSR1 (the warning) and SIGTERM (the end) from now on."""
        signal.signal(signal.SIGUSR1, self._warn)
        signal.signal(signal.SIGTERM, self._terminate)

    def _warn(self, number: int, frame: FrameType | None) -> None:
        self.warned = self.warned or time.time()

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self.terminated = True
