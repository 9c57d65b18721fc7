"""Nothing is left behind: finding and ending the processes of an attempt, wherever they have gone.

Ray's daemons leave their parent's process group, so descent says little. Every process of an attempt inherits a
marker in its environment; that finds them all.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

MARKER = "R1Z_RUN"


def of_run(run: Path) -> Iterator[psutil.Process]:
    """Yield the living processes, other than this one, that belong to a run's folder."""
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.environ().get(MARKER) == str(run) and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            continue


def scratch_prefix(run: Path) -> str:
    """Return how the temporary folders of a run's attempts are named: short, since Ray's sockets hold 107 bytes."""
    return f"r1z-{run.name.rsplit('-', 1)[-1]}-"


def reap(run: Path, patience: float = 3.0) -> int:
    """End every process of the run, politely for `patience` seconds, then by SIGKILL; return how many there were.

    What a killed attempt left in /tmp goes as well.
    """
    first = list(of_run(run))
    ask, left = signal.SIGTERM, first
    deadline = time.monotonic() + patience
    while left:
        for process in left:
            try:
                process.send_signal(ask)
            except psutil.Error:
                continue
        psutil.wait_procs(left, timeout=0.2)
        if time.monotonic() > deadline:
            ask = signal.SIGKILL
        left = list(of_run(run))
    for scratch in Path("/tmp").glob(f"{scratch_prefix(run)}*"):
        shutil.rmtree(scratch, ignore_errors=True)
    return len(first)
