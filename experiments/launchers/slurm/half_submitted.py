"""Take back submissions whose launcher was killed half-way: their jobs are held, and nobody would release them.

A file in .slurm/pending/ stands for an array, from just before its sbatch until the array is released or taken back.
The file has the name of the array's folder; JOB_NAME and this name make the job's name in SLURM.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from experiments.errors import UserError
from experiments.launchers.slurm import queue
from experiments.store.events import Event, State
from experiments.store.files import write_atomically
from experiments.store.rundir import RunDir

FOLDER = ".slurm"  # in runs_dir; it holds a folder for each array
JOB_NAME = "r1z-"
FORGOTTEN_SECONDS = 3600.0  # after this time, an sbatch that was sent has arrived or never will
CAUSE = "the submission was not completed"


@contextlib.contextmanager
def one_at_a_time(runs_dir: Path, wait: bool = True) -> Iterator[None]:
    """Let only one launcher at a time submit into a runs folder. Without `wait`: BlockingIOError if another does."""
    folder = runs_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def begin(folder: Path) -> None:
    """Note that the array of this folder is about to be submitted."""
    notes = folder.parent / "pending"
    notes.mkdir(exist_ok=True)
    write_atomically(notes / folder.name, "")


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
        return sorted(file for file in (runs_dir / FOLDER / "pending").iterdir() if not file.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _take_back(runs_dir: Path, seconds: float) -> None:
    found = pending(runs_dir)
    deadline = time.monotonic() + seconds
    known = queue.named([f"{JOB_NAME}{file.name}" for file in found], seconds)
    for file in found:
        folder = runs_dir / FOLDER / file.name
        tasks = known.get(f"{JOB_NAME}{file.name}", [])
        held = [task for task in tasks if task.held]
        if not tasks and time.time() - file.stat().st_mtime < FORGOTTEN_SECONDS:
            continue
        if held and len(held) == len(tasks):  # otherwise the array was released
            arrays = {task.id.split("_")[0] for task in held}
            queue.cancel(arrays, deadline - time.monotonic())
            cancel_runs(folder, arrays)
        complete(folder)


def cancel_runs(folder: Path, arrays: Collection[str]) -> None:
    """Record as cancelled the runs in an array's folder that wait for one of these arrays (SLURM job ids)."""
    for path in (folder / "runs.txt").read_text().splitlines():
        run = RunDir(Path(path))
        with contextlib.suppress(UserError, OSError):
            last = queue.job_of(run.events()) or ""
            if run.state() == State.QUEUED and last.split("_")[0] in arrays:
                run.record(Event.CANCELLED, cause=CAUSE)
