"""`cancel`: end a run that is running, or one that still waits for its start."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from experiments.errors import UserError
from experiments.launchers.slurm import queue
from experiments.launchers.slurm.commands import SlurmError
from experiments.launchers.slurm.queue import job_of
from experiments.processes import reaping
from experiments.store.events import TERMINAL, Event, State
from experiments.store.rundir import RunDir

PATIENCE_SECONDS = 20.0  # how long an attempt on this machine may take to end by itself
JOB_PATIENCE_SECONDS = 45.0  # how long one in a job may take: SLURM kills it after KillWait, usually 30 s
WAITING = (Event.PLANNED, Event.LAUNCHED, Event.SUBMITTED)  # events after which a run waits for its start


def cancel(runs: Sequence[RunDir]) -> int:
    """Cancel the runs; return the exit code.

    UserError, and no run is cancelled, if one neither runs nor waits, or runs on another machine without a job.
    """
    problems = [problem for run in runs if (problem := _problem(run, run.events()))]
    if problems:
        raise UserError(*problems)
    submitted = {run: job for run in runs if (job := job_of(run.events())) is not None}
    if submitted:
        _cancel_jobs(list(submitted.values()))
    deadline = time.monotonic() + JOB_PATIENCE_SECONDS
    for run in runs:
        if run in submitted:
            while run.is_locked() and time.monotonic() < deadline:  # the attempt records its end before we do
                time.sleep(0.1)
        elif run.is_locked():
            _end(run)
        run.record(Event.CANCELLED)
        print(f"{run.path.name}: cancelled")
    return 0


def _problem(run: RunDir, events: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why a run can't be cancelled, None if it can."""
    state = run.state(events)
    words = [event.get("event") for event in events if event.get("event") in (*WAITING, Event.STARTED, *TERMINAL)]
    if state != State.RUNNING:
        if not words or words[-1] in WAITING:
            return None
        return f"{run.path.name} must be running or waiting to be cancelled, but is {state}; there is nothing to cancel"
    if job_of(events) is not None:
        return None
    started = next(event for event in reversed(events) if event.get("event") == Event.STARTED)
    if started.get("host") != socket.gethostname():
        return f"{run.path.name} must be cancelled where it runs, which is {started.get('host')}; do it there"
    return None


def _end(run: RunDir) -> None:
    """End the living attempt on this machine: ask it first, so that it records its end; kill after PATIENCE_SECONDS."""
    started = next(event for event in reversed(run.events()) if event.get("event") == Event.STARTED)
    holder = _holder(run, started.get("pid"))
    if holder is None:
        problem = f"{run.path.name} must be run by process {started.get('pid')}, but that is another process"
        raise UserError(f"{problem}; end it by hand, then cancel again")
    holder.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while run.is_locked() and time.monotonic() < deadline:
        time.sleep(0.05)
    if run.is_locked():
        with contextlib.suppress(psutil.NoSuchProcess):
            holder.kill()
            holder.wait(PATIENCE_SECONDS)
        reaping.reap(run.path)


def _holder(run: RunDir, pid: Any) -> psutil.Process | None:
    """Return the process `pid` if it is the attempt, which has the run's lock open; None if it is gone or another."""
    with contextlib.suppress(psutil.Error, OSError, TypeError, ValueError):
        process = psutil.Process(pid)
        lock = os.stat(run.path / "lock")
        if any(os.path.samestat(os.stat(file.path), lock) for file in process.open_files()):
            return process
    return None


def _cancel_jobs(ids: Sequence[str]) -> None:
    try:
        queue.cancel(ids)
    except SlurmError as error:
        raise UserError(f"SLURM must take job {', '.join(ids)} back, but says: {error}") from None
