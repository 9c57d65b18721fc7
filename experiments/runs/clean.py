"""`clean`: delete the checkpoints of finished runs to free the disk; records, logs and samples stay."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.errors import UserError
from experiments.store.events import Event, State
from experiments.store.rundir import AlreadyRunning, RunDir
from experiments.terminal import size

DELETED = ".checkpoints-deleted"  # a deletion that is cut short must leave nothing that looks like a checkpoint


def clean(runs: Sequence[RunDir], named: bool, yes: bool) -> int:
    """Delete the checkpoints of finished runs once the user agrees; return the exit code.

    Args:
        named: whether the user named the runs. If so, a run that has not finished is a mistake; else it is passed over.
        yes: whether the user has already agreed.
    """
    unfinished = [run for run in runs if run.state() != State.FINISHED]
    if named and unfinished:
        raise UserError(
            *(
                f"{run.path.name} must be finished to be cleaned, but is {run.state()}; leave it out"
                for run in unfinished
            )
        )
    sizes = {run: bytes_ for run in runs if run not in unfinished and (bytes_ := _checkpoint_bytes(run))}
    if not sizes:
        print("no finished run has checkpoints: there is nothing to free")
        return 0
    for run, bytes_ in sizes.items():
        print(f"{size(bytes_):>9}  {run.path.name}")
    print(f"{size(sum(sizes.values())):>9}  in all. Without its checkpoints a run can't be extended to more steps.")
    if not yes and not _agreed():
        print("nothing was deleted")
        return 0
    freed = sum(_delete(run, bytes_) for run, bytes_ in sizes.items())
    print(f"freed {size(freed)}")
    return 0


def size_on_disk(folder: Path) -> int:
    """Return the bytes that the files below a folder take on the disk, 0 if there is no such folder."""
    return sum((Path(parent) / name).lstat().st_blocks * 512 for parent, _, names in os.walk(folder) for name in names)


def _checkpoint_bytes(run: RunDir) -> int:
    return sum(map(size_on_disk, [run.path / DELETED, *run.checkpoints.glob("global_step_*")]))


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UserError("clean asks before it deletes, but there is no terminal to ask on; give --yes")
    return input("delete them? [y/N] ").strip().lower() in ("y", "yes")


def _delete(run: RunDir, bytes_: int) -> int:
    """Delete a run's checkpoints, unless the run has been started again; return the bytes that were freed.

    veRL's pointer to the last step stays, so that a plan still shows the run as done.
    """
    trash = run.path / DELETED
    try:
        with run.unwanted(), run.lock():
            if run.state() != State.FINISHED:
                raise AlreadyRunning
            trash.mkdir(exist_ok=True)
            for folder in run.checkpoints.glob("global_step_*"):
                folder.rename(trash / folder.name)
            run.record(Event.CLEANED, bytes=bytes_)
            shutil.rmtree(trash)
    except AlreadyRunning:
        print(f"{run.path.name}: left alone, it has been started again or is about to be")
        return 0
    return bytes_
