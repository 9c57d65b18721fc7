"""What a job that SLURM has requeued and restarted finds of its former life: its run's processes, or another owner."""

from __future__ import annotations

import os
import time

from experiments.launchers.slurm.run_job import own_run_job, run_job
from experiments.processes import reaping
from experiments.store.events import Event
from experiments.store.rundir import RunDir

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 600.0  # how long to wait for processes that this job started before SLURM requeued it


def _was_requeued() -> bool:
    """Return whether SLURM has requeued and restarted this job."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def is_restarted(run: RunDir) -> bool:
    """Return whether SLURM has requeued and restarted this job, and the run belongs to it."""
    own = own_run_job()
    return _was_requeued() and own is not None and own.is_same(run_job(run.events()))


def given_away(run: RunDir) -> str | None:
    """Return in words what the run was given to while this job, which had it before, waited to be restarted."""
    own, events = own_run_job(), run.events()
    if own is None or not _was_requeued():
        return None
    had = any(own.is_same(run_job([event])) for event in events if event["event"] in (Event.SUBMITTED, Event.STARTED))
    now = run_job(events)
    if not had or own.is_same(now):
        return None
    return str(now) if now else "a launcher that trains it without SLURM"


def outlives(run: RunDir) -> bool:
    """End the processes that this job left running before it was requeued; return whether the run is free then.

    A node that lost contact keeps a job's processes while SLURM queues the job again. Processes on another node are
    waited for: the node's slurmd ends them when it is back, and the lock of a dead node is released after a time.
    """
    reaping.reap(run.path)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while run.is_locked() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    time.sleep(5 * POLL_SECONDS)  # the former in_job records the attempt's end first
    return not run.is_locked()
