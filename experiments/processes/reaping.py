"""Nothing is left behind: finding and ending the processes of an attempt, wherever they have gone.

Ray's daemons leave their parent's process group, so descent says little. Every process of an attempt inherits a
marker in its environment; that finds them all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from experiments.errors import UserError
from experiments.variables import EXECUTION, MARKER

SCRATCH = Path("/tmp")  # whatever TMPDIR says: the path of a socket holds 107 bytes
SEGMENTS = "/dev/shm/psm_"  # multiprocessing.shared_memory's; Linux


def of_run(run: Path, execution: str | None = None) -> Iterator[psutil.Process]:
    """Yield the living processes, other than this one, that belong to a run's folder, or to one execution of it."""
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            environment = process.environ()
            belongs = environment.get(MARKER) == str(run) and execution in (None, environment.get(EXECUTION))
            if belongs and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            continue


def drop_shared_memory(run: Path) -> None:
    """Take away the names of the shared memory that a run's processes have mapped (vLLM's queues); it goes with them.

    Who made it would do that in the end, but Ray ends its actors before they, or Python's tracker, could.
    """
    for process in of_run(run):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
                path = line.split(maxsplit=5)[-1]
                if path.startswith(SEGMENTS):
                    Path(path).unlink(missing_ok=True)


def scratch_prefix(run: Path) -> str:
    """Return how the temporary folders of a run's attempts are named: the same run may be in two folders at once."""
    return f"r1z-{hashlib.sha256(os.fsencode(run)).hexdigest()[:8]}-"


def scratch_folder(prefix: str, place: Path = SCRATCH) -> Path:
    """Make a temporary folder; UserError if the place for it takes none."""
    try:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    except OSError as error:
        raise UserError(
            f"{place} must take temporary folders (Ray keeps its sockets there), but: {error.strerror}; "
            "make it a folder with room that you may write to"
        ) from error


def drop_folder(folder: Path, patience: float = 2.0) -> None:
    """Take a folder away; again, for `patience` seconds, where a process that is about to end still writes into it."""
    deadline = time.monotonic() + patience
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def reap(run: Path, patience: float = 3.0, execution: str | None = None) -> int:
    """End every process of the run, politely for `patience` seconds, then by SIGKILL; return how many there were.

    What a killed attempt left in /tmp and /dev/shm goes as well. Of one execution only its processes go: the next may
    have begun.
    """
    first = list(of_run(run, execution))
    if execution is None:
        drop_shared_memory(run)
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
        left = list(of_run(run, execution))
    if execution is not None:
        return len(first)
    for scratch in SCRATCH.glob(f"{scratch_prefix(run)}*"):
        drop_folder(scratch)
    return len(first)
