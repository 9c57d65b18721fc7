"""`export`: a checkpoint of a run as an ordinary Hugging Face folder, to load elsewhere."""

from __future__ import annotations

from pathlib import Path

from experiments.errors import UserError
from experiments.runs.chosen_step import BASE, chosen_step
from experiments.store.rundir import RunDir
from experiments.terminal import printable
from experiments.values import at


def export(run: RunDir, folder: Path, asked: int | None) -> int:
    """Write the model of the step `asked` for, or of the newest checkpoint, to `folder`; return the exit code.

    UserError if the folder is not empty, or there is no such checkpoint.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        is_there = "not empty" if folder.is_dir() else "a file"
        raise UserError(f"DIR must be a new or empty folder, but {folder} is {is_there}; name another one")
    if asked == BASE:
        path = at(run.load_config(), "model.path")
        raise UserError(f"--step must be a checkpoint's, but is 0: the base model is a folder already; take {path}")
    step = chosen_step(run, asked, base=False)
    with run.wanted():  # `clean` must not delete the checkpoint meanwhile
        print(printable(f"{run.path.name}: merging the checkpoint of step {step}"), flush=True)
        from experiments.trained.export import export as write

        write(run, step, folder)
    print(f"wrote {folder}")
    return 0
