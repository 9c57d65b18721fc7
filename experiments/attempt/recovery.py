"""What a killed attempt left half done, put in order before the next one starts."""

from __future__ import annotations

import json
import shutil
import zipfile

from experiments.store.files import append_line, read_jsonl, write_atomically
from experiments.store.rundir import NOTED_ROW, RunDir


def repair_checkpoints(run: RunDir) -> None:
    """Make veRL's pointer name a complete checkpoint, and drop the torn ones that a kill left.

    veRL writes data.pt last and then the pointer, in place: a kill leaves data.pt torn, or after it an empty pointer.
    """
    complete = {
        int(folder.name.removeprefix("global_step_")): folder
        for folder in run.checkpoints.glob("global_step_*")
        if (folder / "data.pt").is_file() and (folder / "actor").is_dir()
    }
    pointer = run.checkpoints / "latest_checkpointed_iteration.txt"
    step = run.checkpoint_step()
    if step not in complete:  # nothing vouches for them; torch writes zip files, whose end says that they are whole
        step = max((n for n, folder in complete.items() if zipfile.is_zipfile(folder / "data.pt")), default=0)
        if step:
            write_atomically(pointer, str(step))
        else:
            pointer.unlink(missing_ok=True)
    for folder in run.checkpoints.glob("global_step_*"):
        if int(folder.name.removeprefix("global_step_")) > step:
            shutil.rmtree(folder)


def restore_row(run: RunDir) -> None:
    """Append the row that a kill between a checkpoint and its step's row kept from metrics.jsonl; see stopping.py."""
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
