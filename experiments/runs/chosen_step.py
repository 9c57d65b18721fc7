"""Which checkpoint of a run a command means: --step N, or the newest."""

from __future__ import annotations

from experiments.errors import UserError
from experiments.store import checkpoints
from experiments.store.events import Event
from experiments.store.rundir import RunDir

BASE = 0  # the step before all training: the base model


def chosen_step(run: RunDir, asked: int | None, base: bool = True) -> int:
    """Return the step whose checkpoint is meant: the one `asked` for, else the newest complete one.

    `base`: whether step 0, the base model, may be meant. UserError, which names the checkpoints that there are, if
    there is no such checkpoint.
    """
    there = sorted(checkpoints.complete(run.checkpoints))
    if base and asked == BASE:
        return BASE
    if asked is None and there:
        newest = checkpoints.newest(run.checkpoints)
        return newest if newest in there else there[-1]
    if asked in there:
        return asked
    or_base = "give --step 0 for the base model, or " if base else ""
    if not there:
        cleaned = any(event["event"] == Event.CLEANED for event in run.events())
        why = "has none: they were deleted by clean" if cleaned else "has none yet"
        do = "repeat the run in another runs_dir" if cleaned else "let it train until it saves one (trainer.save_freq)"
        raise UserError(f"{run.path.name} must have a checkpoint, but {why}; {or_base}{do}")
    known = ", ".join(map(str, there))
    if base:
        known += ", or 0 for the base model"
    raise UserError(
        f"--step must be a step whose checkpoint {run.path.name} still has, but is {asked}; there are: {known}"
    )
