"""Find and end all processes of an attempt, so that none is left behind.

Ray's daemons leave their parent's process group, so parents and groups do not find them. But every process of an
attempt inherits a marker in its environment, and the marker finds them all.
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
from experiments.variables import EXECUTION, MARKER, socket_mark

SCRATCH = Path("/tmp")  # not TMPDIR, which may be long: the path of a socket has at most 107 bytes
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
    """Unlink the shared memory that a run's processes have mapped (vLLM's queues); it is freed when they end.

    The process that made it would unlink it at its end, but Ray kills its actors before they, or Python's resource
    tracker, can do so.
    """
    for process in of_run(run):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
                path = line.split(maxsplit=5)[-1]
                if path.startswith(SEGMENTS):
                    Path(path).unlink(missing_ok=True)


def drop_sockets(run: Path) -> None:
    """Remove the sockets that killed processes of a run have left; verl_plugin/rollout/vllm_socket.py names them."""
    for socket in SCRATCH.glob(f"rl-colocate-zmq-*-{socket_mark(str(run))}-*.sock"):
        with contextlib.suppress(OSError):
            socket.unlink()


def scratch_prefix(run: Path) -> str:
    """Return the prefix of the temporary folders of a run's attempts; it differs for each folder that holds the run."""
    return f"r1z-{hashlib.sha256(os.fsencode(run)).hexdigest()[:8]}-"


def of_execution(run: Path, execution: str) -> str:
    """Return the name of the temporary folder of one execution of a run in a SLURM job; other names may begin so."""
    return f"{scratch_prefix(run)}{execution[:8]}"


def drop_dead_scratch(run: Path) -> None:
    """Remove the temporary folders that executions of a run in SLURM jobs have left on this node.

    The folders of an execution that has living processes stay: SLURM may have started the job again already.
    """
    executions = set()
    for process in of_run(run):
        with contextlib.suppress(psutil.Error, OSError):
            executions.add(process.environ().get(EXECUTION))
    if None in executions:  # an attempt without a job: nobody knows which folder is its own
        return
    living = tuple(of_execution(run, execution) for execution in executions if execution)
    if not living:
        drop_sockets(run)
    for folder in SCRATCH.glob(f"{scratch_prefix(run)}*"):
        if not folder.name.startswith(living):
            drop_folder(folder)


def scratch_folder(prefix: str, place: Path = SCRATCH) -> Path:
    """Make a temporary folder and return it; UserError if `place` takes none."""
    try:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    except OSError as error:
        raise UserError(
            f"{place} must take temporary folders (Ray keeps its sockets there), but: {error.strerror}; "
            "make it a folder with room that you may write to"
        ) from error


def drop_folder(folder: Path, patience: float = 2.0) -> None:
    """Remove a folder; try for `patience` seconds, since a process that is about to end may still write into it."""
    deadline = time.monotonic() + patience
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def reap(run: Path, patience: float = 3.0, execution: str | None = None) -> int:
    """End every process of the run, by SIGTERM for `patience` seconds, then by SIGKILL; return how many there were.

    What a killed attempt left in /tmp and /dev/shm is removed too. With `execution`, only the processes of that
    execution are ended and nothing is removed, since the next execution may have begun.
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
    drop_sockets(run)
    for scratch in SCRATCH.glob(f"{scratch_prefix(run)}*"):
        drop_folder(scratch)
    return len(first)
