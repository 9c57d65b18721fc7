"""Take back submissions whose launcher was killed half-way: their jobs are held, and nobody would release them.

A file in .slurm/pending/ stands for an array, from just before its sbatch until the array is released or taken back.
The file has the name of the array's folder; JOB_NAME and this name make the job's name in SLURM. The file holds the
name of the cluster, since only that cluster's SLURM can be asked about the array.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from experiments.errors import UserError
from experiments.launchers.slurm import queue
from experiments.launchers.slurm.run_job import ARRAYS, JOB_NAME, cluster_name, run_job
from experiments.store.events import Event, State
from experiments.store.files import write_atomically
from experiments.store.rundir import RunDir

FORGOTTEN_SECONDS = 3600.0  # after this time, an sbatch that was sent has arrived or never will
CAUSE = "the submission was not completed"


@contextlib.contextmanager
def one_at_a_time(runs_dir: Path, wait: bool = True) -> Iterator[None]:
    """Let only one launcher at a time submit into a runs folder. Without `wait`: BlockingIOError if another does."""
    folder = runs_dir / ARRAYS
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def begin(folder: Path) -> None:
    """Note that the array of this folder is about to be submitted to this cluster."""
    notes = folder.parent / "pending"
    notes.mkdir(exist_ok=True)
    write_atomically(notes / folder.name, cluster_name())


def complete(folder: Path) -> None:
    """Note that the array of this folder is released or cancelled."""
    (folder.parent / "pending" / folder.name).unlink(missing_ok=True)


def take_back(runs_dirs: Collection[Path], seconds: float = 5.0) -> bool:
    """Cancel held arrays that dead launchers left in these runs folders; return whether a launcher is submitting now.

    The runs of these arrays are recorded as cancelled: none has started. SLURM is asked only if there may be such an
    array, for at most `seconds`. Raises SlurmError.
    """
    deadline = time.monotonic() + seconds
    busy = False
    for runs_dir in runs_dirs:
        if not pending(runs_dir):
            continue
        try:
            with one_at_a_time(runs_dir, wait=False):
                _take_back(runs_dir, deadline - time.monotonic())
        except BlockingIOError:
            busy = True
        except PermissionError:  # somebody else's runs
            continue
    return busy


def pending(runs_dir: Path) -> list[Path]:
    """Return the notes of arrays that were begun and not completed, sorted."""
    try:
        return sorted(file for file in (runs_dir / ARRAYS / "pending").iterdir() if not file.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _take_back(runs_dir: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    own = ("", cluster_name(seconds))  # an earlier version wrote no name
    found = [file for file in pending(runs_dir) if file.read_text() in own]
    known = queue.named([f"{JOB_NAME}{file.name}" for file in found], deadline - time.monotonic()) if found else {}
    for file in found:
        folder = runs_dir / ARRAYS / file.name
        tasks = known.get(f"{JOB_NAME}{file.name}", [])
        held = [task for task in tasks if task.held]
        if not tasks and time.time() - file.stat().st_mtime < FORGOTTEN_SECONDS:
            continue
        if held and len(held) == len(tasks):  # otherwise the array was released
            queue.cancel({task.id.split("_")[0] for task in held}, deadline - time.monotonic())
            cancel_runs(folder)
        complete(folder)


def cancel_runs(folder: Path) -> None:
    """Record as cancelled the runs that wait for the array of this folder."""
    for path in (folder / "runs.txt").read_text().splitlines():
        run = RunDir(Path(path))
        with contextlib.suppress(UserError, OSError):
            last = run_job(run.events())
            if run.state() == State.QUEUED and last is not None and last.name == f"{JOB_NAME}{folder.name}":
                run.record(Event.CANCELLED, cause=CAUSE)
