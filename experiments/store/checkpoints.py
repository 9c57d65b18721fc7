"""Which checkpoints of a run are complete, and which one an attempt goes on from.

veRL 0.9.1 writes the weights of step n to global_step_<n>/actor (and critic), then data.pt, and then the number into
latest_checkpointed_iteration.txt, its pointer.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

POINTER = "latest_checkpointed_iteration.txt"


def newest(checkpoints: Path) -> int:
    """Return the step of the checkpoint to go on from, 0 without one.

    It is the pointer's, if that checkpoint is there; else the newest complete one, since the pointer may be torn, or
    somebody may have deleted the checkpoint that it names.
    """
    try:
        step = int((checkpoints / POINTER).read_text())
    except (OSError, ValueError):
        step = 0
    return step if step and folder(checkpoints, step).is_dir() else newest_whole(checkpoints)


def newest_whole(checkpoints: Path) -> int:
    """Return the step of the newest complete checkpoint whose data.pt is whole, 0 without one."""
    # torch writes zip files, and only a whole one has a zip file's end.
    whole = (step for step, path in complete(checkpoints).items() if zipfile.is_zipfile(path / "data.pt"))
    return max(whole, default=0)


def complete(checkpoints: Path) -> dict[int, Path]:
    """Return, by step, the folders that have weights and a data.pt, which is written last and may be torn."""
    return {
        int(number): path
        for path in checkpoints.glob("global_step_*")
        if (number := path.name.removeprefix("global_step_")).isdecimal()
        and (path / "data.pt").is_file()
        and (path / "actor").is_dir()
    }


def folder(checkpoints: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return checkpoints / f"global_step_{step}"
