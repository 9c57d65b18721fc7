"""Have runs whose job was cut short by its time limit go on: in the same job, or in a new one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.errors import INTERRUPTED
from experiments.launchers.slurm import queue
from experiments.launchers.slurm.commands import LATE_SECONDS, SlurmError, answer_is_lost, call
from experiments.launchers.slurm.groups import log_marks
from experiments.launchers.slurm.run_job import RunJob
from experiments.launchers.slurm.signals import Signals
from experiments.store.events import Event
from experiments.store.rundir import RunDir
from experiments.variables import own_job, own_job_id

POLL_SECONDS = 0.2
REQUEUE_SECONDS = 60.0  # how long SLURM may take to end a job that it was told to requeue


@dataclass(frozen=True)
class NextJob:
    """The job that follows where this one can't be requeued."""

    script: Path
    name: str
    """Its name in SLURM."""
    task: int | None = None
    """Which task of the script's array it is; None for a script of a plain job."""


def got_further(run: RunDir, start: int) -> bool:
    """Return whether a run that was cut short has a checkpoint after step `start`; record its failure if not.

    Without progress, it would be queued again for ever.
    """
    if run.checkpoint_step() > start:
        return True
    run.record(
        Event.FAILED,
        kind="time limit",
        cause=f"no checkpoint was written after step {start} within the time limit",
        remedy="raise hydra.launcher.time or hydra.launcher.warning_seconds, or lower trainer.save_freq",
    )
    return False


def go_on(runs: Mapping[RunDir, int], next_job: NextJob, requeue: bool, signals: Signals) -> int:
    """Have the runs of this job that were cut short queued again; return this job's exit code.

    With `requeue` this job is requeued. Otherwise, or if SLURM refuses that, the next job follows this one. `runs`:
    each with the step that it is to reach.
    """
    own = own_job_id() or ""  # not SLURM_JOB_ID: in an array's last task, that is the id of the whole array
    if requeue:
        _record(runs, RunJob(own, name=next_job.name), "requeued after the warning")
        if signals.terminated:  # the job was cancelled in the meantime: a requeue would undo that
            return INTERRUPTED
        try:
            call("scontrol", "requeue", own)
            deadline = time.monotonic() + REQUEUE_SECONDS  # SLURM ends this process
            while not signals.terminated and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            return INTERRUPTED
        except SlurmError as error:
            print(f"requeueing was refused: {error}", flush=True)
            if answer_is_lost(error) and _ends(own, signals):
                return INTERRUPTED
    if signals.terminated:
        return INTERRUPTED
    try:
        # The new job depends on this one: it must not start before its id is on the disk.
        after = f"--dependency=afterany:{own}"
        tasks = [] if next_job.task is None else [f"--array={next_job.task}"]
        job = call("sbatch", "--parsable", after, *tasks, next_job.script).strip().split(";")[0]
        job += "" if next_job.task is None else f"_{next_job.task}"
    except SlurmError as error:
        job = _waiting(next_job) or ""
        if not job:
            for run in runs:
                why = f"no job could follow: {error}"
                run.record(Event.FAILED, kind="time limit", cause=why, remedy="launch it again")
            return 1
    named = {"cluster": own_job().get("cluster"), "job_name": next_job.name}
    _record(runs, RunJob(job, name=next_job.name), "goes on in a job of its own", **named)
    return 0


def _record(runs: Mapping[RunDir, int], job: RunJob, cause: str, **named: str | None) -> None:
    for run, steps in runs.items():
        where = {"launcher": "slurm", "steps": steps, "step": run.checkpoint_step(), **log_marks(run, job)}
        run.record(Event.SUBMITTED, job=job.id, **named, cause=cause, **where)


def _ends(own: str, signals: Signals) -> bool:
    """Return whether SLURM ends this job within a while: it did requeue the job, and only its answer was lost."""
    deadline = time.monotonic() + LATE_SECONDS
    while not signals.terminated and time.monotonic() < deadline:
        if queue.takes_away(RunJob(own)):
            return True
        time.sleep(POLL_SECONDS)
    return bool(signals.terminated)


def _waiting(next_job: NextJob) -> str | None:
    """Return the id of the job that waits for this one's end: SLURM has it, and only sbatch's answer was lost."""
    try:
        known = queue.named([next_job.name]).get(next_job.name, [])
    except SlurmError:
        return None
    ids = [job.id for job in known if job.reason == "Dependency"]
    return next((id for id in reversed(ids) if next_job.task is None or id.endswith(f"_{next_job.task}")), None)
