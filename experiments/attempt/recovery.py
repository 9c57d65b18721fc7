"""Repair what a killed attempt left half done, before the next attempt starts."""

from __future__ import annotations

import json
import shutil

from experiments.store import checkpoints
from experiments.store.files import append_line, read_jsonl, write_atomically
from experiments.store.rundir import NOTED_ROW, RunDir


def repair_checkpoints(run: RunDir) -> None:
    """Make veRL's pointer name a complete checkpoint, and delete the torn checkpoints that a kill left.

    veRL writes data.pt last, and then the pointer in place. So a kill leaves a torn data.pt or an empty pointer.
    """
    pointer, step = run.checkpoints / checkpoints.POINTER, run.checkpoint_step()
    if step not in checkpoints.complete(run.checkpoints):
        step = checkpoints.newest_whole(run.checkpoints)
    if step:
        write_atomically(pointer, str(step))
    else:
        pointer.unlink(missing_ok=True)
    for folder in run.checkpoints.glob("global_step_*"):
        if int(folder.name.removeprefix("global_step_")) > step:
            shutil.rmtree(folder)


def restore_row(run: RunDir) -> None:
    """Append to metrics.jsonl the row of a step if a kill came after the step's checkpoint and before its row.

    verl_plugin/lifecycle/stopping.py notes the row with the checkpoint.
    """
    for attempt in reversed(run.attempts()):
        try:
            noted = (attempt.path / NOTED_ROW).read_text()
        except FileNotFoundError:
            continue
        step = json.loads(noted)["step"]
        rows = read_jsonl(attempt.metrics)[0]
        trained = {row["step"] for row in rows if "training/global_step" in row.get("data", {})}
        if step not in trained and step <= run.checkpoint_step():
            append_line(attempt.metrics, noted)
        return
