"""Have a run whose job was cut short by its time limit go on: in the same job, or in a new one."""

from __future__ import annotations

import time

from experiments.errors import INTERRUPTED
from experiments.launchers.slurm import queue
from experiments.launchers.slurm.commands import LATE_SECONDS, SlurmError, answer_is_lost, call
from experiments.launchers.slurm.run_job import JOB_NAME, RunJob
from experiments.launchers.slurm.signals import Signals
from experiments.store.events import Event
from experiments.store.rundir import RunDir
from experiments.variables import own_job, own_job_id

POLL_SECONDS = 0.2
REQUEUE_SECONDS = 60.0  # how long SLURM may take to end a job that it was told to requeue


def go_on(run: RunDir, steps: int, start: int, requeue: bool, signals: Signals) -> int:
    """Have a run that was cut short queued again; return this job's exit code.

    With `requeue` this job is requeued. Otherwise, or if SLURM refuses that, a new job follows this one. `start`: the
    step from which this job's attempt started.
    """
    step = run.checkpoint_step()
    if step <= start:  # without progress, it would be queued again for ever
        run.record(
            Event.FAILED,
            kind="time limit",
            cause=f"no checkpoint was written after step {start} within the time limit",
            remedy="raise hydra.launcher.time or hydra.launcher.warning_seconds, or lower trainer.save_freq",
        )
        return 1
    own = own_job_id() or ""  # not SLURM_JOB_ID: in an array's last task, that is the id of the whole array
    submitted = {"launcher": "slurm", "steps": steps, "step": step, "log_bytes": queue.log_bytes(run.path)}
    if requeue:
        run.record(Event.SUBMITTED, job=own, cause="requeued after the warning", **submitted)
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
        job = call("sbatch", "--parsable", after, run.path / "job.sh").strip().split(";")[0]
    except SlurmError as error:
        job = _follower(run) or ""
        if not job:
            run.record(Event.FAILED, kind="time limit", cause=f"no job could follow: {error}", remedy="launch it again")
            return 1
    named = {"cluster": own_job().get("cluster"), "job_name": f"{JOB_NAME}{run.id}"}
    run.record(Event.SUBMITTED, job=job, **named, cause="goes on in a job of its own", **submitted)
    return 0


def _ends(own: str, signals: Signals) -> bool:
    """Return whether SLURM ends this job within a while: it did requeue the job, and only its answer was lost."""
    deadline = time.monotonic() + LATE_SECONDS
    while not signals.terminated and time.monotonic() < deadline:
        try:
            now = queue.ask([RunJob(own)]).of(RunJob(own))
        except SlurmError:
            now = None
        if now is not None and now.state != "RUNNING":
            return True
        time.sleep(POLL_SECONDS)
    return bool(signals.terminated)


def _follower(run: RunDir) -> str | None:
    """Return the id of the job that waits for this one's end: SLURM has it, and only sbatch's answer was lost."""
    name = f"{JOB_NAME}{run.id}"
    try:
        waiting = [job.id for job in queue.named([name]).get(name, []) if job.reason == "Dependency"]
    except SlurmError:
        return None
    return waiting[-1] if waiting else None
